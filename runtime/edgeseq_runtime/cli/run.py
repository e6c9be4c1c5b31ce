"""`edgeseq run`: a file in, a file out; or text in, text out."""

from __future__ import annotations

from itertools import repeat
from pathlib import Path
from typing import Annotated

import typer

from edgeseq_runtime.chunks import run_in_chunks, sequence_steps
from edgeseq_runtime.cli.arrays import read_npz, with_full_lengths, write_npz
from edgeseq_runtime.cli.inspect import shape_text
from edgeseq_runtime.cli.options import DebugOption, DeviceOption, ModelArgument, PrecisionOption, ThreadsOption
from edgeseq_runtime.cli.text import (
    SearchOptions,
    lines_of,
    read_lines,
    remark_on_unfinished,
    require_candidates,
    require_readable,
    write_lines,
    write_texts,
)
from edgeseq_runtime.console import ERR, OUT, progress, table, working
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.generation import Writer, load_writer
from edgeseq_runtime.generation.writer import LONGEST, Search
from edgeseq_runtime.interface import Interface, named_axes
from edgeseq_runtime.session import Session, load
from edgeseq_runtime.tensors import bind_sizes
from edgeseq_runtime.tensors.spec import Array
from edgeseq_runtime.wav import read_wav, sound_as_input

SourceArgument = Annotated[Path | None, typer.Argument(metavar="[INPUT]", help="Arrays (.npz) by input name, or a sound (.wav).")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Where the outputs go: .npz; of text lines, which else are printed. Replaced if there."),
]
InputOption = Annotated[str | None, typer.Option("--input", help="The input that a sound is for.")]
ChunkOption = Annotated[int | None, typer.Option("--chunk", min=1, help="Stream in pieces of so many time steps.")]
TEXT = "Text"
TextOption = Annotated[list[str] | None, typer.Option("--text", help="Text to read; may be given again.", rich_help_panel=TEXT)]
TextFileOption = Annotated[Path | None, typer.Option("--text-file", help="Text to read, a line each.", rich_help_panel=TEXT)]
EncoderOption = Annotated[Path | None, typer.Option("--encoder", help="The encoder of a step graph.", rich_help_panel=TEXT)]
BeamOption = Annotated[int | None, typer.Option("--beam", min=1, help="Beam search of this width.", rich_help_panel=TEXT)]
PenaltyOption = Annotated[
    float | None, typer.Option("--length-penalty", help="Of beam search: 0 ranks by log p, 1 by its mean.", rich_help_panel=TEXT)
]
CandidatesOption = Annotated[int, typer.Option("--n-best", min=1, help="Candidates to show, with scores.", rich_help_panel=TEXT)]
SampleOption = Annotated[bool, typer.Option("--sample", help="Draw tokens at random.", rich_help_panel=TEXT)]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", help="Of sampling; 1.", rich_help_panel=TEXT)]
TopKOption = Annotated[int | None, typer.Option("--top-k", help="Of sampling; all.", rich_help_panel=TEXT)]
TopPOption = Annotated[float | None, typer.Option("--top-p", help="Of sampling; 1.", rich_help_panel=TEXT)]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Of sampling; 0. The same gives the same text.", rich_help_panel=TEXT)
]
LongestOption = Annotated[int, typer.Option("--longest", min=1, help="Most tokens of a sequence.", rich_help_panel=TEXT)]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Texts at once.", rich_help_panel=TEXT)]


def run_command(
    model: ModelArgument,
    source: SourceArgument = None,
    output: OutputOption = None,
    name: InputOption = None,
    chunk: ChunkOption = None,
    text: TextOption = None,
    text_file: TextFileOption = None,
    encoder: EncoderOption = None,
    beam: BeamOption = None,
    length_penalty: PenaltyOption = None,
    candidates: CandidatesOption = 1,
    sample: SampleOption = False,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = None,
    longest: LongestOption = LONGEST,
    batch: BatchOption = 64,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    debug: DebugOption = False,
) -> None:
    """Run a model on arrays, on a sound, or on text. State left out is zeros; lengths left out are full."""
    if text or text_file:
        if source is not None or name is not None or chunk is not None:
            raise UsageError("--text goes without INPUT, --input and --chunk; give either text or a file of arrays or sound")
        search = SearchOptions(beam, length_penalty, sample, temperature, top_k, top_p, seed).search()
        writer = load_writer(model, encoder=encoder, device=device, precision=precision, threads=threads)
        _run_text(writer, text or [], text_file, search, output, candidates=candidates, longest=longest, batch=batch)
        return
    if source is None or output is None:
        raise UsageError("give INPUT and -o OUTPUT, arrays or sound in and arrays out; or --text, for a model that reads text")
    session = load(model, device=device, precision=precision, threads=threads)
    inputs = with_full_lengths(session.interface, _read_inputs(session.interface, source, name))
    outputs = _run_whole(session, inputs) if chunk is None else _run_streaming(session, inputs, chunk)
    write_npz(output, outputs)
    rows = [(name, array.dtype, shape_text(array.shape)) for name, array in outputs.items()]
    OUT.print(table(("output", "dtype", "shape"), rows))
    ERR.print(f"written to {output}")


def _run_text(
    writer: Writer,
    texts: list[str],
    file: Path | None,
    search: Search | None,
    output: Path | None,
    *,
    candidates: int,
    longest: int,
    batch: int,
) -> None:
    lines = read_lines(file) if file else []
    given = [*texts, *lines]
    if not given:
        raise UsageError(f"{file} has no lines; give at least one")
    require_readable(writer, given, lambda n: f"{file}, line {n + 1 - len(texts)}: " if n >= len(texts) else "")
    written = write_texts(writer, given, search, longest=longest, batch=batch)
    require_candidates(candidates, written)
    remark_on_unfinished(given, written, longest)
    shown = lines_of(given, written, candidates=candidates, bare=len(given) == 1 and file is None)
    if output is not None:
        write_lines(output, shown)
        return
    for line in shown:
        print(line)


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

        outputs = run_in_chunks(stream, interface, data, repeat(chunk), advance)
    times = stream.times
    ERR.print(f"{times.steps} pieces of {chunk} steps: median {times.median:.1f} us a piece, p99 {times.p99:.1f} us")
    return outputs


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
