"""`edgeseq run --text`: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edgeseq_runtime.console import ERR, progress
from edgeseq_runtime.errors import InputError, UsageError
from edgeseq_runtime.files import write_file
from edgeseq_runtime.generation import BeamSearch, Greedy, Sampling, Writer, WrittenText
from edgeseq_runtime.generation.writer import Search


class SearchOptions(NamedTuple):
    """What the command line says of the search; None and False where it says nothing."""

    beam: int | None = None
    length_penalty: float | None = None
    sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def search(self) -> Search | None:
        """The search asked for; None where nothing was.

        Raises:
            UsageError: options that do not go together.
        """
        drawn = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p, "seed": self.seed}
        given = {name: value for name, value in drawn.items() if value is not None}
        if given and not self.sample:
            raise UsageError(f"{', '.join('--' + name.replace('_', '-') for name in given)} is of sampling; add --sample")
        if self.beam is not None and self.sample:
            raise UsageError("--beam and --sample were given; choose one")
        if self.length_penalty is not None and self.beam is None:
            raise UsageError("--length-penalty is of beam search; add --beam")
        if self.sample:
            return msgspec.structs.replace(Sampling(), **given)
        if self.beam is not None:
            return BeamSearch(self.beam, 1.0 if self.length_penalty is None else self.length_penalty)
        return None


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file.

    Raises:
        UsageError: no such file, or it is no text.
    """
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {path} as UTF-8 text: {error}") from error


def require_readable(writer: Writer, texts: Sequence[str], place: Callable[[int], str]) -> None:
    """Every text is one that the model reads, so that nothing is half done when one is not.

    Raises:
        InputError: one is not; `place` says where it stands.
    """
    for number, text in enumerate(texts):
        try:
            writer.text_inputs([text])
        except InputError as error:
            raise InputError(f"{place(number)}{error}") from error


def write_texts(writer: Writer, texts: Sequence[str], search: Search | None, *, longest: int, batch: int) -> list[WrittenText]:
    """What is written for each text, in batches of similar lengths, with a progress bar. The order is that of the texts."""
    order = np.argsort([len(text) for text in texts], kind="stable").tolist()
    found: dict[int, WrittenText] = {}
    with progress("writing") as report:
        for numbers in _batches(order, texts, batch, search, writer):
            chosen = search if search is None or isinstance(search, BeamSearch | Greedy) else _from(search, numbers[0])
            written = writer.write_text([texts[number] for number in numbers], chosen, longest=longest)
            found |= dict(zip(numbers, written, strict=True))
            report(len(found), len(texts))
    return [found[number] for number in range(len(texts))]


def _batches(order: list[int], texts: Sequence[str], batch: int, search: Search | None, writer: Writer) -> Iterator[list[int]]:
    """Numbers of texts that are written together."""
    if isinstance(search, Sampling):  # the random numbers go by a text's own place, whatever the batch
        order = sorted(order)
    start = 0
    while start < len(order):
        stop = start + batch
        if writer.text is not None and not writer.text.lengths:
            alike = len(texts[order[start]])
            stop = next((n for n in range(start, min(stop, len(order))) if len(texts[order[n]]) != alike), stop)
        yield order[start:stop]
        start = min(stop, len(order))


def _from(search: Sampling, number: int) -> Sampling:
    return msgspec.structs.replace(search, first=number)


def lines_of(texts: Sequence[str], written: Sequence[WrittenText], *, candidates: int, bare: bool) -> list[str]:
    """A line a candidate: the text, its score where there are several, and what was written; `bare` leaves the text out."""
    lines = []
    for text, one in zip(texts, written, strict=True):
        for candidate, score in list(zip(one.candidates, one.scores, strict=True))[:candidates]:
            parts = [*([] if bare else [text]), *([f"{score:.4f}"] if candidates > 1 else []), candidate]
            lines.append("\t".join(parts))
    return lines


def require_candidates(candidates: int, written: Sequence[WrittenText]) -> None:
    """As many candidates as are asked for.

    Raises:
        UsageError: the search keeps fewer.
    """
    have = min(len(one.candidates) for one in written)
    if candidates > have:
        raise UsageError(f"{candidates} candidates were asked for, and the search keeps {have}; widen it with --beam {candidates}")


def remark_on_unfinished(texts: Sequence[str], written: Sequence[WrittenText], longest: int) -> None:
    """Say which sequences were cut off."""
    cut = [text for text, one in zip(texts, written, strict=True) if not one.ended[0]]
    if cut:
        shown = ", ".join(map(repr, cut[:3])) + (", ..." if len(cut) > 3 else "")
        ERR.print(f"cut off at {longest} tokens, before their end: {len(cut)} ({shown}); --longest allows more", soft_wrap=True)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write lines as UTF-8, whole or not at all.

    Raises:
        UsageError: it can't be written there.
    """
    write_file(path, "".join(f"{line}\n" for line in lines).encode())
    ERR.print(f"written to {path}", soft_wrap=True)
