"""Device "native" and the ONNX package's own tests of each operator that it has.

Each case is computed three times: on inputs that are given, on constants, and on views with strides of what is given. Expected
outputs and tolerances are the package's.
"""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from native_graphs import needs_compiler, opened, strided
from onnx import TensorProto, numpy_helper

from edgeseq_runtime.backends.native_backend import OLDEST_OPSET
from edgeseq_runtime.errors import EdgeseqError, UsageError
from edgeseq_runtime.native.constants import DTYPES
from edgeseq_runtime.native.operators.loops import LOOPS
from edgeseq_runtime.native.program import OPERATORS

pytestmark = needs_compiler
WAYS = ("given", "constant", "strided")

# What is set when a model is exported, and what a program is made for: constants in every way of computing a case.
SETTINGS: dict[str, tuple[int, ...]] = {
    **{op: (1,) for op in OPERATORS if op.startswith("Reduce")},
    **dict.fromkeys(("Reshape", "Expand", "Squeeze", "Unsqueeze", "Split", "Tile", "CumSum", "Pow"), (1,)),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
    "Conv": (1, 2),
    "Dropout": (2,),
    "TopK": (1,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}

# Of other dtypes than the kernels', everything is refused but what is computed when the program is made.
FOREIGN = r"compute with|don't cast to|don't compute this with float64|multiply float32 alone"
FOREIGN_COMPUTED = {
    (name, "constant")
    for name in (
        "test_cast_FLOAT_to_DOUBLE",
        "test_cast_DOUBLE_to_FLOAT",
        "test_castlike_FLOAT_to_DOUBLE_expanded",
        "test_castlike_DOUBLE_to_FLOAT_expanded",
        "test_identity_sequence",
        "test_identity_opt",
        "test_clip_default_int8_inbounds",
        "test_clip_default_int8_inbounds_expanded",
    )
}

# A part of the message, the names of the cases, and the ways that it is true of.
REFUSED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("don't leave padding out of a mean", r"test_averagepool_2d_(precomputed_)?(pads|same_upper|same_lower)", WAYS),
    ("don't pool by ceil_mode", r"test_(average|max)pool_2d_ceil(_last_window_starts_on_pad|_output_size_reduce_by_one)?", WAYS),
    ("don't pool by ceil_mode", r"test_averagepool_(2d_dilations|3d_dilations_small)", WAYS),
    ("don't pool by ceil_mode", r"test_averagepool_3d_dilations_large_count_include_pad_is_[01]_ceil_mode_is_True", WAYS),
    ("don't pool by ceil_mode", r"test_maxpool_3d_dilations_use_ref_impl_large", WAYS),
    ("don't tell where maxima are", r"test_maxpool_with_argmax_2d_precomputed_(pads|strides)", WAYS),
    ("don't sum up exclusively", r"test_cumsum_1d_int32_exclusive", WAYS),
    ("don't sum up exclusively", r"test_cumsum_1d_(reverse_)?exclusive", ("constant",)),
    ("give no more than 1 of its results", r"test_dropout_default_mask(_ratio)?", WAYS),
    ("the model is in training mode", r"test_training_dropout_.*", WAYS),
    ("the model is in training mode", r"test_training_dropout", WAYS),
    ("have no layout=1, clip or input_forget", r"test_(gru|lstm|simple_rnn)_batchwise", WAYS),
    ("need to know the condition beforehand", r"test_if", ("given", "strided")),
    ("don't give the mean and the deviation", r"test_layer_normalization_(?!.*expanded).*", WAYS),
    ("collects an output a round", r"test_loop11", WAYS),
    ("collects an output a round", r"test_range_(float_type_positive|int32_type_negative)_delta_expanded", WAYS),
    ("remainders of floats the sign of the dividend", r"test_mod_float(32_mixed_sign_fmod_0|_edge_cases_fmod_0_float32)", WAYS),
    ("those of whole numbers the divisor's", r"test_mod_int64_fmod", WAYS),
    ("remainders of floats the sign of the dividend", r"test_mod_mixed_sign_float64", ("constant",)),
    ("raise whole numbers to the power of 2 alone", r"test_pow_types_int(32|64)_(float32|int32|int64)", WAYS),
    ("don't reduce an axis of size 0", r"test_reduce_.*_empty_set(_bool|_expanded)?", WAYS),
    ("don't compute this with bool", r"test_reduce_(max|min)_bool_inputs", WAYS),
    ("look for the greatest of float32 alone", r"test_top_k_same_values(_2d|_largest)?", WAYS),
    ("lacks input 0", r"test_scan_sum", WAYS),  # of opset 8, where the first input is of lengths
    ("don't scatter by '(add|mul|max|min)'", r"test_scatter_elements_with_(duplicate_indices|reduction_(mul|max|min))", WAYS),
)  # fmt: skip
SEVERAL = "several"
OWN = tuple(op for op in (*OPERATORS, *LOOPS) if "." not in op)  # ONNX's; those of other domains have tests of their own


@pytest.fixture(scope="module")
def cases():
    """Operator -> the cases whose graph is one node of it; under SEVERAL those whose graphs have more, of these operators alone."""
    package = import_module("onnx.backend.test.case.node")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the package divides by zero to make some of its outputs
        found = package.collect_testcases(None)
    by_operator = {op: [] for op in (*OWN, SEVERAL)}
    for case in found:
        nodes = list(nodes_of(case.model.graph))
        if all(not node.domain and node.op_type in by_operator for node in nodes):
            by_operator[nodes[0].op_type if len(case.model.graph.node) == 1 else SEVERAL].append(case)
    return by_operator


