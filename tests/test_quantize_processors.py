"""Quantised graphs on processors that this one is not: x86-64 without VNNI, and 64-bit ARM, both emulated by QEMU.

Without VNNI, x86 kernels add pairs of 8-bit products in 16 bits. The weights here are all near their scale's end, and inputs and
states all large, so that pairs of products with 8-bit weights do saturate: shown, so that the tests are known to see it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from emulated_board import UnreachableError, make_board, missing
from onnx import numpy_helper
from quantised_equations import relative
from test_quantize import INT8, NEAR, W4, W8, Case, graph_of, inputs_of, quantised, run

from edgeseq_quantize import matrices

pytestmark = pytest.mark.slow

QEMU = "qemu-x86_64"
WITHOUT_VNNI = "Haswell"  # AVX2, and nothing newer
METHODS = {"int8": INT8, "w8": W8, "w4": W4}
CASES = {
    "lstm": Case("LSTM", K=200, H=64),
    "gru": Case("GRU", K=200, H=64, attributes={"linear_before_reset": 1}),
    "rnn": Case("RNN", K=200, H=64),
}
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, dict(np.load(path.with_suffix(".npz"))))
    np.save(str(path) + ".npy", outputs[0])
"""


def loud(case):
    """A graph whose products are as large as they get, and inputs to match."""
    proto = onnx.load_from_string(graph_of(case))
    for tensor in proto.graph.initializer:
        if tensor.name in "WR":
            value = numpy_helper.to_array(tensor)
            value = np.where(np.arange(len(value[0])) % 3 == 0, -1, 1)[:, None] * (0.8 + 0.2 * np.abs(np.tanh(value)))
            tensor.CopyFrom(numpy_helper.from_array((value / 40).astype(np.float32), tensor.name))
    drawn = inputs_of(case)
    return proto.SerializeToString(), {
        name: (0.8 + 0.2 * np.abs(np.tanh(value))).astype(np.float32) for name, value in drawn.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Quantised graphs, their inputs, and the outputs of this processor; among them an LSTM with 8-bit weights."""
    root = tmp_path_factory.mktemp("processors")
    (root / "program.py").write_text(PROGRAM)
    for name, case in CASES.items():
        model, drawn = loud(case)
        for method, how in METHODS.items():
            (root / f"{name}-{method}.onnx").write_bytes(quantised(model, how))
            np.savez(root / f"{name}-{method}.npz", **drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "SEVEN_BITS", 127)
        (root / "lstm-eight-bits.onnx").write_bytes(quantised(loud(CASES["lstm"])[0], INT8))
    np.savez(root / "lstm-eight-bits.npz", **loud(CASES["lstm"])[1])
    return root


def outputs_of(folder, command):
    """The first output of each graph, as another processor computes it."""
    done = subprocess.run([*map(str, command), folder / "program.py", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name.removesuffix(".onnx.npy"): np.load(path) for path in folder.glob("*.npy")}


def own_outputs(folder):
    found = {}
    for path in folder.glob("*.onnx"):
        with np.load(path.with_suffix(".npz")) as file:
            found[path.stem] = run(path.read_bytes(), dict(file))[0]
    return found


def exact_outputs():
    return {name: run(model, drawn)[0] for name, (model, drawn) in ((name, loud(case)) for name, case in CASES.items())}


def require_same(found, own, four_bits=NEAR):
    exact = exact_outputs()
    for name, value in own.items():
        if name == "lstm-eight-bits":
            continue
        cell, method = name.split("-")
        assert relative(found[name], value) < (four_bits if method == "w4" else NEAR), name
        assert relative(found[name], exact[cell]) < (0.15 if method == "w4" else 0.01), name


@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} not found: apt-get install qemu-user")
def test_no_product_saturates_on_x86_without_vnni(folder):
    own = own_outputs(folder)
    found = outputs_of(folder, [QEMU, "-cpu", WITHOUT_VNNI, sys.executable])
    require_same(found, own)
    assert relative(found["lstm-eight-bits"], exact_outputs()["lstm"]) > 0.02


def test_64_bit_arm_computes_the_same(folder):
    if reason := missing():
        pytest.skip(reason)
    try:
        board = make_board()
    except UnreachableError as error:
        pytest.skip(str(error))
    # ARM's kernel of 4-bit weights rounds rows in blocks of its own.
    require_same(outputs_of(folder, [board.path / "python3"]), own_outputs(folder), four_bits=0.02)
