"""Tuned plans of real models: what they compute, where they are kept, and what becomes of a damaged choice."""

import json
import multiprocessing
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import runtime_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_graphs import needs_compiler
from test_cli import edgeseq, eighty_columns  # noqa: F401 - its fixture holds here, too
from test_parity import swapped_gates

import edgeseq_runtime
from edgeseq_runtime import bench
from edgeseq_runtime.backends import onnxruntime_backend
from edgeseq_runtime.backends.onnxruntime_backend import ort
from edgeseq_runtime.errors import ProviderError, UsageError
from edgeseq_runtime.interface import interface_of
from edgeseq_runtime.native.compiled import compiled
from edgeseq_runtime.plan import make_plan, plan_for_device
from edgeseq_runtime.session import open_session
from edgeseq_runtime.tuning import Gain, TuningNotice, TuningRecord, Workload, cache, find_tuning, tune_plan
from edgeseq_runtime.tuning.candidates import candidates_for
from edgeseq_runtime.tuning.proof import problem_of
from edgeseq_runtime.tuning.record import DEFAULT
from edgeseq_runtime.tuning.workload import call_of, example_inputs, workload_for
from edgeseq_runtime.user_cache import cache_folder, require_own_folder

ONE_CASE = ({"T": 4, "B": 2},)
FAST = {"seconds": 0.05}


