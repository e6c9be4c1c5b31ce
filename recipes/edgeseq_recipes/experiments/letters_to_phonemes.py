"""Letters to phonemes on the CMU Pronouncing Dictionary: a fixed vector against attention, over the length of the word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from edgeseq.generation import BeamSearch, EncoderDecoderWriter, Greedy
from edgeseq.models import (
    AttentionDecoder,
    AttentionGraph,
    Encoder,
    EncoderDecoder,
    EncoderGraph,
    FixedContextDecoder,
    FixedContextGraph,
)
from edgeseq.training import Schedule
from edgeseq_export import ExportRequest, generation_request
from edgeseq_recipes.experiments.pronunciations import (
    LETTERS,
    PHONEMES,
    Errors,
    Phonemes,
    Word,
    errors,
    phoneme_error_rate,
    read_words,
)
from edgeseq_recipes.recipe import Findings, Measure, Recipe, at_least, at_most
from edgeseq_recipes.run import Run
from edgeseq_runtime.bundle import Generation, TextInput

DECODERS = {"fixed-vector": FixedContextDecoder, "attention": AttentionDecoder}
BOUNDARY = 0  # the token before the first phoneme and after the last; phoneme i of PHONEMES is token i + 1
NO_TARGET = -100  # where a batch is longer than a pronunciation

NEIGHBOURHOOD = 4  # batches: how many words of similar length one batch is drawn from
EMBEDDING = 48
LONGEST = 30  # phonemes of a decoded word
BEAM = 4  # candidates of the beam search that is exported
SHORT, LONG = 6, 9  # letters: a word is short up to the one and long from the other; about a third of all is either

Examples = tuple[Tensor, Tensor, Tensor, Tensor]


def letters(words: Sequence[Word]) -> tuple[Tensor, Tensor]:
    """Tokens (S, B), 0 past a word's end, and lengths (B,)."""
    tokens = [torch.tensor([LETTERS.index(letter) for letter in word.spelling]) for word in words]
    return pad_sequence(tokens), torch.tensor([len(word.spelling) for word in words])


def phonemes(words: Sequence[Word]) -> tuple[Tensor, Tensor]:
    """The tokens before each phoneme and the boundary (T, B), and these themselves (T, B): of each word's first pronunciation."""
    tokens = [torch.tensor([PHONEMES.index(name) + 1 for name in word.pronunciations[0]]) for word in words]
    end = torch.tensor([BOUNDARY])
    previous = pad_sequence([torch.cat([end, y]) for y in tokens], padding_value=BOUNDARY)
    return previous, pad_sequence([torch.cat([y, end]) for y in tokens], padding_value=NO_TARGET)


def decoded(tokens: Tensor) -> list[Phonemes]:
    """The phonemes of each word, from its tokens (T, B)."""
    return [tuple(PHONEMES[token - 1] for token in word if token != BOUNDARY) for word in tokens.T.tolist()]


def network(kind: str, hidden_size: int) -> EncoderDecoder:
    """Both kinds have the same encoder, two thirds as wide in each direction, and a decoder of the same hidden size."""
    encoder = Encoder(len(LETTERS), EMBEDDING, 2 * hidden_size // 3)
    decoder = DECODERS[kind](len(PHONEMES) + 1, EMBEDDING, hidden_size, encoder.annotation_size)
    return EncoderDecoder(encoder, decoder, boundary=BOUNDARY)


class Batches:
    """Batches of words of similar length, so that little of them is padding."""

    def __init__(self, words: Sequence[Word]) -> None:
        ordered = sorted(words, key=lambda word: (len(word.spelling), len(word.pronunciations[0])))
        self.source, self.lengths = letters(ordered)
        self.previous, self.target = phonemes(ordered)

    def draw(self, generator: torch.Generator, B: int) -> Examples:
        """Letters (S, B), their lengths (B,), the tokens before and the targets (T, B).

        Every stretch of neighbours is as likely; the shortest and the longest words, which are in few of them, come up less.
        """
        words = len(self.lengths)
        neighbours = min(NEIGHBOURHOOD * B, words)
        first = int(torch.randint(words - neighbours + 1, (), generator=generator))
        chosen = first + torch.randperm(neighbours, generator=generator)[:B]  # (B,)
        lengths, target = self.lengths[chosen], self.target[:, chosen]
        S, T = int(lengths.max()), int((target != NO_TARGET).sum(dim=0).max())
        return self.source[:S, chosen], lengths, self.previous[:T, chosen], target[:T]


def train(run: Run, kind: str, batches: Batches) -> EncoderDecoder:
    """Both kinds see the same batches, as often, at the same learning rate."""
    torch.manual_seed(run.seed)
    model = network(kind, run.pick(96, 48))

    def loss(generator: torch.Generator) -> Tensor:
        source, lengths, previous, target = batches.draw(generator, run.pick(128, 48))
        logits = model(source, lengths, previous)  # (T, B, V)
        return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=NO_TARGET)

    schedule = Schedule(run.pick(1500, 60), learning_rate=run.pick(4e-3, 1e-2), decay="cosine", evaluate_every=300)
    run.fit(kind, model, loss, schedule)
    return model


