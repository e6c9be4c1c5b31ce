"""`edgeseq run --text`: text in, text out."""

from __future__ import annotations

from dataclasses import replace

import generation_models
import numpy as np
import pytest
import torch
from test_cli import edgeseq, program
from test_generation import CASES, step_requests

import edgeseq_runtime
from edgeseq import GRUCell
from edgeseq.generation import BeamSearch, Greedy, TokenWriter
from edgeseq.generation.writer import Beginning
from edgeseq_export import export_request, generation_request
from edgeseq_runtime import generation
from edgeseq_runtime.bundle import TextInput
from edgeseq_runtime.errors import InputError

LETTERS = "abcdefghi"
SPELLING = TextInput(input="source", lengths="lengths", symbols=tuple(LETTERS), lower=True)
SYMBOLS = ("", "P", "Q", "R", "S", "T")
WORDS = ["abc", "Bad", "i", "hideaf", "g", "cab", "fig", "a", "ai"]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A beam search as one graph, and the encoder and the step of the same model."""
    folder = tmp_path_factory.mktemp("text")
    case = CASES["attention-5"]
    beam = generation_request(
        BeamSearch(case.writer, 3), case.draw(3, 0), axes=case.axes, longest=9, name="beam", text=SPELLING, symbols=SYMBOLS
    )
    encoder, step = step_requests(case)
    encoder = replace(encoder, text=SPELLING)
    step = replace(step, generation=generation_models.with_symbols(step.generation, SYMBOLS))
    return {r.name: export_request(r, folder / f"{r.name}.edgeseq") for r in (beam, encoder, step)}


def expected(words, width=3, longest=100):
    """The candidates and their scores by PyTorch, a word at a time."""
    search = BeamSearch(CASES["attention-5"].writer, width)
    found = []
    for word in words:
        source = torch.tensor([[LETTERS.index(letter)] for letter in word.lower()])
        tokens, counts, scores = search(torch.tensor(longest), source=source, lengths=torch.tensor([len(word)]))
        spelled = [" ".join(SYMBOLS[t] for t in tokens[: counts[0, n], 0, n].tolist() if t) for n in range(width)]
        found.append(list(zip(spelled, scores[0].tolist(), strict=True)))
    return found


def test_one_text_prints_what_is_written_and_nothing_else(bundles):
    for word in WORDS[:4]:
        assert edgeseq("run", bundles["beam"], "--text", word).stdout == f"{expected([word])[0][0][0]}\n"


def test_several_texts_print_a_line_each(bundles):
    found = edgeseq("run", bundles["beam"], "--text", "abc", "--text", "Bad").stdout.splitlines()
    assert found == [f"{word}\t{expected([word])[0][0][0]}" for word in ("abc", "Bad")]


def test_candidates_have_scores(bundles):
    found = edgeseq("run", bundles["beam"], "--text", "abc", "--n-best", "3").stdout.splitlines()
    for line, (text, score) in zip(found, expected(["abc"])[0], strict=True):
        shown, written = line.split("\t")
        assert written == text
        assert float(shown) == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_a_file_is_written_in_its_order_whatever_the_batch(bundles, tmp_path, batch):
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n")
    truth = [f"{word}\t{candidates[0][0]}" for word, candidates in zip(WORDS, expected(WORDS), strict=True)]
    out = tmp_path / "out.tsv"
    result = edgeseq("run", bundles["beam"], "--text-file", tmp_path / "words.txt", "-o", out, "--batch", batch)
    assert out.read_text().splitlines() == truth
    assert result.stdout == ""
    step = ("run", bundles["step"], "--encoder", bundles["encoder"], "--beam", 3)
    assert edgeseq(*step, "--text-file", tmp_path / "words.txt", "--batch", batch).stdout.splitlines() == truth


def test_a_seed_draws_the_same_text_whatever_the_batch(bundles, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    step = ("run", bundles["step"], "--encoder", bundles["encoder"], "--text-file", tmp_path / "words.txt", "--sample")
    drawn = {
        (seed, batch): edgeseq(*step, "--seed", seed, "--temperature", 2, "--longest", 9, "--batch", batch).stdout
        for seed in (0, 1)
        for batch in (1, 4, 64)
    }
    assert drawn[0, 1] == drawn[0, 4] == drawn[0, 64]
    assert drawn[1, 1] == drawn[1, 4] == drawn[1, 64]
    assert drawn[0, 1] != drawn[1, 1]
    assert drawn[0, 1] == edgeseq(*step, "--temperature", 2, "--longest", 9).stdout


def test_what_is_cut_off_is_said(bundles):
    result = edgeseq("run", bundles["beam"], "--text", "abc", "--text", "bad", "--longest", "1")
    assert "cut off at 1 tokens, before their end: 1 ('abc'); --longest allows more" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("beam", "--text", "abx y"), "the text 'abx y' has the characters [' ', 'x', 'y']; the model reads 'abcdefghi'"),
        (("beam", "--text", ""), "has no character"),
        (("beam", "--text", "abc", "--beam", "2"), "this graph holds a search of its own, beam"),
        (("beam", "--text", "abc", "--n-best", "4"), "4 candidates were asked for, and the search keeps 3"),
        (("beam", "--text", "abc", "--sample", "--beam", "2"), "--beam and --sample were given; choose one"),
        (("beam", "--text", "abc", "--seed", "2"), "--seed is of sampling; add --sample"),
        (("beam", "--text", "abc", "--length-penalty", "2"), "--length-penalty is of beam search; add --beam"),
        (("beam", "in.npz", "--text", "abc"), "give either text or a file of arrays or sound"),
        (("beam",), "give INPUT and -o OUTPUT"),
        (("beam", "--text-file", "nowhere.txt"), "can't read nowhere.txt"),
        (("step", "--text", "abc"), "open it with its encoder"),
        (("encoder", "--text", "abc"), "does not say how it writes sequences"),
        (("beam", "--encoder", "e.edgeseq", "--text", "abc"), "holds its whole loop, encoder included"),
    ],
)
def test_what_makes_no_sense_is_refused(bundles, arguments, message):
    model, *others = arguments
    assert message in edgeseq("run", bundles[model], *others, code=2).stderr.replace("\n", " ")


def test_a_line_that_cant_be_read_is_named_and_nothing_is_written(bundles, tmp_path):
    (tmp_path / "words.txt").write_text("abc\nb d\n")
    result = edgeseq("run", bundles["beam"], "--text-file", tmp_path / "words.txt", "-o", tmp_path / "out.tsv", code=2)
    assert "words.txt, line 2: the text 'b d' has the characters [' ']" in result.stderr
    assert not (tmp_path / "out.tsv").exists()


def test_what_reads_and_writes_is_shown(bundles):
    shown = edgeseq("inspect", bundles["beam"]).stdout
    assert "as 'source': 9 characters, 'abcdefghi', capitals as small letters" in " ".join(shown.split())
    assert "in one run: beam search, end 0; 6 symbols, such as ('P', 'Q', 'R')" in " ".join(shown.split())
    shown = edgeseq("inspect", bundles["step"]).stdout
    assert "step by step: 'previous' takes the one before, first 0, end 0" in " ".join(shown.split())


def test_a_graph_with_its_loop_inside_is_timed(bundles):
    assert "sequence" in edgeseq("bench", bundles["beam"], "--seconds", "0.01").stdout


def test_the_program_writes_text_without_pytorch(bundles):
    ran = program("run", bundles["beam"], "--text", "abc")
    assert ran.stdout == f"{expected(['abc'])[0][0][0]}\n", ran.stderr


def test_text_in_python(bundles):
    writer = edgeseq_runtime.load_writer(bundles["step"], encoder=bundles["encoder"])
    (written,) = writer.write_text(["Bad"], generation.BeamSearch(3))
    assert written.best == expected(["Bad"])[0][0][0]
    np.testing.assert_allclose(written.scores, [score for _, score in expected(["Bad"])[0]], atol=1e-4)
    assert all(written.ended)
    drawn = writer.write_text(["Bad"], generation.Sampling(seed=3, temperature=3.0), longest=2)
    assert drawn == writer.write_text(["Bad"], generation.Sampling(seed=3, temperature=3.0), longest=2)


class BatchFirst(TokenWriter):
    """Reads int32 letters (B, S) without lengths."""

    vocabulary, end = 6, 0

    def __init__(self):
        super().__init__()
        self.letters, self.tokens = torch.nn.Embedding(9, 4), torch.nn.Embedding(6, 4)
        self.reader, self.cell = torch.nn.GRU(4, 5, batch_first=True), GRUCell(4, 5)
        self.readout = torch.nn.Linear(5, 6)

    def begin(self, source):
        return Beginning(torch.zeros_like(source[:, 0], dtype=torch.int64), (self.reader(self.letters(source))[1][0],), ())

    def next(self, t, token, state, memory):
        state, h = self.cell(state, self.tokens(token))
        return self.readout(h), state


def test_text_is_laid_out_as_the_input_is_declared(tmp_path):
    search = Greedy(BatchFirst())
    text = TextInput(input="source", symbols=tuple(LETTERS))
    source = torch.randint(9, (2, 4), dtype=torch.int32)
    request = generation_request(search, {"source": source}, axes={"source": ("B", "S")}, text=text, symbols=SYMBOLS)
    path = export_request(request, tmp_path / "m.edgeseq")
    words = ["abc", "ihg", "fed", "a", "dc"]
    truth = []
    for word in words:
        letters = torch.tensor([[LETTERS.index(letter) for letter in word]], dtype=torch.int32)
        tokens, counts, _ = search(torch.tensor(9), source=letters)
        truth.append(" ".join(SYMBOLS[t] for t in tokens[: counts[0], 0].tolist() if t))
    written = edgeseq_runtime.load_writer(path).write_text(words[:3], longest=9)
    assert [one.best for one in written] == truth[:3]
    with pytest.raises(InputError, match="give them one by one"):
        edgeseq_runtime.load_writer(path).write_text(words)
    (tmp_path / "words.txt").write_text("\n".join(words))
    lines = edgeseq("run", path, "--text-file", tmp_path / "words.txt", "--longest", 9).stdout.splitlines()
    assert lines == [f"{word}\t{one}" for word, one in zip(words, truth, strict=True)]
