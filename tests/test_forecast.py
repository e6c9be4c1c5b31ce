"""Forecasts: bounds recomputed by hand, memory, the rules a graph breaks, versions and flags, and the screens that show them."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import pytest
import runtime_models
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from test_forecast_sizes import loop_model
from typer.testing import CliRunner

import edgeseq_runtime
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.cli.plan import _scaled
from edgeseq_runtime.device_facts import Gpu, Int8, Memory, Peak
from edgeseq_runtime.errors import DeviceError, ProviderError, UsageError
from edgeseq_runtime.forecast.axes import AxisRange, axis_ranges, value_ranges
from edgeseq_runtime.forecast.cuda_rules import cuda_fallbacks
from edgeseq_runtime.forecast.roofline import bound_of
from edgeseq_runtime.forecast.sizes import sized_graph
from edgeseq_runtime.forecast.software import STRONG, WEAK, typing_of
from edgeseq_runtime.forecast.tensorrt_rules import tensorrt_findings
from edgeseq_runtime.forecast.work import Work, work_of
from edgeseq_runtime.interface import Interface
from edgeseq_runtime.onnx_wire import read_model
from edgeseq_runtime.provider_needs import missing_for_engines
from edgeseq_runtime.provider_options import engine_options
from edgeseq_runtime.tensors import TensorSpec

K, H = 3, 8  # of runtime_models.lstm
WEIGHTS = 4 * H * K + 4 * H * H + 8 * H  # W, R and both biases
ONE = ({"T": 3, "B": 1},)


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    path = runtime_models.lstm().write(tmp_path_factory.mktemp("m") / "lstm.edgeseq", ONE, draws=1, hazards=("rule: text",))
    return edgeseq_runtime.open_bundle(path)


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    path = runtime_models.gru(lengths=True).write(tmp_path_factory.mktemp("m") / "gru.edgeseq", ONE, draws=1)
    return edgeseq_runtime.open_bundle(path)


def board(**changes):
    """A device with round figures: 10 GB/s, 1 TFLOPS, a cache of 1 kB."""
    figures = {
        "memory": Memory(gb=1, bandwidth_gb_s=10, source="made up"),
        "peak": Peak(fp32_tflops=1, fp16_tflops=4, source="made up"),
        "gpu": Gpu(l2_mb=0.001, source="made up"),
        "int8": Int8(dense_tops=8, sparse_tops=16, source="made up"),
    }
    return msgspec.structs.replace(edgeseq_runtime.load_device("cuda"), name="made-up", **(figures | changes))


def bounds(forecast, mode):
    return {bound.precision: bound for bound in forecast.bounds if bound.mode == mode}


def test_the_bounds_of_a_step_by_hand(lstm):
    B = 2
    forecast = edgeseq_runtime.make_forecast(lstm, board(), axes=["B=2"])
    found = bounds(forecast, "step")
    inputs, outputs = B * K + 2 * B * H, B * H + 2 * B * H
    for precision, width in (("fp32", 4), ("fp16", 2), ("int8", 1)):
        bound = found[precision]
        assert bound.sizes == {"T": 1, "B": B}
        assert bound.operations == 2 * B * 4 * H * (K + H)
        assert bound.weight_bytes == WEIGHTS * width
        assert bound.traffic_bytes == WEIGHTS * width + 4 * (inputs + outputs)
        assert bound.least_bytes == max(0, WEIGHTS * width - 1000) + 4 * (inputs + outputs)
        assert bound.streaming_seconds == pytest.approx(bound.traffic_bytes / 10e9)
        assert bound.memory_seconds == pytest.approx(bound.least_bytes / 10e9)
    assert found["fp32"].compute_seconds == pytest.approx(found["fp32"].operations / 1e12)
    assert found["fp16"].compute_seconds == pytest.approx(found["fp16"].operations / 4e12)
    assert found["int8"].compute_seconds == pytest.approx(found["int8"].operations / 16e12)
    assert {bound.limit for bound in found.values()} == {"memory"}
    assert found["fp32"].seconds == found["fp32"].memory_seconds


def test_the_bounds_of_a_sequence_by_hand(lstm):
    T, B = 50, 1
    found = bounds(edgeseq_runtime.make_forecast(lstm, board(), axes=["T=1:50:60"]), "sequence")["fp32"]
    data = 4 * (T * B * K + 2 * B * H + T * B * H + 2 * B * H)
    recurrent = 4 * 4 * H * H
    once = 4 * WEIGHTS
    assert found.sizes == {"T": T, "B": B}
    assert found.operations == T * 2 * B * 4 * H * (K + H)
    assert found.traffic_bytes == data + once + (T - 1) * recurrent
    assert found.least_bytes == data + (once - 1000) + (T - 1) * (recurrent - 1000)
    roomy = board(gpu=Gpu(l2_mb=1, source="made up"))
    assert bounds(edgeseq_runtime.make_forecast(lstm, roomy, axes=["T=1:50:60"]), "sequence")["fp32"].least_bytes == data


def test_a_peak_that_tensor_cores_may_exceed_is_no_bound(lstm):
    slow = {"memory": Memory(gb=1, bandwidth_gb_s=1e9, source="made up")}  # all that counts is computing
    plain = bounds(edgeseq_runtime.make_forecast(lstm, board(**slow)), "step")
    tensor = bounds(edgeseq_runtime.make_forecast(lstm, board(**slow, gpu=Gpu(tensor_cores=4, source="made up"))), "step")
    assert (plain["fp16"].limit, tensor["fp16"].limit) == ("compute", "memory")
    assert (plain["fp16"].peak_is_limit, tensor["fp16"].peak_is_limit) == (True, False)
    assert tensor["fp16"].compute_seconds == plain["fp16"].compute_seconds
    assert tensor["fp16"].seconds == tensor["fp16"].memory_seconds
    assert tensor["fp32"].limit == "compute"


def test_what_the_profile_lacks_bounds_nothing(lstm):
    found = edgeseq_runtime.make_forecast(lstm, "cpu-x86_64", rate=10)
    assert {(bound.seconds, bound.memory_seconds, bound.compute_seconds) for bound in found.bounds} == {(None, None, None)}
    assert {bound.limit for bound in found.bounds} == {"no bandwidth and no peak in the profile"}
    assert {found.busy_share(bound) for bound in found.bounds} == {None}
    assert (found.memory.device, found.memory.fits) == (None, None)
    computing = bounds(edgeseq_runtime.make_forecast(lstm, board(memory=None)), "step")["fp32"]
    assert (computing.limit, computing.seconds) == ("compute", computing.compute_seconds)


def test_the_share_of_real_time(lstm):
    forecast = edgeseq_runtime.make_forecast(lstm, board(), axes=["T=1:50:60"], rate=100)
    step, sequence = bounds(forecast, "step")["fp32"], bounds(forecast, "sequence")["fp32"]
    assert forecast.busy_share(step) == pytest.approx(100 * step.seconds)
    assert forecast.busy_share(sequence) == pytest.approx(2 * sequence.seconds)
    assert edgeseq_runtime.make_forecast(lstm, board()).busy_share(step) is None
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="the rate is"):
            edgeseq_runtime.make_forecast(lstm, board(), rate=rate)


def test_memory_by_hand(lstm):
    T, B = 6, 4
    need = edgeseq_runtime.make_forecast(lstm, "jetson-orin-nano-8gb", axes=["T=1:2:6", "B=1:1:4"]).memory
    assert need.sizes == {"T": T, "B": B}
    assert need.weights == 4 * WEIGHTS
    assert need.states == 2 * (2 * 4 * B * H)
    # When the node has run, x, h, c, Y (T, 1, B, H) and the last states are alive; when Y has been squeezed, Y, y and those.
    assert need.activations == 4 * max(T * B * K + 2 * B * H + T * B * H + 2 * B * H, 2 * T * B * H + 2 * B * H)
    assert need.workspace == 8_000_000_000 // 8
    assert need.total == need.weights + need.states + need.activations + need.workspace
    assert need.fits
    assert edgeseq_runtime.make_forecast(lstm, "h100-sxm5-80gb", backend="tensorrt").memory.workspace == 1 << 30
    cuda = edgeseq_runtime.make_forecast(lstm, "rtx-4090").memory
    assert (cuda.workspace, cuda.device) == (None, 24_000_000_000)
    small = board(memory=Memory(gb=1e-6, source="made up"))
    assert edgeseq_runtime.make_forecast(lstm, small).memory.fits is False


@settings(max_examples=25, deadline=None)
@given(T=st.integers(1, 200), B=st.integers(1, 16))
def test_a_forecast_grows_with_time_and_batch_and_shrinks_with_precision(T, B, lstm):
    device = board()

    def at(t, b):
        return edgeseq_runtime.make_forecast(lstm, device, axes=[f"T={t}", f"B={b}"])

    here = at(T, B)
    for other in (at(T + 1, B), at(T, B + 1)):
        assert other.memory.total > here.memory.total
        for one, more in zip(bounds(here, "sequence").values(), bounds(other, "sequence").values(), strict=True):
            assert more.operations > one.operations
            assert more.traffic_bytes > one.traffic_bytes
            assert more.seconds > one.seconds
    assert bounds(at(T + 1, B), "step") == bounds(here, "step")
    wide, half, byte = bounds(here, "sequence").values()
    assert wide.weight_bytes == 2 * half.weight_bytes == 4 * byte.weight_bytes
    assert wide.traffic_bytes > half.traffic_bytes > byte.traffic_bytes
    assert wide.least_bytes >= half.least_bytes >= byte.least_bytes
    for bound in here.bounds:
        assert bound.least_bytes <= bound.traffic_bytes


def test_weights_that_are_narrow_already_are_not_widened():
    work = Work(0, {}, {}, frozenset(), 0, 0, 0, {}, 0, 0)
    weights = {edgeseq_runtime.forecast.values.Weight(name, 10, dtype): 1 for name, dtype in (("a", "int8"), ("b", "float16"))}
    for precision, expected in (("fp32", 30), ("fp16", 30), ("int8", 20)):
        assert bound_of(work._replace(reads=weights), board(), "step", {}, precision).weight_bytes == expected


def test_rows_looked_up_scale_with_precision():
    table = edgeseq_runtime.forecast.values.Weight("table", 1000, "float32")
    work = Work(0, {}, {}, frozenset((table,)), 400, 7, 0, {}, 0, 0)
    found = [bound_of(work, board(), "step", {}, precision).traffic_bytes for precision in ("fp32", "fp16", "int8")]
    assert found == [407, 207, 107]


def test_ranges_of_axes():
    interface = Interface(
        (
            TensorSpec("x", "float32", ("T", "B", 3)),
            TensorSpec("m", "float32", ("S", "B", 2)),
            TensorSpec("n", "float32", ("T // 2",)),
        ),
        (),
        chunk=4,
    )
    assert {axis: str(one) for axis, one in axis_ranges(interface).items()} == {"T": "4:400:4000", "B": "1:1:8", "S": "1:100:1000"}
    given = axis_ranges(interface, ["T=4:8:12", "S=5"])
    assert (given["T"], given["S"], given["B"]) == (AxisRange(4, 8, 12), AxisRange(5, 5, 5), AxisRange(1, 1, 8))
    for text, match in {
        "T": "'T' is no range",
        "T=1:2": "is no range",
        "T=a:b:c": "is no range",
        "T=0:1:2": "must be 1 <= MIN",
        "B=3:2:4": "must be 1 <= MIN",
        "B=1:5:4": "must be 1 <= MIN",
        "Q=1:2:3": "has no axis 'Q'; its inputs have: T, B, S",
        "T=4:6:8": "takes multiples of 4",
    }.items():
        with pytest.raises(UsageError, match=match):
            axis_ranges(interface, [text])


def test_streams_have_a_profile_of_their_own(lstm, ragged):
    forecast = edgeseq_runtime.make_forecast(lstm, "rtx-4090")
    assert (str(forecast.ranges["T"]), str(forecast.step_ranges["T"]), str(forecast.step_ranges["B"])) == (
        "1:100:1000",
        "1",
        "1:1:8",
    )
    assert bounds(forecast, "step")["fp32"].sizes == {"T": 1, "B": 1}
    stateless = msgspec.structs.replace(ragged.manifest, state={})
    ragged_without = type(ragged)(ragged.path, stateless, ragged.member_sizes, ragged.sha256)
    forecast = edgeseq_runtime.make_forecast(ragged_without, "rtx-4090")
    assert forecast.step_ranges is None
    assert {bound.mode for bound in forecast.bounds} == {"sequence"}
    assert forecast.operations == {"GRU": 100 * 2 * 3 * H * (K + H)}


def edited(model, change):
    proto = onnx.load_from_string(model.onnx)
    change(proto)
    return read_model(proto.SerializeToString())


def attribute(op, **given):
    def change(proto):
        node = runtime_models.node_of(proto, op)
        kept = [one for one in node.attribute if one.name not in given]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in given.items())])

    return change


def peepholes(proto):
    node = runtime_models.node_of(proto, "LSTM")
    node.input.extend([""] * (7 - len(node.input)) + ["P"])
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3 * H), np.float32), "P"))


LSTM, GRU, RNN = runtime_models.lstm(), runtime_models.gru(), runtime_models.bidirectional_rnn()


@pytest.mark.parametrize(
    ("model", "change", "cause"),
    [
        (LSTM, attribute("LSTM", clip=3.0), "clip"),
        (LSTM, attribute("LSTM", activations=["Sigmoid", "Tanh", "Relu"]), "activations"),
        (LSTM, attribute("LSTM", activation_alpha=[0.1, 0.1, 0.1]), "activations"),
        (LSTM, attribute("LSTM", activation_beta=[0.1, 0.1, 0.1]), "activations"),
        (LSTM, attribute("LSTM", input_forget=1), "input_forget"),
        (LSTM, peepholes, "peepholes"),
        (GRU, attribute("GRU", linear_before_reset=0), "linear_before_reset"),
        (RNN, attribute("RNN", activations=["Relu", "Tanh"]), "activations"),
        (RNN, attribute("RNN", activations=["Tanh", "Relu"]), "activations"),
    ],
)
def test_the_cuda_provider_leaves_a_node_to_the_cpu(model, change, cause):
    usual = read_model(model.onnx)
    assert list(cuda_fallbacks(usual.graph, 20)) == []
    (finding,) = cuda_fallbacks(edited(model, change).graph, 20)
    assert (finding.rule, finding.kind) == (f"on the CPU: {cause}", "read")
    assert "RNNNeedFallbackToCPU" in finding.source
    assert finding.remedy


def test_the_default_of_linear_before_reset_is_left_to_the_cpu_too():
    def drop(proto):
        node = runtime_models.node_of(proto, "GRU")
        kept = [one for one in node.attribute if one.name != "linear_before_reset"]
        del node.attribute[:]
        node.attribute.extend(kept)

    assert [finding.rule for finding in cuda_fallbacks(edited(GRU, drop).graph, 20)] == ["on the CPU: linear_before_reset"]


def test_usual_activations_written_out_and_another_opset():
    written = edited(LSTM, attribute("LSTM", activations=["Sigmoid", "Tanh", "tanh"])).graph
    assert list(cuda_fallbacks(written, 21)) == []
    assert [finding.rule for finding in cuda_fallbacks(written, 22)] == ["on the CPU: opset"]
    node = helper.make_node("DynamicQuantizeLSTM", ["x"], ["y"], domain="com.microsoft", name="q")
    quantised = read_model(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString()).graph
    assert [(finding.rule, finding.subject) for finding in cuda_fallbacks(quantised, 20)] == [
        ("on the CPU: domain", "DynamicQuantizeLSTM 'q'")
    ]


def body(*nodes, inputs=("h", "x_t"), outputs=("h_out", "y")):
    def infos(names):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

    return helper.make_graph(list(nodes), "body", infos(inputs), infos(outputs))


def graph_with(*nodes, inputs=(), initializers=()):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
    return read_model(
        helper.make_model(helper.make_graph(list(nodes), "g", infos, [], list(initializers))).SerializeToString()
    ).graph


node = helper.make_node
STEP = body(helper.make_node("Add", ["h", "x_t"], ["h_out"]), helper.make_node("Relu", ["h_out"], ["y"]))
AXIS = numpy_helper.from_array(np.array(0), "axis")


@pytest.mark.parametrize(
    ("rule", "broken", "kept"),
    [
        ("operator", node("Compress", ["x"], ["y"]), node("Gather", ["x", "i"], ["y"])),
        ("operator", node("DynamicQuantizeLinear", ["x"], ["y"]), node("QuantizeLinear", ["x", "s"], ["y"])),
        ("domain", node("MatMulNBits", ["x"], ["y"], domain="com.microsoft"), node("MatMul", ["x", "w"], ["y"])),
        ("scatter", node("ScatterND", ["x", "i", "u"], ["y"], reduction="add"), node("ScatterND", ["x", "i", "u"], ["y"])),
        ("input_forget", node("LSTM", ["x"], ["y"], input_forget=1), node("LSTM", ["x"], ["y"], input_forget=0)),
        (
            "activations",
            node("RNN", ["x"], ["y"], direction="bidirectional", activations=["Tanh", "Relu"]),
            node("RNN", ["x"], ["y"], direction="bidirectional", activations=["Relu", "Relu"]),
        ),
        (
            "scan",
            node("Scan", ["x"], ["y"], body=STEP, num_scan_inputs=1),
            node("Scan", ["h", "x"], ["e", "y"], body=STEP, num_scan_inputs=1),
        ),
        (
            "scan",
            node("Scan", ["h", "x"], ["e", "y"], body=STEP, num_scan_inputs=1, scan_input_axes=[-1]),
            node("Scan", ["h", "x"], ["e", "y"], body=STEP, num_scan_inputs=1, scan_input_axes=[1]),
        ),
        (
            "loop",
            node("Loop", ["", "go", "h"], ["e", "y"], body=STEP),
            node("Loop", ["n", "go", "h"], ["e", "y"], body=STEP),
        ),
        (
            "loop",
            node("Loop", ["n", "given", "h"], ["e"], body=STEP),
            node("Loop", ["n", "computed", "h"], ["e"], body=STEP),
        ),
        (
            "branch",
            node("If", ["f"], ["y"], then_branch=body(node("LSTM", ["x"], ["y"], name="inner"))),
            node("If", ["f"], ["y"], then_branch=body(node("Relu", ["x"], ["y"]))),
        ),
        ("running sum", node("CumSum", ["x", "given"], ["y"]), node("CumSum", ["x", "axis"], ["y"])),
        ("layout", node("GRU", ["x"], ["y"], layout=1), node("GRU", ["x"], ["y"], layout=0)),
        ("clip", node("LSTM", ["x"], ["y"], clip=1.0), node("LSTM", ["x"], ["y"])),
        (
            "alpha",
            node("RNN", ["x"], ["y"], activations=["Softplus"]),
            node("RNN", ["x"], ["y"], activations=["ThresholdedRelu"], activation_alpha=[0.5]),
        ),
    ],
)  # fmt: skip
def test_a_rule_of_tensorrts_importer_is_told(rule, broken, kept):
    found = list(tensorrt_findings(graph_with(broken, inputs=["given"], initializers=[AXIS])))
    assert [finding.rule for finding in found] == [f"tensorrt: {rule}"]
    (finding,) = found
    assert (finding.kind, bool(finding.remedy), "1.7.1" in finding.source) == ("observed", True, True)
    assert list(tensorrt_findings(graph_with(kept, inputs=["given"], initializers=[AXIS]))) == []


def test_where_a_node_is_inside_of_others_is_said():
    inner = helper.make_node("LSTM", ["x"], ["y"], name="deep", clip=1.0)
    outer = helper.make_node("Scan", ["h", "x"], ["e", "y"], name="loop", body=body(inner), num_scan_inputs=1)
    assert [finding.subject for finding in tensorrt_findings(graph_with(outer))] == ["LSTM 'deep' in Scan 'loop'"]


@pytest.mark.parametrize(
    ("version", "precision", "typing", "network", "builder"),
    [
        ("8.2.1", "fp32", WEAK, ("EXPLICIT_BATCH",), ("no TF32",)),
        ("8.5.2", "fp16", WEAK, ("EXPLICIT_BATCH",), ("FP16",)),
        ("8.5.2", "int8", WEAK, ("EXPLICIT_BATCH",), ("INT8", "FP16")),
        ("10.3", "fp32", STRONG, ("STRONGLY_TYPED",), ("no TF32",)),
        ("10.16", "fp16", STRONG, ("STRONGLY_TYPED",), ()),
        ("11.4", "fp16", STRONG, (), ()),
        ("11.4", "fp32", STRONG, (), ("no TF32",)),
        (None, "fp16", STRONG, ("STRONGLY_TYPED",), ()),
    ],
)
def test_typing_and_flags_are_the_versions(version, precision, typing, network, builder):
    assert typing_of(version, precision) == (typing, network, builder)


@pytest.mark.parametrize(
    ("device", "jetpack", "version", "python"),
    [
        ("jetson-nano-4gb", None, "8.2.1", None),
        ("jetson-xavier-nx-8gb", None, "8.5.2", None),
        ("jetson-orin-nano-8gb", None, "11.4", "3.12"),
        ("jetson-orin-nano-8gb", "6.2", "10.3", "3.10"),
        ("jetson-orin-nano-8gb", "6.0", "not known for this JetPack", "3.10"),
        ("jetson-t5000", "7.1", "10.13", "3.12"),
    ],
)
def test_software_is_the_jetpacks(device, jetpack, version, python, lstm):
    forecast = edgeseq_runtime.make_forecast(lstm, device, jetpack=jetpack)
    assert (forecast.software.version, forecast.software.python) == (version, python)
    assert "sudo apt install nvidia-jetpack" in forecast.software.install[0]
    rules = [finding.rule for finding in forecast.findings]
    assert ("software: python" in rules) == (python is None)
    assert ("software: typing" in rules) == (version in ("11.4", "not known for this JetPack"))
    assert "engine-of-one-machine" in rules
    assert all(finding.source and finding.kind in ("observed", "read") for finding in forecast.findings)


def test_a_jetpack_that_does_not_run_there(lstm):
    with pytest.raises(UsageError, match=r"JetPack 4\.6 was asked for on 'jetson-t5000'; it runs JetPack 7\.0, 7\.1, 7\.2"):
        edgeseq_runtime.make_forecast(lstm, "jetson-t5000", jetpack="4.6")
    with pytest.raises(UsageError, match="it is no Jetson module"):
        edgeseq_runtime.make_forecast(lstm, "rtx-4090", jetpack="6.2")


@pytest.mark.parametrize(
    ("backend", "providers", "rules"),
    [
        (None, ("CUDAExecutionProvider", "CPUExecutionProvider"), {"stream-copies-to-the-gpu"}),
        ("onnxruntime-cuda", ("CUDAExecutionProvider", "CPUExecutionProvider"), {"stream-copies-to-the-gpu"}),
        ("onnxruntime-cpu", ("CPUExecutionProvider",), set()),
        (
            "onnxruntime-tensorrt",
            ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
            {"stream-copies-to-the-gpu", "software: provider"},
        ),
        ("tensorrt", (), {"engine-of-one-machine", "tf32-by-default", "software: typing"}),
    ],
)
def test_a_gpu_has_several_backends(backend, providers, rules, lstm):
    forecast = edgeseq_runtime.make_forecast(lstm, "rtx-4090", backend=backend)
    assert forecast.plan == edgeseq_runtime.make_plan(lstm, "rtx-4090", backend=backend)
    assert forecast.plan.providers == providers
    assert forecast.plan.backend == ("tensorrt" if backend == "tensorrt" else "onnxruntime")
    assert {finding.rule for finding in forecast.findings} == rules
    assert forecast.bundle_hazards == ("rule: text",)
    cuda = "CUDAExecutionProvider" in providers
    assert ("CUDAExecutionProvider" in forecast.plan.provider_options) == cuda
    assert ("TensorrtExecutionProvider" in forecast.plan.provider_options) == ("TensorrtExecutionProvider" in providers)
    assert forecast.plan.hazards[0] == "rule: text"


def test_a_backend_that_can_not_be(lstm):
    with pytest.raises(UsageError, match="there is no backend 'abacus'; there are: onnxruntime-cpu, "):
        edgeseq_runtime.make_plan(lstm, "rtx-4090", backend="abacus")
    with pytest.raises(UsageError, match="needs an NVIDIA GPU, and device 'cpu-x86_64' is a CPU"):
        edgeseq_runtime.make_plan(lstm, "cpu-x86_64", backend="tensorrt")
    assert edgeseq_runtime.make_plan(lstm, "cpu-x86_64", backend="onnxruntime-cpu").providers == ("CPUExecutionProvider",)
    with pytest.raises(DeviceError, match="no device 'rtx-4091'; did you mean rtx-4090"):
        edgeseq_runtime.make_forecast(lstm, "rtx-4091")


WRITER = Interface(
    inputs=(
        TensorSpec("x", "float32", ("T", "B", 3)),
        TensorSpec("lengths", "int32", ("B",)),
        TensorSpec("longest", "int64", ()),
        TensorSpec("limits", "int32", (2,)),
        TensorSpec("tokens", "int64", ("T", "B")),
        TensorSpec("scale", "float32", ()),
        TensorSpec("count", "int64", (1,)),
    ),
    outputs=(TensorSpec("y", "float32", ("T", "B", 3)), TensorSpec("count_out", "int64", (1,))),
    state={"count": "count_out"},
    lengths={"lengths": "T"},
    chunk=4,
)


def test_few_whole_numbers_that_are_neither_lengths_nor_state_have_ranges_of_values():
    assert value_ranges(WRITER) == dict.fromkeys(("longest", "limits"), AxisRange(1, 100, 1000))
    assert value_ranges(WRITER, ["longest=1:50:200", "B=2"])["longest"] == AxisRange(1, 50, 200)
    assert set(axis_ranges(WRITER, ["longest=1:50:200"])) == {"T", "B"}
    with pytest.raises(UsageError, match="no axis 'shortest'; its inputs have: T, B; and values: longest, limits"):
        axis_ranges(WRITER, ["shortest=1"])


def test_an_engine_has_a_profile_of_all_sizes_and_one_of_a_piece_of_a_stream(lstm):
    options = engine_options(WRITER, board(), ["longest=1:50:200", "T=4:40:400"])
    assert options["profile"] == "B=1:1:8 T=4:40:400 limits=1:100:1000 longest=1:50:200"
    assert options["step"] == "B=1:1:8 T=4 limits=1:100:1000 longest=1:50:200"
    assert "step" not in engine_options(WRITER, board(), ["T=8:40:400"])  # no piece is so short
    assert "step" not in engine_options(Interface(WRITER.inputs[:1], WRITER.outputs[:1]), board())  # nothing to stream
    plan = edgeseq_runtime.make_plan(lstm, "tensorrt", axes=["B=1:2:4"])
    assert plan.provider_options["tensorrt"]["profile"].startswith("B=1:2:4 T=1:100:1000")
    assert plan.provider_options["tensorrt"]["workspace"] == str(1 << 30)


@pytest.mark.parametrize("device", ["jetson-orin-nano-8gb", "tensorrt"])
def test_an_engine_is_planned_anywhere_and_opened_where_there_is_a_gpu(device, lstm):
    if not missing_for_engines():
        pytest.skip("there is a GPU, and tests/test_gpu.py runs engines on it")
    with pytest.raises(ProviderError, match=rf"'{device}' asks for a TensorRT engine; .*missing: .*choose device 'cuda' or 'cpu'"):
        edgeseq_runtime.open_session(lstm, edgeseq_runtime.make_plan(lstm, device))


@pytest.mark.parametrize("device", [device.name for device in edgeseq_runtime.list_devices()])
def test_every_device_can_be_planned_for(device, lstm, ragged):
    for bundle in (lstm, ragged):
        forecast = edgeseq_runtime.make_forecast(bundle, device, rate=100)
        assert forecast.plan == edgeseq_runtime.make_plan(bundle, device)
        assert (forecast.memory.fits, forecast.uncounted) in ((True, {}), (None, {}))
        if edgeseq_runtime.load_device(device).peak:
            assert all(bound.seconds > 0 for bound in forecast.bounds)
            assert bounds(forecast, "step")["fp32"].seconds < bounds(forecast, "sequence")["fp32"].seconds
        json.dumps(forecast.to_json())


def test_a_graph_with_lengths_is_foretold_at_full_length(ragged):
    found = bounds(edgeseq_runtime.make_forecast(ragged, board(), axes=["T=7", "B=2"]), "sequence")["fp32"]
    graph = read_model(ragged.model()).graph
    full = {name: np.full(2, 7, np.int32) for name in ragged.manifest.lengths}
    assert found.operations == work_of(sized_graph(graph, {"T": 7, "B": 2}, full)).operations == 2 * 7 * 2 * 3 * H * (K + H)


def run(*arguments, code=0, columns="100"):
    done = CliRunner(env={"COLUMNS": columns}).invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def test_the_screen_says_what_the_forecast_says(lstm):
    asked = ("--device", "jetson-t5000", "--rate", "100", "--axis", "T=1:10:20", "--jetpack", "7.2")
    shown = run("plan", lstm.path, *asked, columns="200").stdout
    for text in (
        "TensorRT engine; version 11.4",
        STRONG,
        "7.2, CUDA 13.2, Python 3.12",
        "T=1:10:20  B=1:1:8",
        "of 128 GB at T=20 B=8",
        "sequence T=10 B=1: 7.04 k operations",
        "step T=1 B=1: 704 operations",
        "rule: text",
        "[1]  read: https://docs.nvidia.com/deeplearning/tensorrt/11.0.0",
    ):
        assert text in shown
    assert "on the CPU  no node" in run("plan", lstm.path, "--device", "l4").stdout
    assert "no time is bounded" in run("plan", lstm.path, "--device", "cpu-aarch64", columns="200").stdout


def test_what_only_the_data_tell_is_said(tmp_path):
    loop = read_model(loop_model(None))
    assert {spec.name for spec in loop.graph.inputs} == {"x"}
    spec = TensorSpec("x", "float32", ("x0", "x1"))
    outputs = (TensorSpec("last", "float32", ("x0", "x1")), TensorSpec("all", "float32", ("n", "x0", "x1")))
    base = runtime_models.lstm()
    model = replace(base, onnx=loop_model(None), inputs=(spec,), outputs=outputs, state={}, census={})
    path = model.write(tmp_path / "loop.edgeseq", (), draws=1)
    shown = run("plan", path, "--device", "rtx-4090", "--axis", "x1=4", columns="200").stdout
    assert "Counted once, for only the data tell how often they run: 1 Loop." in shown
    assert "1 of a size that only the data tell" in shown
    provider = run(
        "plan", path, "--device", "rtx-4090", "--axis", "x1=4", "--backend", "onnxruntime-tensorrt", columns="200"
    ).stdout
    assert "ONNX Runtime, TensorRT, then CUDA, then CPU" in provider


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("device", ["jetson-orin-nano-8gb", "rtx-4090", "cpu-x86_64"])
def test_no_line_is_wider_than_the_screen_and_no_figure_is_cut(columns, device, lstm):
    shown = run("plan", lstm.path, "--device", device, "--rate", "31.25", columns=str(columns)).stdout
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= columns
    assert all(line.count("fp32") == 1 for line in shown.splitlines() if line.startswith("fp32"))


def test_json_has_the_plan_and_the_forecast(lstm):
    found = json.loads(run("plan", lstm.path, "--device", "rtx-4090", "--json", "--threads", "3", "--rate", "50").stdout)
    plan = json.loads(msgspec.json.encode(edgeseq_runtime.make_plan(lstm, "rtx-4090", threads=3)))
    assert {name: found[name] for name in plan} == plan
    assert found["memory"]["fits"] is True
    assert found["memory"]["total"] == sum(found["memory"][part] for part in ("weights", "activations", "states"))
    assert found["profile"]["name"] == "rtx-4090"
    assert found["bounds"][0]["busy_share"] == pytest.approx(50 * found["bounds"][0]["seconds"])


def test_nodes_that_are_alike_are_named_once(lstm, tmp_path):
    proto = onnx.load_from_string(runtime_models.lstm().onnx)
    attribute("LSTM", clip=2.0)(proto)
    twin = onnx.NodeProto()
    twin.CopyFrom(runtime_models.node_of(proto, "LSTM"))
    twin.name = "twin"
    for index, name in enumerate(twin.output):
        twin.output[index] = f"{name}_twin" if name else ""
    proto.graph.node.append(twin)
    path = replace(runtime_models.lstm(), onnx=proto.SerializeToString()).write(tmp_path / "m.edgeseq", ONE, draws=1)
    shown = run("plan", path, "--device", "rtx-4090", columns="200").stdout
    assert shown.count("is left to the CPU: it has the attribute clip") == 1
    assert "and 1 more: is left" in shown


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (("--axis", "T=3:2:1"), "must be 1 <= MIN"),
        (("--backend", "abacus"), "there is no backend"),
        (("--jetpack", "6.2"), "is no Jetson module"),
        (("--rate", "0"), "the rate is 0"),
        (("--precision", "fp16"), "has no precision 'fp16'"),
        (("--device", "nonsense-9"), "there is no device"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(asked, match, lstm):
    assert match in run("plan", lstm.path, *asked, code=2).stderr


@pytest.mark.parametrize(
    ("value", "units", "shown"),
    [
        (0, ("B", "kB"), "0 B"),
        (999.6, ("B", "kB"), "1 kB"),
        (1234, ("B", "kB"), "1.23 kB"),
        (999, ("", "k"), "999"),
        (5e6, ("a", "b"), "5e+03 b"),
    ],
)
def test_figures_have_three_digits(value, units, shown):
    assert _scaled(value, units) == shown