@dataclass(frozen=True)
class Spoken:
    """What a network makes of held-out words."""

    words: Sequence[Word]
    pronunciations: Sequence[Phonemes]
    errors: Sequence[Errors]

    def rate(self, shortest: int = 1, longest: int = 1000) -> float:
        """Phoneme error rate, in percent, of the words with so many letters."""
        counted = zip(self.words, self.errors, strict=True)
        return phoneme_error_rate([e for word, e in counted if shortest <= len(word.spelling) <= longest])


def speak(model: EncoderDecoder, words: Sequence[Word]) -> Spoken:
    """Greedy decoding."""
    with torch.no_grad():
        found = decoded(model.greedy(*letters(words), longest=LONGEST))
    return Spoken(words, found, [errors(one, word) for one, word in zip(found, words, strict=True)])


def attention_map(model: EncoderDecoder, word: Word, pronunciation: Phonemes) -> Tensor:
    """Weights (T, S) of each letter as each phoneme is written, and last the boundary."""
    assert isinstance(model.decoder, AttentionDecoder)
    previous, _ = phonemes([Word(word.spelling, (pronunciation,))])
    with torch.no_grad():
        memory, h = model.encode(*letters([word]))
        states, _ = model.decoder.layer(model.decoder.inputs(previous, memory), (h,))
        return model.decoder.weights(states, memory)[0]


def run_letters_to_phonemes(run: Run) -> Findings:
    """Train both, let them speak words that neither has seen, compare."""
    held_out = read_words(range(run.pick(20, 3)))
    batches = Batches(read_words(range(20, run.pick(235, 35))))
    models = {kind: train(run, kind, batches) for kind in DECODERS}
    fixed, attention = (speak(model, held_out) for model in models.values())
    with run.figure("letters-to-phonemes", ncols=2, figsize=(9.0, 3.8)) as (_, (left, right)):
        draw_rates(left, {"fixed vector": fixed, "attention": attention})
        word, pronunciation = shown(fixed, attention)
        draw_attention(right, attention_map(models["attention"], word, pronunciation), word, pronunciation)
    return Findings(
        measures=measures(run, fixed, attention),
        graphs=graphs(models),
        caption=(
            f"Left: errors per hundred phonemes of {len(held_out)} held-out words, by length; bands are one standard error. "
            "Right: which letters the decoder attends to as it writes each phoneme of a held-out word."
        ),
    )


def measures(run: Run, fixed: Spoken, attention: Spoken) -> tuple[Measure, ...]:
    """The phoneme error rates, and how much lower attention's is, of all words, short ones and long ones."""
    short, long = (fixed.rate(*lengths) - attention.rate(*lengths) for lengths in ((1, SHORT), (LONG, 1000)))
    return (
        Measure("phoneme error rate of held-out words, fixed vector, %", fixed.rate()),
        Measure("phoneme error rate of held-out words, attention, %", attention.rate(), at_most(run.pick(15.0, 75.0))),
        Measure("fixed vector less attention, % of phonemes", fixed.rate() - attention.rate(), at_least(run.pick(5.0, 2.0))),
        Measure(f"  in words of up to {SHORT} letters", short),
        Measure(f"  in words of {LONG} letters and more", long, at_least(run.pick(8.0, 2.0))),
        Measure("  long words less short ones: the gap grows with length", long - short, None if run.quick else at_least(6.0)),
    )


def shown(fixed: Spoken, attention: Spoken) -> tuple[Word, Phonemes]:
    """The longest word that attention alone gets right; where there is none, the longest."""

    def merit(at: int) -> tuple[bool, int]:
        return attention.errors[at].edits == 0 < fixed.errors[at].edits, len(attention.words[at].spelling)

    best = max(range(len(attention.words)), key=merit)
    return attention.words[best], attention.pronunciations[best]


def draw_rates(axes: Axes, spoken: dict[str, Spoken]) -> None:
    """Error rate against letters, of lengths that at least ten words have."""
    for name, found in spoken.items():
        by_length: dict[int, list[Errors]] = defaultdict(list)
        for word, counted in zip(found.words, found.errors, strict=True):
            by_length[len(word.spelling)].append(counted)
        lengths = sorted(length for length, words in by_length.items() if len(words) >= 10)
        rates = torch.tensor([phoneme_error_rate(by_length[length]) for length in lengths])
        spread = torch.tensor([standard_error(by_length[length]) for length in lengths])
        axes.plot(lengths, rates, "o-", markersize=3, label=name)
        axes.fill_between(lengths, rates - spread, rates + spread, alpha=0.2)
    axes.set(xlabel="letters of the word", ylabel="phoneme error rate, %", title="held-out words")
    axes.set_ylim(bottom=0)
    axes.legend()