def nodes_of(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def is_foreign(graph):
    """Whether a graph has other dtypes than the kernels compute with."""
    own = {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}
    kinds = {one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)}
    for node in graph.node:
        for attribute in node.attribute:
            kinds |= {attribute.t.data_type} if attribute.HasField("t") else set()
            if attribute.HasField("g") and is_foreign(attribute.g):
                return True
    return not kinds <= own


def as_array(one):
    return numpy_helper.to_array(one) if isinstance(one, TensorProto) else one


def prepared(case, way):
    """The case's model with its settings as constants, and the arrays to give."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    for opset in model.opset_import:
        opset.version = max(opset.version, OLDEST_OPSET)  # an operator that has stayed as it was has the opset of its last change
    arrays = dict(zip([one.name for one in graph.input], case.data_sets[0][0], strict=True))
    settings = {node.input[index] for node in graph.node for index in SETTINGS.get(node.op_type, ()) if index < len(node.input)}
    given, turning = {}, []
    for one in list(graph.input):
        array = arrays[one.name]
        if one.name in settings or way == "constant":
            graph.input.remove(one)
            tensor = onnx.TensorProto()
            tensor.CopyFrom(array if isinstance(array, TensorProto) else numpy_helper.from_array(np.asarray(array)))
            tensor.name = one.name
            graph.initializer.append(tensor)
        elif way == "strided" and isinstance(array, np.ndarray):
            name = one.name
            one.name = f"{name}_given"
            given[one.name], nodes, constants = strided(name, array)
            turning += nodes
            graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
            one.type.tensor_type.ClearField("shape")
        else:
            given[one.name] = as_array(array)
    nodes = [*turning, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model, given


def problem_of(case, way):
    """What is not as the case expects, or not refused as it should be; empty where all is well."""
    foreign = is_foreign(case.model.graph)
    reasons = [reason for reason, names, ways in REFUSED if re.fullmatch(names, case.name) and way in ways]
    if foreign and not reasons and (case.name, way) not in FOREIGN_COMPUTED:
        reasons = [FOREIGN]
    model, given = prepared(case, way)
    try:
        got = opened(model).run(given)
    except EdgeseqError as error:
        return "" if any(re.search(reason, str(error)) for reason in reasons) else f"refused: {error}"
    if reasons:
        return f"computed, though refusal was expected: {reasons}"
    pairs = zip(case.model.graph.output, case.data_sets[0][1], strict=True)
    return "; ".join(filter(None, (difference(case, got[output.name], as_array(expected)) for output, expected in pairs)))


def difference(case, found, expected):
    """Of one output; empty where there is none."""
    expected = np.asarray(expected)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"{found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}"
    if not np.allclose(found, expected, rtol=case.rtol, atol=case.atol, equal_nan=True):
        return f"{found.ravel()[:8]}, expected {expected.ravel()[:8]}"
    return ""


@pytest.mark.parametrize("operator", [*OWN, SEVERAL])
def test_the_cases_of_an_operator_are_computed_or_refused(operator, cases):
    problems = {(case.name, way): problem_of(case, way) for case in cases[operator] for way in WAYS}
    assert problems
    assert {key: problem for key, problem in problems.items() if problem} == {}


def test_every_refusal_is_of_a_case(cases):
    names = [case.name for each in cases.values() for case in each]
    assert [pattern for _, pattern, _ in REFUSED if not any(re.fullmatch(pattern, name) for name in names)] == []
    assert {name for name, _ in FOREIGN_COMPUTED} <= set(names)
    assert set(DTYPES) == {"float32", "int64", "int32", "bool"}


def test_each_operator_is_computed_in_some_case(cases):
    def is_computed(case):
        return not is_foreign(case.model.graph) and not any(re.fullmatch(pattern, case.name) for _, pattern, _ in REFUSED)

    lacking = [op for op, each in cases.items() if not any(map(is_computed, each))]
    # Of float64, of three outputs (below), of sequences: these have tests of their own.
    assert lacking == ["Cast", "ReduceLogSumExp", "LayerNormalization", "Loop", "If"]


def test_a_model_of_an_older_opset_is_refused(cases):
    case = next(case for case in cases["Xor"])
    assert case.model.opset_import[0].version == 7
    with pytest.raises(UsageError, match="know the operators of opset 13 and later, and the model is of opset 7; convert it"):
        opened(case.model)


@pytest.mark.parametrize("operator", ["LayerNormalization", "MaxPool", "Dropout"])
def test_of_several_outputs_the_first_is_computed_alone(operator, cases):
    own = [case for case in cases[operator] if not is_foreign(case.model.graph) and "training" not in case.name]
    several = [case for case in own if len(case.model.graph.output) > 1]
    assert several
    for case in several:
        model, given = prepared(case, "given")
        del model.graph.output[1:]
        del model.graph.node[0].output[1:]
        found = opened(model).run(given)[case.model.graph.output[0].name]
        assert difference(case, found, case.data_sets[0][1][0]) == "", case.name


def test_the_page_lists_the_operators():
    page = (Path(__file__).parents[1] / "docs" / "native.md").read_text("utf-8")
    listed = page.partition("<!-- operators -->")[2].partition("<!-- end of operators -->")[0]
    assert listed.replace("\n", " ").strip().split(", ") == sorted(OWN)
