"""Letters to phonemes in three ways: PyTorch's loop, one graph with its loop inside, and a step graph driven by NumPy.

    edgeseq train letters-to-phonemes --export
    python benchmarks/generation.py

On 1,000 words that the network has not seen it counts the words whose tokens differ from PyTorch's, and times all three in turns,
on one thread: words one by one, and 64 at once. PyTorch is timed with oneDNN and without, and the faster one is shown.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import edgeseq_runtime
from edgeseq import load_weights
from edgeseq.generation import BeamSearch, EncoderDecoderWriter, Greedy
from edgeseq_recipes.experiments.letters_to_phonemes import BEAM, LONGEST, PHONEMES, letters, network
from edgeseq_recipes.experiments.pronunciations import Word, errors, phoneme_error_rate, read_words
from edgeseq_runtime import generation
from edgeseq_runtime.generation import Written

FOLDER = Path("build/train/letters-to-phonemes")
HIDDEN = 96  # of the recipe's full version
WORDS, ROUNDS = 1000, 7
BATCHES = {1: 60, 64: WORDS}  # words at once -> words timed in a round

Write = Callable[[Sequence[Word]], Written]


@dataclass(frozen=True)
class Row:
    """One search done one way."""

    search: str
    way: str
    different: int  # of WORDS, from PyTorch's tokens
    error_rate: float  # phonemes, %
    milliseconds: dict[int, float]  # a word, by how many at once: median of the rounds
    ratio: dict[int, float]  # PyTorch's time over this one's: median of the rounds' ratios


def pytorch(search: Greedy | BeamSearch, *, onednn: bool) -> Write:
    """The module itself."""

    def write(words: Sequence[Word]) -> Written:
        source, lengths = letters(words)
        torch.backends.mkldnn.enabled = onednn  # type: ignore[assignment]
        with torch.no_grad():
            tokens, counts, scores = (t.numpy() for t in search(torch.tensor(LONGEST), source=source, lengths=lengths))
        if tokens.ndim == 2:
            tokens, counts, scores = tokens[:, :, None], counts[:, None], scores[:, None]
        return Written(tokens, counts, scores)

    return write


def on_the_device(writer: generation.Writer, search: generation.Greedy | generation.BeamSearch | None) -> Write:
    """One of the exported forms."""

    def write(words: Sequence[Word]) -> Written:
        return writer.write(writer.text_inputs([word.spelling for word in words]), search, longest=LONGEST)

    return write


def ways(folder: Path) -> dict[str, dict[str, Write]]:
    """Search -> way -> what writes."""
    model = network("attention", HIDDEN).eval()
    load_weights(model, folder / "attention.safetensors")
    writer = EncoderDecoderWriter(model)
    step = edgeseq_runtime.load_writer(folder / "attention-decoder-step.edgeseq", encoder=folder / "attention-encoder.edgeseq")
    found: dict[str, dict[str, Write]] = {}
    for name, file, module, search in (
        ("greedy", "g2p-greedy", Greedy(writer), generation.Greedy()),
        (f"beam {BEAM}", "g2p", BeamSearch(writer, BEAM), generation.BeamSearch(BEAM)),
    ):
        loop = edgeseq_runtime.load_writer(folder / f"{file}.edgeseq")
        found[name] = {
            "PyTorch": pytorch(module, onednn=True),
            "PyTorch, no oneDNN": pytorch(module, onednn=False),
            "one graph": on_the_device(loop, None),
            "step by step": on_the_device(step, search),
        }
    return found


def batched(words: Sequence[Word], size: int) -> list[Sequence[Word]]:
    """Words in their order, so many at once."""
    return [words[start : start + size] for start in range(0, len(words), size)]


def best_tokens(write: Write, words: Sequence[Word]) -> list[tuple[int, ...]]:
    """The tokens of each word's best candidate."""
    found = []
    for batch in batched(words, 64):
        written = write(batch)
        found += [tuple(written.tokens[: written.counts[b, 0], b, 0].tolist()) for b in range(len(batch))]
    return found


def error_rate(tokens: Sequence[tuple[int, ...]], words: Sequence[Word]) -> float:
    """Edits per hundred phonemes."""
    spoken = [tuple(PHONEMES[token - 1] for token in one if token) for one in tokens]
    return phoneme_error_rate([errors(one, word) for one, word in zip(spoken, words, strict=True)])


def timed(writes: dict[str, Write], words: Sequence[Word], size: int) -> dict[str, list[float]]:
    """Milliseconds a word of each round, all ways in turn."""
    chosen = batched(words[: BATCHES[size]], size)
    times: dict[str, list[float]] = {way: [] for way in writes}
    for round_ in range(ROUNDS + 1):
        for way, write in writes.items():
            start = time.perf_counter()
            for batch in chosen:
                write(batch)
            if round_:  # the first one warms up
                times[way].append(1e3 * (time.perf_counter() - start) / BATCHES[size])
    return times


def measured(search: str, writes: dict[str, Write], words: Sequence[Word]) -> list[Row]:
    """The rows of one search; of PyTorch's two the faster one at each batch size counts."""
    tokens = {way: best_tokens(write, words) for way, write in writes.items()}
    times = {size: timed(writes, words, size) for size in BATCHES}
    for by_way in times.values():
        other = by_way.pop("PyTorch, no oneDNN")
        by_way["PyTorch"] = min(by_way["PyTorch"], other, key=median)
    return [
        Row(
            search,
            way,
            sum(a != b for a, b in zip(tokens[way], tokens["PyTorch"], strict=True)),
            error_rate(tokens[way], words),
            {size: median(by_way[way]) for size, by_way in times.items()},
            {size: median(np.divide(by_way["PyTorch"], by_way[way]).tolist()) for size, by_way in times.items()},
        )
        for way in ("PyTorch", "one graph", "step by step")
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, as the sessions are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the trained recipe")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    arguments = parser.parse_args()
    words = read_words(range(20))[:WORDS]
    rows: list[Row] = []
    with one_thread():
        for search, writes in track(ways(arguments.folder).items(), "measuring", transient=True):
            rows += measured(search, writes, words)
    table = Table("search", "way", "words that differ", "errors, %", "ms a word", "PyTorch / it", "64 at once, ms", "PyTorch / it")
    for row in rows:
        cells = [value for size in BATCHES for value in (f"{row.milliseconds[size]:.3f}", f"{row.ratio[size]:.2f}")]
        table.add_row(row.search, row.way, f"{row.different} of {len(words)}", f"{row.error_rate:.2f}", *cells)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
