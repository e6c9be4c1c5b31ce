"""`manifest.json`: what a bundle says of itself, and the schema it is held to."""

from __future__ import annotations

import msgspec

from edgeseq_runtime.bundle.gates import AnyGate, Gate, RelativeGate
from edgeseq_runtime.bundle.text import Generation, TextInput
from edgeseq_runtime.errors import BadManifest, UnknownFormat
from edgeseq_runtime.tensors import TensorSpec

FORMAT = 2  # of a bundle with float32 alone
LOW_PRECISION_FORMAT = 3  # of one that has relative gates, too: releases that judge by `k` alone refuse it
READS = (1, FORMAT, LOW_PRECISION_FORMAT)  # format 1 has neither text nor generation
DTYPES = frozenset(
    ("bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
)


class ReferenceCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One set of axis sizes at which reference values are stored.

    `draws` random inputs share the sizes. `horizon` maps an output to the number of leading time steps on which a change of
    the input by one unit in the last place stays small; beyond it the recurrence is chaotic and no two float32 programs
    agree. Outputs that stay comparable throughout are not in it.
    """

    sizes: dict[str, int]
    draws: int
    horizon: dict[str, int] = {}


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything a bundle declares. `sha256` covers every other member of the archive."""

    format: int
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: dict[str, str]  # input that carries state -> output that continues it
    lengths: dict[str, str]  # input that holds sequence lengths -> the time axis they count
    chunk: int = 1  # time steps that a streamed piece must be a multiple of
    census: dict[str, int]  # recurrent nodes of the graph: operator -> how many
    precisions: dict[str, str]  # precision -> member that holds its ONNX model
    tolerances: dict[str, Gate]  # precision -> gate in units of PyTorch's rounding error
    relative_tolerances: dict[str, RelativeGate] = {}  # precision lower than float32 -> gate; from format 3 on
    reference: tuple[ReferenceCase, ...]
    text: TextInput | None = None  # how text becomes an input
    generation: Generation | None = None  # how the graph writes sequences of tokens
    hazards: tuple[str, ...] = ()  # what a later backend will trip over, each with its rule
    notes: tuple[str, ...] = ()  # what the export changed, such as a converted dtype
    provenance: dict[str, str] = {}
    sha256: dict[str, str] = {}

    def gate(self, precision: str) -> AnyGate:
        """The gate of one of the precisions."""
        return self.relative_tolerances.get(precision) or self.tolerances[precision]


class _Version(msgspec.Struct):
    format: int


def encode_manifest(manifest: Manifest) -> bytes:
    """Deterministic, indented JSON. Formats before 3 have no `relative_tolerances`."""
    fields = msgspec.to_builtins(manifest, order="deterministic")
    if manifest.format < LOW_PRECISION_FORMAT and not manifest.relative_tolerances:
        del fields["relative_tolerances"]
    return msgspec.json.format(msgspec.json.encode(fields), indent=1) + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """The manifest, checked against its schema and against itself.

    Raises:
        UnknownFormat: written by a release with another format.
        BadManifest: not JSON, a field missing, unknown or of the wrong type, or a name that refers to nothing.
    """
    try:
        found = msgspec.json.decode(data, type=_Version).format
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadManifest(f"manifest.json is not a bundle's manifest: {error}") from error
    if found not in READS:
        raise UnknownFormat(
            f"the bundle has format {found}; this release of edgeseq reads formats {READS[0]} to {READS[-1]}: "
            + ("upgrade edgeseq-runtime" if found > READS[-1] else "export the model again")
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadManifest(f"manifest.json does not follow its schema: {error}") from error
    _require_consistent(manifest)
    return manifest


def _require_consistent(manifest: Manifest) -> None:
    inputs = {spec.name: spec for spec in manifest.inputs}
    outputs = {spec.name: spec for spec in manifest.outputs}
    problems = []
    if len(inputs) != len(manifest.inputs) or len(outputs) != len(manifest.outputs):
        problems.append("a tensor name is declared twice")
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.dtype not in DTYPES or any(isinstance(size, int) and size < 0 for size in spec.shape):
            problems.append(f"'{spec}' is no tensor: its dtype is unknown or a size is negative")
    for source, target in manifest.state.items():
        if source not in inputs or target not in outputs:
            problems.append(f"state '{source}' -> '{target}' names no input or no output")
        elif (inputs[source].dtype, inputs[source].shape) != (outputs[target].dtype, outputs[target].shape):
            problems.append(f"state '{source}' ({inputs[source]}) and '{target}' ({outputs[target]}) differ")
    if len(set(manifest.state.values())) != len(manifest.state):
        problems.append("two state inputs are continued by one output")
    problems += [f"lengths input '{name}' is not declared" for name in manifest.lengths if name not in inputs]
    if manifest.chunk < 1:
        problems.append(f"chunk is {manifest.chunk}")
    if "fp32" not in manifest.precisions:
        problems.append("there is no fp32 model")
    problems += _gate_problems(manifest)
    for part in (manifest.text, manifest.generation):
        problems += part.problems(inputs, outputs) if part else []
    for index, case in enumerate(manifest.reference):
        if case.draws < 1 or any(size < 1 for size in case.sizes.values()):
            problems.append(f"reference case {index} is empty")
    if problems:
        raise BadManifest(f"manifest.json contradicts itself: {'; '.join(problems)}")


def _gate_problems(manifest: Manifest) -> list[str]:
    gates, relative = manifest.tolerances, manifest.relative_tolerances
    problems = [f"precision '{p}' has no gate" for p in manifest.precisions if p not in gates and p not in relative]
    problems += [f"precision '{p}' has two gates" for p in gates if p in relative]
    if relative and manifest.format < LOW_PRECISION_FORMAT:
        problems.append(f"relative_tolerances belong to format {LOW_PRECISION_FORMAT}, and this is {manifest.format}")
    if "fp32" in relative:
        problems.append("fp32 is judged in units of PyTorch's rounding error, and its gate is relative")
    for precision in (*gates, *relative):
        bounds = msgspec.to_builtins(relative.get(precision) or gates[precision])
        if any(not bound >= 0 for bound in bounds.values()):
            problems.append(f"the gate of '{precision}' has a negative bound: {bounds}")
    return problems