@pytest.fixture(scope="module")
def kernels():
    """Where edgeseq's own kernels are kept, compiled if need be; None where there is no compiler."""
    with suppress(ProviderError):
        return compiled().path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, kernels):
    """A cache of the test's own, which holds the kernels alone: compiling them takes seconds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled.cache_clear()
    if kernels:
        require_own_folder(cache_folder("native"))
        shutil.copy2(kernels, cache_folder("native"))
    yield tmp_path / "cache" / "edgeseq" / "tuned"
    compiled.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuning")


@pytest.fixture(scope="module")
def path(folder):
    return runtime_models.lstm(H=32).write(folder / "m.edgeseq", ONE_CASE, draws=4)


@pytest.fixture(scope="module")
def bundle(path):
    return edgeseq_runtime.open_bundle(path)


def kept_choice(bundle, chosen, *, max_threads=None, workload=None, **changes):
    """A record as if it had been measured here, kept where it belongs."""
    plan, workload = make_plan(bundle), workload or workload_for(interface_of(bundle.manifest))
    most = max_threads or len(cache.usable_cores())
    facts = cache.tuning_facts(bundle, plan, workload, most, onnxruntime_backend.VERSION)
    record = TuningRecord(
        facts={**facts, **changes},
        workload=workload,
        chosen=chosen,
        gain=None if chosen == DEFAULT else Gain(1.3, 1.2, 1.4, 8),
        default_us=13.0,
        chosen_us=10.0,
        tried=(),
        seconds=1.0,
    )
    return record, cache.keep(record)


def test_a_plan_is_measured_once_and_then_read(bundle, own_cache):
    told = []
    first = tune_plan(bundle, make_plan(bundle), progress=lambda done, total: told.append(done / total), **FAST)
    assert (first.cached, first.note) == (False, "")
    assert told[-1] == 1
    assert [Path(first.path)] == [file for file in own_cache.iterdir() if file.suffix == ".json"]
    names = [one.name for one in candidates_for(make_plan(bundle), len(cache.usable_cores()))]
    assert sorted(one.name for one in first.record.tried) == sorted(names)
    assert first.record.workload == Workload("step", 1, 1)
    assert 0 < first.record.chosen_us <= first.record.default_us
    for second in (tune_plan(bundle, make_plan(bundle)), find_tuning(bundle, make_plan(bundle))):
        assert second.cached
        assert (second.plan, second.record, second.path) == (first.plan, first.record, first.path)
    assert not tune_plan(bundle, make_plan(bundle), anew=True, **FAST).cached
    json.dumps(first.to_json())


def test_a_sequence_and_a_batch_are_workloads_of_their_own(bundle):
    plan = make_plan(bundle)
    whole = tune_plan(bundle, plan, workload=Workload("sequence", 30, 2), **FAST)
    assert whole.record.workload == Workload("sequence", 30, 2)
    assert find_tuning(bundle, plan) is None
    assert find_tuning(bundle, plan, workload=Workload("sequence", 30, 3)) is None
    assert find_tuning(bundle, plan, workload=Workload("sequence", 30, 2)).record == whole.record


def test_at_most_so_many_threads(bundle):
    tuning = tune_plan(bundle, make_plan(bundle), max_threads=1, **FAST)
    assert not [one.name for one in tuning.record.tried if "thread" in one.name]
    assert tuning.plan.threads == 1
    assert tuning.record.facts["threads"] == 1
    assert find_tuning(bundle, make_plan(bundle), max_threads=1) is not None


@pytest.mark.parametrize("model", [runtime_models.lstm(H=32), runtime_models.gru(H=32), runtime_models.bidirectional_rnn()])
def test_every_candidate_computes_what_the_equations_say(model, tmp_path, kernels):
    bundle = edgeseq_runtime.open_bundle(model.write(tmp_path / "m.edgeseq", ONE_CASE, draws=4))
    inputs = model.draw({"T": 9, "B": 3}, np.random.default_rng(0))
    expected = model.expect(inputs)
    for candidate in candidates_for(make_plan(bundle), 4):
        if candidate.native and not kernels:
            continue  # there is no compiler
        plan = candidate.applied(make_plan(bundle))
        assert problem_of(bundle, plan) == ""
        outputs = edgeseq_runtime.open_session(bundle, plan).run(inputs)
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, atol=2e-6, err_msg=f"{candidate.name}: {name}")


def test_load_with_tune_measures_and_runs_what_was_chosen(path, bundle, monkeypatch):
    monkeypatch.setattr(edgeseq_runtime.tuning.tune_plan, "__kwdefaults__", {**tune_plan.__kwdefaults__, **FAST})
    session = edgeseq_runtime.load(path, tune=True)
    kept = find_tuning(bundle, make_plan(bundle))
    assert session.plan == kept.plan
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype("float32")
    for name, value in edgeseq_runtime.load(path).run({"x": x}).items():
        np.testing.assert_allclose(session.run({"x": x})[name], value, atol=1e-6)


def test_load_with_tune_takes_the_kept_choice(path, bundle):
    kept_choice(bundle, "unpacked weights")
    session = edgeseq_runtime.load(path, tune=True)
    assert session.plan.session_options == {"session.disable_prepacking": "1"}
    assert edgeseq_runtime.load(path).plan.session_options == {}
    kept_choice(bundle, "basic graph", max_threads=1)
    assert edgeseq_runtime.load(path, threads=1, tune=True).plan.graph_level == "basic"
    model, stream = runtime_models.lstm(H=32), session.stream(batch=2)
    inputs = model.draw({"T": 5, "B": 2}, np.random.default_rng(3))
    stream.state = {name: inputs[name] for name in ("h", "c")}
    y = np.concatenate([stream.step({"x": inputs["x"][t : t + 1]})["y"] for t in range(5)])
    np.testing.assert_allclose(y, model.expect(inputs)["y"], atol=2e-6)


def test_a_kept_default_is_the_plan_itself(bundle):
    kept_choice(bundle, DEFAULT)
    tuning = tune_plan(bundle, make_plan(bundle))
    assert (tuning.plan, tuning.cached, tuning.record.gain) == (make_plan(bundle), True, None)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("basic", ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        ("extended", ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
        ("all", ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
    ],
)
def test_the_graph_level_reaches_onnx_runtime(level, expected):
    plan = msgspec.structs.replace(plan_for_device("cpu"), graph_level=level)
    assert onnxruntime_backend._session_options(plan, True).graph_optimization_level == expected
    plain = onnxruntime_backend._session_options(plan, False).graph_optimization_level
    assert plain == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_a_graph_that_computes_something_else_is_no_proof(tmp_path):
    bad = runtime_models.faulty(runtime_models.lstm(), swapped_gates).write(tmp_path / "bad.edgeseq", ONE_CASE)
    bundle = edgeseq_runtime.open_bundle(bad)
    assert "outside the bundle's gate, k <= 4" in problem_of(bundle, make_plan(bundle))


def test_a_bundle_without_reference_values_is_no_proof(tmp_path):
    bundle = edgeseq_runtime.open_bundle(runtime_models.lstm().write(tmp_path / "m.edgeseq", ()))
    assert "no reference values" in problem_of(bundle, make_plan(bundle))


# --- what is kept -----------------------------------------------------------------------------------------------------------


def read(record):
    return cache.read_kept(record.facts)


def test_a_choice_is_read_back_as_it_was(bundle, own_cache):
    record, file = kept_choice(bundle, "unpacked weights")
    assert read(record) == record
    assert file.stat().st_mode & 0o777 == 0o600
    assert own_cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": "0" * 64},
        {"threads": 99},
        {"workload": {"mode": "step", "T": 2, "B": 1}},
        {"versions": {"onnxruntime": "1.19.0", "edgeseq": "0.1.0"}},
        {"machine": {"architecture": "aarch64", "processor": "Cortex-A78AE", "features": [], "cores": [0]}},
    ],
)
def test_a_choice_of_other_facts_is_none_even_in_its_place(bundle, change):
    record, file = kept_choice(bundle, "unpacked weights")
    other = {**record.facts, **change}
    assert cache.read_kept(other) is None
    file.rename(cache.record_path(other))
    assert cache.read_kept(other) is None


def test_facts_are_what_a_choice_depends_on(bundle, monkeypatch):
    plan, step = make_plan(bundle), Workload("step", 1, 1)
    usual = cache.tuning_facts(bundle, plan, step, 2, "1.32.0")
    assert usual["bundle"] == bundle.sha256
    assert cache.tuning_facts(bundle, make_plan(bundle), step, 2, "1.32.0") == usual
    others = [
        cache.tuning_facts(bundle, plan, step, 1, "1.32.0"),
        cache.tuning_facts(bundle, plan, step, 2, "1.33.0"),
        cache.tuning_facts(bundle, plan, Workload("sequence", 1, 1), 2, "1.32.0"),
        cache.tuning_facts(bundle, make_plan(bundle, threads=2), step, 2, "1.32.0"),
    ]
    monkeypatch.setattr(cache, "usable_cores", lambda: (3,))
    others.append(cache.tuning_facts(bundle, plan, step, 2, "1.32.0"))
    monkeypatch.setattr(cache, "version", lambda name: "9.9")
    others.append(cache.tuning_facts(bundle, plan, step, 2, "1.32.0"))
    paths = {cache.record_path(facts) for facts in (usual, *others)}
    assert len(paths) == 7


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_counts_as_none(bundle, data):
    record, file = kept_choice(bundle, "unpacked weights")
    whole = file.read_bytes().rstrip()
    cut = data.draw(st.integers(0, len(whole) - 1))
    file.write_bytes(whole[:cut])
    assert read(record) is None
    at, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    file.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    found = read(record)
    assert found is None or found.facts == record.facts
    assert find_tuning(bundle, make_plan(bundle)) is None or found.chosen in ("unpacked weights", DEFAULT)


NESTED = b'{"facts": {"a": ' + b"[" * 100_000
NO_RECORDS = (b"", b"{}", b"[]", b'{"chosen": "unpacked weights"}', b"\xff\xfe", NESTED, b" " * (2 << 20))


@pytest.mark.parametrize("damage", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_what_is_no_record_is_measured_anew(bundle, damage):
    record, file = kept_choice(bundle, "unpacked weights")
    file.write_bytes(damage)
    tuning = tune_plan(bundle, make_plan(bundle), **FAST)
    assert (tuning.cached, tuning.note) == (False, "")
    assert read(record) == tuning.record


def test_a_candidate_that_is_unknown_is_measured_anew(bundle):
    kept_choice(bundle, "rm -rf")
    assert find_tuning(bundle, make_plan(bundle)) is None
    assert not tune_plan(bundle, make_plan(bundle), **FAST).cached


def test_a_file_or_folder_that_others_may_write_to_is_not_read(bundle, own_cache):
    record, file = kept_choice(bundle, "unpacked weights")
    file.chmod(0o620)
    assert read(record) is None
    file.chmod(0o600)
    own_cache.chmod(0o777)
    assert read(record) is None
    own_cache.chmod(0o700)
    assert read(record) == record


def test_a_link_is_not_followed(bundle, tmp_path):
    record, file = kept_choice(bundle, "unpacked weights")
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    assert read(record) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_file_of_another_user_is_not_read(bundle):
    record, file = kept_choice(bundle, "unpacked weights")
    os.chown(file, 12345, 12345)
    assert read(record) is None


@pytest.fixture
def no_folder(tmp_path):
    """A file where the cache's folder would be; the kernels are in this process by then."""
    with suppress(ProviderError):
        compiled()
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "cache").write_text("a file where the folder would be")


