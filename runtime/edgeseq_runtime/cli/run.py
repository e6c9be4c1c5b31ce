"""`edgeseq run`: a file in, a file out."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Annotated

import typer

from edgeseq_runtime.chunks import run_in_chunks, sequence_steps
from edgeseq_runtime.cli.arrays import read_npz, with_full_lengths, write_npz
from edgeseq_runtime.cli.inspect import shape_text
from edgeseq_runtime.cli.options import DebugOption, DeviceOption, ModelArgument, PrecisionOption, ThreadsOption
from edgeseq_runtime.console import ERR, OUT, progress, table, working
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.interface import Interface, named_axes
from edgeseq_runtime.session import Session, load
from edgeseq_runtime.tensors import bind_sizes
from edgeseq_runtime.tensors.spec import Array
from edgeseq_runtime.wav import read_wav, sound_as_input

SourceArgument = Annotated[Path, typer.Argument(metavar="INPUT", help="Arrays (.npz) by input name, or a sound (.wav).")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Where the outputs go (.npz); replaced if it is there.")]
InputOption = Annotated[str | None, typer.Option("--input", help="The input that a sound is for.")]
ChunkOption = Annotated[int | None, typer.Option("--chunk", min=1, help="Stream in pieces of so many time steps.")]


def run_command(
    model: ModelArgument,
    source: SourceArgument,
    output: OutputOption,
    name: InputOption = None,
    chunk: ChunkOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    debug: DebugOption = False,
) -> None:
    """Run a model on arrays or on a sound. State left out is zeros; lengths left out are full."""
    session = load(model, device=device, precision=precision, threads=threads)
    inputs = with_full_lengths(session.interface, _read_inputs(session.interface, source, name))
    outputs = _run_whole(session, inputs) if chunk is None else _run_streaming(session, inputs, chunk)
    write_npz(output, outputs)
    rows = [(name, array.dtype, shape_text(array.shape)) for name, array in outputs.items()]
    OUT.print(table(("output", "dtype", "shape"), rows))
    ERR.print(f"written to {output}")


def _read_inputs(interface: Interface, source: Path, name: str | None) -> dict[str, Array]:
    if source.suffix == ".npz":
        return read_npz(source)
    if source.suffix != ".wav":
        raise UsageError(f"{source} is neither .npz nor .wav; the model takes {'; '.join(map(str, interface.inputs))}")
    mapped = sound_as_input(interface, read_wav(source), name)
    ERR.print(mapped.note)
    return {mapped.input: mapped.array}


def _run_whole(session: Session, inputs: dict[str, Array]) -> dict[str, Array]:
    with working("running"):
        return session.run(inputs)


def _run_streaming(session: Session, inputs: dict[str, Array], chunk: int) -> dict[str, Array]:
    interface = session.interface
    stream = session.stream(_batch(interface, inputs))
    T = sequence_steps(interface, inputs)
    _require_full(interface, inputs, T)
    state = {name: array for name, array in inputs.items() if name in interface.state}
    if state:
        stream.state = state
    data = {name: array for name, array in inputs.items() if name not in {*interface.state, *interface.step_lengths}}
    done = 0
    with progress("streaming") as report:

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            report(done, T)

        return run_in_chunks(stream, interface, data, repeat(chunk), advance)


def _batch(interface: Interface, inputs: dict[str, Array]) -> int:
    sizes = bind_sizes([spec for spec in interface.inputs if spec.name in inputs], inputs)
    return next((sizes[axis] for axis in named_axes(interface.state_inputs) if axis in sizes), 1)


def _require_full(interface: Interface, inputs: dict[str, Array], T: int) -> None:
    for name in interface.step_lengths:
        if (inputs[name] != T).any():
            raise UsageError(
                f"'{name}' holds lengths below {T}: sequences of different lengths can't be cut into the same chunks; "
                "leave out --chunk, or stream them one by one"
            )
