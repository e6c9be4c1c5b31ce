"""A workload on disk, made with PyTorch once, so that the processes that are timed need no PyTorch: what a device would get."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

    from peers.workloads import Network, Workload

ROOT = Path(__file__).parents[2]
CODE = (
    "edgeseq",
    "export",
    "benchmarks/peers/workloads.py",
    "benchmarks/peers/prepared.py",
    "benchmarks/hoisting.py",
    "examples/vad",
    "recipes/edgeseq_recipes/experiments/gait_network.py",
)
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Prepared:
    """The folder of one workload.

    `model.edgeseq` and `model.onnx` have dynamic axes; `fixed.onnx` is the latter with the workload's own, folded. `inputs.npz`
    holds what each call is given, `expected.npz` what PyTorch makes of it in float64.
    """

    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "model.edgeseq"

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def fixed_onnx(self) -> Path:
        return self.folder / "fixed.onnx"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """name, group, T, B, the orders of inputs and outputs, the state's pairs, the cost of a call, and `key`."""
        facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        return facts

    @property
    def state(self) -> dict[str, str]:
        """Input that carries state -> output that continues it."""
        state: dict[str, str] = self.facts["state"]
        return state

    @property
    def data_outputs(self) -> list[str]:
        """Outputs that are no state."""
        return [name for name in self.facts["outputs"] if name not in self.state.values()]

    def frames(self) -> list[Arrays]:
        """What each call is given, without the states."""
        return _unstacked(np.load(self.folder / "inputs.npz"))

    def zeros(self) -> Arrays:
        """The states at the start."""
        return {name: np.zeros(shape, np.float32) for name, shape in self.facts["state_shapes"].items()}

    def expected(self) -> list[Arrays]:
        """PyTorch's float64 outputs for each of the frames, the states carried from zeros; states are not among them."""
        return _unstacked(np.load(self.folder / "expected.npz"))


def _unstacked(arrays: Any) -> list[Arrays]:
    names = list(arrays.keys())
    stacked = {name: arrays[name] for name in names}
    return [{name: stacked[name][at] for name in names} for at in range(len(stacked[names[0]]))]


def _stacked(frames: list[Arrays]) -> Arrays:
    return {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}


def prepare(workload: Workload, base: Path) -> Prepared:
    """The workload's folder under `base`, made if there is none of this code."""
    done = Prepared(base / f"{workload.name}-{_code_key()}")
    if (done.folder / "facts.json").exists():
        return done
    base.mkdir(parents=True, exist_ok=True)
    draft = Prepared(Path(tempfile.mkdtemp(prefix=f"{workload.name}-draft-", dir=base)))
    network = workload.network()
    frames = [{name: tensor.numpy() for name, tensor in frame.items()} for frame in workload.frames(network)]
    expected = float64_outputs(network, frames)
    np.savez(draft.folder / "inputs.npz", **_stacked(frames))
    np.savez(draft.folder / "expected.npz", **_stacked(expected))
    _export(network, draft)
    (draft.folder / "facts.json").write_text(json.dumps({**_facts(workload, network), "key": _key(workload, frames, expected)}))
    try:
        draft.folder.replace(done.folder)
    except OSError:  # another process was faster
        shutil.rmtree(draft.folder)
    keep_newest(base, f"{workload.name}-??????????")
    return done


def keep_newest(base: Path, pattern: str, count: int = 2) -> None:
    """Remove what earlier versions of the code have made."""
    found = sorted(base.glob(pattern), key=lambda folder: folder.stat().st_mtime)
    for folder in found[:-count]:
        shutil.rmtree(folder)


def _code_key() -> str:
    """Of all that the bundle depends on."""
    hashed = hashlib.sha256(f"{version('torch')} {version('onnx')}".encode())
    for each in CODE:
        path = ROOT / each
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            hashed.update(file.read_bytes())
    return hashed.hexdigest()[:10]


def _key(workload: Workload, frames: list[Arrays], expected: list[Arrays]) -> str:
    """Of what the network computes: a conversion from PyTorch stays good while this does."""
    hashed = hashlib.sha256(f"{workload.name} {version('torch')}".encode())
    for arrays in (*frames, *expected):
        for name, array in arrays.items():
            # Rounded, as a sum in another order is no other network.
            rounded = array if array.dtype.kind in "iub" else np.round(array.astype(np.float64), 6) + 0.0
            hashed.update(name.encode() + rounded.tobytes())
    return hashed.hexdigest()[:16]