def test_where_nothing_can_be_kept_the_plan_is_used_and_it_is_said(path, bundle, no_folder, monkeypatch):
    tuning = tune_plan(bundle, make_plan(bundle), **FAST)
    assert (tuning.path, tuning.cached) == (None, False)
    assert tuning.note.startswith("the choice is used and not kept: can't make the cache")
    assert edgeseq_runtime.open_session(bundle, tuning.plan).run({"x": np.zeros((2, 1, 3), "float32")})["y"].shape == (2, 1, 32)
    monkeypatch.setattr(edgeseq_runtime.tuning.tune_plan, "__kwdefaults__", {**tune_plan.__kwdefaults__, **FAST})
    with pytest.warns(TuningNotice, match="used and not kept"):
        edgeseq_runtime.load(path, tune=True)


def test_a_full_disk_keeps_nothing_and_leaves_nothing(bundle, own_cache, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    tuning = tune_plan(bundle, make_plan(bundle), **FAST)
    assert tuning.note.endswith("No space left on device; nothing was written")
    assert [file for file in own_cache.iterdir() if file.name != ".measuring"] == []


def _tuned_in_a_process(path, folder, ready, results):
    os.environ["XDG_CACHE_HOME"] = folder
    bundle = edgeseq_runtime.open_bundle(path)
    ready.wait()
    tuning = tune_plan(bundle, make_plan(bundle), **FAST)
    results.put((tuning.cached, tuning.record.chosen, tuning.path))


def test_of_two_processes_one_measures_and_the_other_reads(path, tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, results = context.Event(), context.Queue()
    arguments = (str(path), str(tmp_path / "cache"), ready, results)
    workers = [context.Process(target=_tuned_in_a_process, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    ready.set()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(cached for cached, _, _ in found) == [False, True]
    assert len({(chosen, kept) for _, chosen, kept in found}) == 1


def test_measurements_take_turns():
    inside, most = [], []

    def measured():
        with cache.one_at_a_time():
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    threads = [threading.Thread(target=measured) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


# --- what is refused --------------------------------------------------------------------------------------------------------


def test_a_plain_model_is_not_tuned(tmp_path):
    (tmp_path / "m.onnx").write_bytes(runtime_models.gru().onnx)
    with pytest.raises(UsageError, match=r"plain ONNX model.*export it to a bundle"):
        edgeseq_runtime.load(tmp_path / "m.onnx", tune=True)
    with pytest.raises(UsageError, match=r"plain ONNX model.*export it to a bundle"):
        edgeseq_runtime.measure_bench(tmp_path / "m.onnx", tune=True)


@pytest.mark.parametrize("device", ["cuda", "rtx-4090", "tensorrt-network"])
def test_only_cpus_are_tuned(path, bundle, device):
    with pytest.raises(UsageError, match=f"device '{device}' runs on .*only CPUs are tuned"):
        edgeseq_runtime.load(path, device=device, tune=True)
    with pytest.raises(UsageError, match="only CPUs are tuned"):
        find_tuning(bundle, make_plan(bundle, device))


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": float("inf")}, {"max_threads": 0}])
def test_numbers_that_make_no_sense_are_refused(bundle, wrong):
    with pytest.raises(UsageError, match="give"):
        tune_plan(bundle, make_plan(bundle), **wrong)


def test_a_workload_that_the_model_has_not_is_refused(bundle):
    interface = interface_of(bundle.manifest)
    assert workload_for(interface) == Workload("step", 1, 1)
    assert workload_for(interface, "sequence", None, 3) == Workload("sequence", 100, 3)
    assert str(workload_for(interface, "step", 4)) == "step T=4 B=1"
    without = msgspec.structs.replace(interface, state={})
    assert workload_for(without) == Workload("sequence", 100, 1)
    for arguments in (("jog",), ("step", 0), ("sequence", 5, 0)):
        with pytest.raises(UsageError, match=r"there is no workload|give 1 or more"):
            workload_for(interface, *arguments)
    with pytest.raises(UsageError, match="no state"):
        workload_for(without, "step")


def test_the_call_is_the_workload(bundle):
    session, seen = edgeseq_runtime.open_session(bundle, make_plan(bundle)), []
    example = example_inputs(bundle)
    assert set(example) == {"x", "h", "c"}
    step = call_of(session, example, Workload("step", 3, 2))()
    assert step["y"].shape == (3, 2, 32)
    assert "h_out" not in step  # a stream keeps it
    whole = call_of(session, example, Workload("sequence", 7, 3))()
    assert (whole["y"].shape, whole["h_out"].shape) == ((7, 3, 32), (1, 3, 32))
    call = call_of(session, example, Workload("step", 1, 1))
    seen = [call()["y"].copy() for _ in range(2)]
    assert np.abs(seen[0] - seen[1]).max() > 1e-4  # the state goes on


# --- the command line -------------------------------------------------------------------------------------------------------


def test_compile_shows_what_was_tried_and_chosen(path, bundle):
    shown = edgeseq("compile", path, "--seconds", "0.05").stdout
    kept = find_tuning(bundle, make_plan(bundle))
    for one in kept.record.tried:
        assert one.name.split(",")[0] in shown
    assert f"chosen  {kept.record.chosen}" in shown
    assert Path(kept.path).name in "".join(shown.split())
    assert "measured before" in " ".join(edgeseq("compile", path).stdout.split())
    assert "measured before" not in " ".join(edgeseq("compile", path, "--anew", "--seconds", "0.05").stdout.split())
    said = edgeseq("plan", path).stdout
    assert f"tuned  for step T=1 B=1: {find_tuning(bundle, make_plan(bundle)).record.chosen}" in said


def test_compile_says_the_gain_and_what_it_takes(path, bundle):
    kept_choice(bundle, "2 threads, spinning", max_threads=len(cache.usable_cores()))
    if len(cache.usable_cores()) > 1:
        shown = " ".join(edgeseq("compile", path).stdout.split())
        assert "chosen 2 threads, spinning" in shown
        assert "gain 1.30 times as fast, and certainly 1.20 times" in shown
        assert "time 10.0 us a call instead of 13.0" in shown
        assert "2 cores are busy during a call" in shown
        assert "2 threads, spinning, 1.30 times as fast" in " ".join(edgeseq("plan", path).stdout.split())
    kept_choice(bundle, "unpacked weights", max_threads=1)
    shown = edgeseq("compile", path, "--threads", "1").stdout
    assert "chosen  unpacked weights" in shown
    assert "busy" not in shown


def test_compile_for_a_sequence_as_json(path, bundle):
    arguments = ("--workload", "sequence", "--steps", "9", "--batch", "2", "--seconds", "0.05", "--threads", "1", "--json")
    found = json.loads(edgeseq("compile", path, *arguments).stdout)
    assert found["record"]["workload"] == {"mode": "sequence", "T": 9, "B": 2}
    kept = find_tuning(bundle, make_plan(bundle), workload=Workload("sequence", 9, 2), max_threads=1)
    assert found["plan"] == json.loads(msgspec.json.encode(kept.plan))
    assert json.loads(Path(found["path"]).read_text())["chosen"] == found["record"]["chosen"]


def test_compile_says_that_nothing_is_kept(path, no_folder):
    shown = " ".join(edgeseq("compile", path, "--seconds", "0.05").stdout.split())
    assert "kept not kept note the choice is used and not kept: can't make the cache" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cuda"), "compiles nothing ahead"),
        (("--device", "rtx-4090", "--backend", "onnxruntime-tensorrt"), "asks for TensorrtExecutionProvider"),
        (("--device", "tensorrt"), "device 'tensorrt' asks for a TensorRT engine"),
        (("--capability", "8.6"), "--capability is of TensorRT's engines, and device 'auto' has none"),
        (("--workload", "jog"), "there is no workload 'jog'"),
        (("--device", "nonesuch"), "nonesuch"),
    ],
)
def test_compile_refuses_what_it_can_t_do(path, arguments, message):
    assert message in " ".join(edgeseq("compile", path, *arguments, code=2).stderr.split())


@pytest.mark.tensorrt
def test_compile_builds_an_engine_for_a_gpu_that_is_not_here(path, tmp_path):
    arguments = ("compile", path, "--device", "tensorrt", "--capability", "8.6", "--json")
    built, found = (json.loads(edgeseq(*arguments).stdout) for _ in range(2))
    assert (built["built"], found["built"]) == (True, False)
    assert built["kept"] == found["kept"]
    assert Path(built["kept"]).stat().st_size > built["bytes"] > 10_000
    assert Path(built["kept"]).is_relative_to(tmp_path / "cache")
    shown = edgeseq(*arguments[:-1]).stdout
    assert "built    before" in shown
    assert "notes" not in shown


def test_bench_times_the_tuned_plan_beside_the_usual_one(path, bundle, monkeypatch):
    kept_choice(bundle, "unpacked weights", max_threads=1, workload=Workload("step", 1, 1))
    kept_choice(bundle, "basic graph", max_threads=1, workload=Workload("sequence", 5, 1))
    opened = []
    monkeypatch.setattr(bench, "open_session", lambda bundle, plan: opened.append(plan) or open_session(bundle, plan))
    arguments = ("--seconds", "0.01", "--steps", "5", "--threads", "1", "--json")
    rows = json.loads(edgeseq("bench", path, "--tune", *arguments).stdout)["rows"]
    assert [(row["mode"], row["who"]) for row in rows] == [
        (mode, who) for mode in ("step", "sequence") for who in ("edgeseq", "edgeseq, tuned")
    ]
    usual, whole, step = opened
    assert usual == make_plan(bundle)
    assert (whole.graph_level, whole.session_options) == ("basic", {})
    assert (step.graph_level, step.session_options) == ("all", {"session.disable_prepacking": "1"})
    rows = json.loads(edgeseq("bench", path, *arguments).stdout)["rows"]
    assert [row["who"] for row in rows] == ["edgeseq"] * 2


@needs_compiler
def test_own_kernels_are_chosen_where_a_call_is_all_there_is(folder, own_cache):
    path = runtime_models.lstm(H=16).write(folder / "small.edgeseq", ONE_CASE, draws=4)
    bundle = edgeseq_runtime.open_bundle(path)
    tuning = tune_plan(bundle, make_plan(bundle), seconds=0.6, max_threads=1)
    tried = {one.name: one for one in tuning.record.tried}
    assert tried["own kernels"].gain.median > 1.2
    assert (tuning.record.chosen, tuning.plan.backend, tuning.plan.providers) == ("own kernels", "native", ("Native",))
    with pytest.MonkeyPatch.context() as patch:
        again = edgeseq_runtime.load(path, tune=True, threads=1)
        assert again.providers == ("Native",)
        # The kernels gone, and the compiler: what was measured with them is no choice any longer.
        shutil.rmtree(cache_folder("native"))
        compiled.cache_clear()
        patch.setenv("CC", "/nowhere/cc")
        found = tune_plan(bundle, make_plan(bundle), seconds=0.2, max_threads=1)
    assert not found.cached
    assert found.plan.backend == "onnxruntime"
    outcome = {one.name: one.outcome for one in found.record.tried}["own kernels"]
    assert outcome.startswith("can't be opened: device 'native' compiles its kernels with a C compiler, and none here does it")


def cut_to_the_longest(model):
    """Of an output y only as many steps as the longest sequence has."""
    graph = model.graph
    (last,) = (node for node in graph.node if "y" in node.output)
    last.output[:] = ["whole" if name == "y" else name for name in last.output]
    long = onnx.helper.make_node("Cast", ["lengths"], ["long"], to=onnx.TensorProto.INT64)
    most = onnx.helper.make_node("ReduceMax", ["long"], ["most"], keepdims=1)
    cut = onnx.helper.make_node("Slice", ["whole", "from", "most"], ["y"])
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "from"))
    graph.node.extend([long, most, cut])


@needs_compiler
def test_own_kernels_are_left_out_where_sizes_depend_on_contents(folder):
    model = runtime_models.faulty(runtime_models.lstm(H=16, lengths=True), cut_to_the_longest)
    bundle = edgeseq_runtime.open_bundle(model.write(folder / "ragged.edgeseq", ONE_CASE, draws=4))
    tuning = tune_plan(bundle, make_plan(bundle), seconds=0.2, max_threads=1)
    outcome = {one.name: one.outcome for one in tuning.record.tried}["own kernels"]
    assert outcome.startswith("can't be opened: it prepares for what 'lengths' holds, anew where that changes")