def standard_error(counted: list[Errors]) -> float:
    """Of `phoneme_error_rate`, in percent: a ratio of sums over independent words, to first order."""
    edits, total = (torch.tensor([getattr(e, name) for e in counted], dtype=torch.float64) for name in ("edits", "phonemes"))
    residual = edits - total * edits.sum() / total.sum()
    return float(100 * residual.std() * len(counted) ** 0.5 / total.sum())


def draw_attention(axes: Axes, weights: Tensor, word: Word, pronunciation: Phonemes) -> None:
    """Weights (T, S): a row a phoneme, a column a letter."""
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(word.spelling)), list(word.spelling))
    axes.set_yticks(range(len(pronunciation) + 1), [*pronunciation, "end"])
    axes.grid(visible=False)
    axes.set(xlabel="letter", ylabel="phoneme", title=f"attention of “{word.spelling}”")
    axes.figure.colorbar(image, ax=axes, label="weight")


def graphs(models: dict[str, EncoderDecoder]) -> tuple[ExportRequest, ...]:
    """For each network the encoder, which runs once a word, and the decoder, which runs once a phoneme.

    And of the one with attention two graphs that hold the whole loop: beam search, under the name that one would look for, and
    greedy search.
    """
    stepwise = [
        request for kind, model in models.items() for request in (encoder_request(kind, model), decoder_request(kind, model))
    ]
    writer = EncoderDecoderWriter(models["attention"])
    return (*stepwise, whole_request("g2p", BeamSearch(writer, BEAM)), whole_request("g2p-greedy", Greedy(writer)))


SPELLING = TextInput(input="source", lengths="lengths", symbols=tuple(LETTERS), lower=True)
WRITTEN = ("", *PHONEMES)  # how each token is written

EXAMPLE = [Word("phoneme", (("F", "OW", "N", "IY", "M"),)), Word("to", (("T", "UW"),)), Word("word", (("W", "ER", "D"),))]


def encoder_request(kind: str, model: EncoderDecoder) -> ExportRequest:
    """Letters and lengths -> the decoder's memory and its first state."""
    source, lengths = letters(EXAMPLE)
    return ExportRequest(
        EncoderGraph(model),
        {"source": source, "lengths": lengths},
        {"source": ("S", "B"), "lengths": ("B",)},
        outputs=("annotations" if isinstance(model.decoder, AttentionDecoder) else "context", "h"),
        name=f"{kind}-encoder",
        text=SPELLING,
    )


def decoder_request(kind: str, model: EncoderDecoder) -> ExportRequest:
    """Phonemes before, and the state -> logits and the next state: one step where T = 1."""
    source, lengths = letters(EXAMPLE)
    previous, _ = phonemes(EXAMPLE)
    with torch.no_grad():
        (remembered, *_), h = model.encode(source, lengths)
    inputs = {"previous": previous, "h": h}
    axes: dict[str, tuple[str | None, ...]] = {"previous": ("T", "B"), "h": ("B", None)}
    if isinstance(model.decoder, AttentionDecoder):
        graph: nn.Module = AttentionGraph(model.decoder)
        inputs = {"annotations": remembered, "lengths": lengths, **inputs}
        axes = {"annotations": ("S", "B", None), "lengths": ("B",), **axes}
    else:
        assert isinstance(model.decoder, FixedContextDecoder)
        graph = FixedContextGraph(model.decoder)
        inputs, axes = {"context": remembered, **inputs}, {"context": ("B", None), **axes}
    return ExportRequest(
        graph,
        inputs,
        axes,
        state={"h": "h_out"},
        outputs=("logits", "h_out"),
        name=f"{kind}-decoder-step",
        generation=Generation(form="step", tokens="previous", scores="logits", start=BOUNDARY, end=BOUNDARY, symbols=WRITTEN),
    )


def whole_request(name: str, search: Greedy | BeamSearch) -> ExportRequest:
    """Letters and lengths -> phonemes, in one run."""
    source, lengths = letters(EXAMPLE)
    return generation_request(
        search,
        {"source": source, "lengths": lengths},
        axes={"source": ("S", "B"), "lengths": ("B",)},
        longest=LONGEST,
        name=name,
        text=SPELLING,
        symbols=WRITTEN,
    )


RECIPE = Recipe(
    name="letters-to-phonemes",
    row="6",
    title="Encoder-decoder, different lengths; context: final state, or a sequence of vectors",
    claim="A context of fixed size is too small to summarise a long sequence; attention to a sequence of vectors is not.",
    exported_as="encoder, decoder step; one graph with its loop",
    run=run_letters_to_phonemes,
)