def float64_outputs(network: Network, frames: list[Arrays]) -> list[Arrays]:
    """What the module makes of the frames one after the other in float64, its states carried; without the states."""
    import torch

    module = copy.deepcopy(network.module).double()
    states = {name: network.inputs[name].double() for name in network.state}
    found = []
    with torch.no_grad():
        for frame in frames:
            tensors = {name: torch.from_numpy(array) for name, array in frame.items()}
            given = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
            outputs = module(**given, **states)
            named = dict(zip(network.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
            states = {name: named[output] for name, output in network.state.items()}
            found.append({name: named[name].numpy() for name in network.outputs if name not in network.state.values()})
    return found


def _export(network: Network, draft: Prepared) -> None:
    import onnx
    import torch

    from edgeseq_export import ExportNotice, ExportRequest, export_request
    from edgeseq_runtime import open_bundle

    torch.manual_seed(2)
    example = {name: _resized(tensor, network.axes[name]) for name, tensor in network.inputs.items()}
    request = ExportRequest(network.module, example, network.axes, dict(network.state) or None, network.outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExportNotice)
        export_request(request, draft.bundle)
    model = onnx.load_from_string(open_bundle(draft.bundle).model())
    onnx.save(model, draft.onnx)
    fix_axes(model, {name: tuple(tensor.shape) for name, tensor in network.inputs.items()})
    fold(model, draft.fixed_onnx)


def _resized(tensor: Any, axes: tuple[str | None, ...]) -> Any:
    """An example of few steps and sequences, as the exporter wants neither to be 1."""
    sizes = {"T": 5, "B": 2}
    for position, axis in enumerate(axes):
        if axis is not None:
            order = [step % tensor.shape[position] for step in range(sizes[axis])]
            tensor = tensor.index_select(position, tensor.new_tensor(order).long())
    return tensor.contiguous()


def fix_axes(model: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Give the model's inputs these sizes, and every axis of the same name in its outputs."""
    sizes: dict[str, int] = {}
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            if dim.dim_param:
                sizes[dim.dim_param] = size
            dim.dim_value = size
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]


def fold(model: Any, path: Path) -> None:
    """Write the model with everything computed that is constant, and every type and shape written out, inside loops too.

    ONNX Runtime does both, in standard operators: tract and OpenVINO can't read a Scan whose body leaves the types to be inferred.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    written = onnx.load(path)
    # It names every domain that it knows.
    domains = {node.domain for node in written.graph.node} | {""}
    used = [domain for domain in written.opset_import if domain.domain in domains]
    del written.opset_import[:]
    written.opset_import.extend(used)
    onnx.save(written, path)


def _facts(workload: Workload, network: Network) -> dict[str, Any]:
    cost = cost_of(network.module, network.uses, workload.T, workload.B)
    return {
        "name": workload.name,
        "title": workload.title,
        "group": workload.group,
        "T": workload.T,
        "B": workload.B,
        "inputs": list(network.inputs),
        "outputs": list(network.outputs),
        "state": dict(network.state),
        "batch_axes": {name: axes.index("B") for name, axes in network.axes.items() if "B" in axes},
        "state_shapes": {name: list(network.inputs[name].shape) for name in network.state},
        "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
        **cost._asdict(),
    }


class Cost(NamedTuple):
    """What a call has to do at least.

    `working_set` bytes of weights are read over and over, `read` bytes in all, and `operations` are done.
    """

    working_set: int
    read: int
    operations: int


def cost_of(module: nn.Module, uses: Mapping[str, int], T: int, B: int) -> Cost:
    """The cost of a call, of its weights in float32 alone.

    A matrix of n numbers takes 2n operations a time step and sequence, times its `uses` in a step. A single step
    reads every weight. Over a sequence the products with the input can be done for all steps at once, so what each step has to
    read are the matrices for the state alone; layers of PyTorch's own run one after the other, so theirs are read one at a
    time. A table of embeddings (`label`) is looked up, which costs next to nothing.
    """
    matrices = {name: p.numel() for name, p in module.named_parameters() if p.dim() >= 2 and "label" not in name}
    operations = sum(2 * size * uses.get(name, 1) for name, size in matrices.items()) * T * B
    if T == 1:
        every = 4 * sum(p.numel() for p in module.parameters())
        return Cost(every, every, operations)
    recurrent = [4 * size for name, size in matrices.items() if "_ih" not in name]
    one_by_one = all("_hh_l" in name for name in matrices if "_ih" not in name)
    return Cost(max(recurrent) if one_by_one else sum(recurrent), T * sum(recurrent), operations)
