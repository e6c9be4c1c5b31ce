"""Sequences written greedily, at random and by beam search: in PyTorch, in one graph, and step by step in NumPy."""

from __future__ import annotations

from collections import Counter

import generation_models
import numpy as np
import onnx
import pytest
import torch
from generation_models import END, V, plain_beam, plain_greedy, plain_sampling

import edgeseq_runtime
from edgeseq.generation import BeamSearch, Greedy, Sampling
from edgeseq.generation.sampling import drawn
from edgeseq.loops import Loop
from edgeseq.models import AttentionGraph, EncoderGraph, FixedContextGraph
from edgeseq.models.conditional import SequenceStepGraph, VectorEncoderGraph, VectorStepGraph
from edgeseq.models.graphical import StepGraph
from edgeseq_export import ExportRequest, export, export_request, generation_request
from edgeseq_runtime import generation
from edgeseq_runtime.bundle import Generation, TextInput
from edgeseq_runtime.errors import InputError, UnsupportedModule, UsageError

CASES = {f"{case.name}-{number}": case for number, case in enumerate(generation_models.all_cases())}
LONGEST = 7


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    return request.param


def counted(tokens, counts, b, n=None):
    """The tokens of one candidate that count, as a list."""
    column, count = (tokens[:, b], counts[b]) if n is None else (tokens[:, b, n], counts[b, n])
    return column[: int(count)].tolist()


def control(longest):
    return {"longest": torch.tensor(longest)}


def draws(B, T=LONGEST, seed=0, temperature=1.3, top_k=4, top_p=0.9):
    return {
        "uniforms": torch.rand(T, B, generator=torch.Generator().manual_seed(seed)),
        "temperature": torch.tensor(temperature),
        "top_k": torch.tensor(top_k),
        "top_p": torch.tensor(top_p),
    }


# ---- in PyTorch, against the plain searches ----


def test_greedy_search_is_the_plain_one(case):
    inputs = case.draw(4, 0)
    tokens, counts, scores = Greedy(case.writer)(**control(LONGEST), **inputs)
    assert tokens.shape == (LONGEST, 4)
    for b in range(4):
        expected, score = plain_greedy(case.next_log_p(inputs, b), case.writer.end, LONGEST)
        assert counted(tokens, counts, b) == expected
        assert scores[b].item() == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize(("width", "penalty"), [(1, 1.0), (3, 0.0), (4, 1.0), (V, 0.6)])
def test_beam_search_is_the_plain_one(case, width, penalty):
    inputs = case.draw(3, 1)
    tokens, counts, scores = BeamSearch(case.writer, width, length_penalty=penalty)(**control(LONGEST), **inputs)
    assert tokens.shape == (LONGEST, 3, width)
    for b in range(3):
        expected = plain_beam(case.next_log_p(inputs, b), case.writer.end, LONGEST, width, penalty)
        assert [counted(tokens, counts, b, n) for n in range(width)] == [candidate for candidate, _ in expected]
        np.testing.assert_allclose(scores[b], [score for _, score in expected], atol=1e-4)


def test_sampling_is_the_plain_one(case):
    inputs, given = case.draw(3, 2), draws(3)
    tokens, counts, scores = Sampling(case.writer)(**given, **inputs)
    for b in range(3):
        expected, score = plain_sampling(
            case.next_log_p(inputs, b), case.writer.end, given["uniforms"][:, b].numpy().astype(float), 1.3, 4, 0.9
        )
        assert counted(tokens, counts, b) == expected
        assert scores[b].item() == pytest.approx(score, abs=1e-4)


def test_the_cases_end_at_different_times_and_some_not_at_all():
    """What the tests above compare would else be of little worth."""
    for name, case in CASES.items():
        if case.writer.end is None:
            continue
        counts = torch.cat([BeamSearch(case.writer, 4)(**control(LONGEST), **case.draw(6, seed))[1] for seed in range(4)])
        assert len(set(counts.flatten().tolist())) >= 4, name


def test_a_beam_finds_what_greedy_search_misses():
    case = CASES["attention-5"]
    inputs = case.draw(64, 3)
    _, _, greedy = Greedy(case.writer)(**control(LONGEST), **inputs)
    _, _, beam = BeamSearch(case.writer, V, length_penalty=0.0)(**control(LONGEST), **inputs)
    assert (beam[:, 0] > greedy + 1e-3).any()
    assert (beam[:, 0] >= greedy - 1e-5).float().mean() > 0.95


def test_after_the_end_there_is_only_the_end(case):
    tokens, counts, _ = Greedy(case.writer)(**control(12), **case.draw(6, 0))
    if case.writer.end is not None:
        for b, count in enumerate(counts.tolist()):
            assert (tokens[count:, b] == case.writer.end).all()


def test_what_is_drawn_follows_the_distribution():
    logits = torch.tensor([1.0, -0.5, 2.0, 0.3, -2.0, 0.0])
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    for temperature, top_k, top_p in ((1.0, 6, 1.0), (0.5, 6, 1.0), (2.0, 3, 1.0), (1.0, 6, 0.8), (1.5, 4, 0.7)):
        controls = (torch.tensor(temperature), torch.tensor(top_k), torch.tensor(top_p))
        found = Counter(drawn(logits.expand(len(u), -1), u, *controls).tolist())
        p = torch.softmax(logits / temperature, dim=-1)
        order = p.argsort(descending=True)[:top_k].tolist()
        shares = p[order] / p[order].sum()
        kept = order[: int((shares.cumsum(0) - shares < top_p).sum())]
        assert set(found) == set(kept)
        for token in kept:
            share = float(p[token] / p[kept].sum())
            assert found[token] / len(u) == pytest.approx(share, abs=4 * (share * (1 - share) / len(u)) ** 0.5 + 1e-9)


@pytest.mark.parametrize("u", [0.0, 1.0 - 2**-24])
def test_the_extreme_numbers_draw_the_likeliest_and_the_last_kept(u):
    logits = torch.tensor([[0.1, 3.0, -1.0, 2.0, -20.0, -30.0]])
    controls = (torch.tensor(1.0), torch.tensor(3), torch.tensor(1.0))
    assert drawn(logits, torch.tensor([u]), *controls).item() == (1 if u == 0 else 0)


@pytest.mark.parametrize("top_p", [0.8, 1.0])
@pytest.mark.parametrize("u", [0.0, 0.3, 1.0 - 2**-24])
def test_both_draw_the_same_of_what_is_kept_even_where_rounding_reaches_the_total(u, top_p):
    logits = 2 * torch.randn(2000, 9, generator=torch.Generator().manual_seed(1))
    numbers = torch.full((2000,), u)
    found = drawn(logits, numbers, torch.tensor(0.7), torch.tensor(5), torch.tensor(top_p))
    own = generation.Sampling(temperature=0.7, top_k=5, top_p=top_p).draw(logits.numpy(), numbers.numpy())
    np.testing.assert_array_equal(own, found)
    p = torch.softmax(logits / 0.7, dim=-1)
    likelier = (p > p.gather(1, found[:, None])).sum(1)  # rank of the token drawn
    before = torch.where(p > p.gather(1, found[:, None]), p, 0).sum(1) / p.topk(5).values.sum(1)
    assert (likelier < 5).all()
    assert (before < top_p + 1e-6).all()


def test_a_beam_wider_than_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"width is 7; it has to be in 1\.\.6"):
        BeamSearch(CASES["vector-1"].writer, V + 1)


# ---- as one graph, and step by step in NumPy, against PyTorch ----


def step_requests(case):
    """The encoder, where there is one, and the step graph of a case."""
    model, inputs = case.model, case.draw(3, 5)
    with torch.no_grad():
        begun = case.writer.begin(**inputs)
    previous = torch.randint(V, (5, 3))
    says = {"generation": Generation(form="step", tokens="previous", scores="scores", start=case.start, end=case.writer.end)}
    tokens, states = {"previous": ("T", "B")}, {"h": ("B", None)}
    (h,), state = begun.state[:1], {"h": "h_out"}
    outputs = ("scores", "h_out")
    if case.name == "autoregressive":
        inputs = {"previous": previous, "h": h, "s": begun.state[1]}
        axes = {**tokens, **states, "s": ("B", None)}
        return None, ExportRequest(
            StepGraph(model), inputs, axes, {"h": "h_out", "s": "s_out"}, (*outputs, "s_out"), "step", **says
        )
    if case.name == "sequence":
        x = torch.randn(5, 3, 3)
        axes = {**tokens, "x": ("T", "B", None), **states}
        return None, ExportRequest(
            SequenceStepGraph(model), {"previous": previous, "x": x, "h": h}, axes, state, outputs, "step", **says
        )
    if case.name == "vector":
        encoder = ExportRequest(VectorEncoderGraph(model), inputs, case.axes, outputs=("context", "h"), name="encoder")
        graph, given = VectorStepGraph(model), {"previous": previous, "context": begun.memory[0], "h": h}
        return encoder, ExportRequest(graph, given, {**tokens, "context": ("B", None), **states}, state, outputs, "step", **says)
    attention = case.name == "attention"
    first = "annotations" if attention else "context"
    encoder = ExportRequest(EncoderGraph(model), inputs, case.axes, outputs=(first, "h"), name="encoder")
    with torch.no_grad():
        memory, _ = model.encode(**inputs)
    given = {first: memory[0], **({"lengths": inputs["lengths"]} if attention else {}), "previous": previous, "h": h}
    axes = {first: ("S", "B", None) if attention else ("B", None), "lengths": ("B",), **tokens, **states}
    graph = (AttentionGraph if attention else FixedContextGraph)(model.decoder)
    return encoder, ExportRequest(graph, given, {name: axes[name] for name in given}, state, outputs, "step", **says)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("writers")


SEARCHES = {
    "greedy": (Greedy, generation.Greedy()),
    "beam": (lambda writer: BeamSearch(writer, 4), generation.BeamSearch(4)),
    "sampling": (Sampling, generation.Sampling(temperature=1.3, top_k=4, top_p=0.9, seed=11)),
}
GRAPHS = [("attention-5", "beam"), ("autoregressive-0", "sampling"), ("sequence-3", "greedy")]
SLOW = [(name, kind) for name in CASES for kind in SEARCHES if (name, kind) not in GRAPHS]


@pytest.mark.parametrize(("name", "kind"), [*GRAPHS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)])
def test_one_graph_writes_what_pytorch_writes(name, kind, folder):
    case, (make, search) = CASES[name], SEARCHES[kind]
    module = make(case.writer)
    path = folder / f"{name}-{kind}.edgeseq"
    export_request(generation_request(module, case.draw(3, 4), axes=case.axes, longest=LONGEST, name=kind), path)
    census = edgeseq_runtime.open_bundle(path).manifest.census
    assert census["Loop"] == 1
    assert edgeseq_runtime.measure_parity(path).passed
    writer = edgeseq_runtime.load_writer(path)
    for B, longest, seed in ((1, 1, 20), (5, LONGEST, 21), (64, 2 * LONGEST, 22)):
        inputs = case.draw(B, seed)
        controls = control(longest)
        if kind == "sampling":
            controls = draws(B) | {"uniforms": torch.from_numpy(search.uniforms(longest, B))}
        with torch.no_grad():
            tokens, counts, scores = (t.numpy() for t in module(**controls, **inputs))
        written = writer.write(arrays(inputs), search if kind == "sampling" else None, longest=longest)
        np.testing.assert_array_equal(written.tokens.reshape(tokens.shape), tokens)
        np.testing.assert_array_equal(written.counts.reshape(counts.shape), counts)
        np.testing.assert_allclose(written.scores.reshape(scores.shape), scores, atol=1e-4)


def arrays(inputs):
    return {name: t.numpy() for name, t in inputs.items()}


@pytest.mark.parametrize("name", [name for name in CASES if name != "vector-2"])
def test_step_by_step_in_numpy_writes_what_pytorch_writes(name, folder):
    case = CASES[name]
    encoder, step = step_requests(case)
    paths = [request and export_request(request, folder / f"{name}-{request.name}.edgeseq") for request in (encoder, step)]
    writer = edgeseq_runtime.load_writer(paths[1], encoder=paths[0])
    for B, longest, seed in ((1, 1, 20), (5, LONGEST, 21), (64, 2 * LONGEST, 22)):
        inputs = case.draw(B, seed)
        given = {key: array for key, array in arrays(inputs).items() if key != "previous"}
        for kind, (make, search) in SEARCHES.items():
            controls = control(longest)
            if kind == "sampling":
                controls = draws(B) | {"uniforms": torch.from_numpy(search.uniforms(longest, B))}
            with torch.no_grad():
                tokens, counts, scores = (t.numpy() for t in make(case.writer)(**controls, **inputs))
            written = writer.write(given, search, longest=longest)
            np.testing.assert_array_equal(written.counts.reshape(counts.shape), counts)
            T = len(written.tokens)
            np.testing.assert_array_equal(written.tokens.reshape(T, *tokens.shape[1:]), tokens[:T])
            np.testing.assert_allclose(written.scores.reshape(scores.shape), scores, atol=1e-4)


def test_the_loop_stops_at_the_last_end(folder):
    """Its counter, made an output, is as large as the longest sequence."""
    case = CASES["attention-5"]
    path = folder / "stops.edgeseq"
    export_request(generation_request(Greedy(case.writer), case.draw(3, 4), axes=case.axes, longest=LONGEST), path)
    graph = onnx.load_from_string(edgeseq_runtime.open_bundle(path).model())
    loop = next(node for node in graph.graph.node if node.op_type == "Loop")
    graph.graph.output.append(onnx.helper.make_tensor_value_info(loop.output[0] or "steps", onnx.TensorProto.INT64, []))
    loop.output[0] = graph.graph.output[-1].name
    onnx.save(graph, folder / "stops.onnx")
    session = edgeseq_runtime.load(folder / "stops.onnx")
    found = set()
    for seed in range(12):
        inputs = arrays(case.draw(2, seed))
        outputs = session.run({**inputs, "lengths": inputs["lengths"].astype(np.int32), "longest": np.array(40)})
        assert outputs[graph.graph.output[-1].name] == outputs["counts"].max()
        assert outputs["tokens"].shape == (40, 2)
        found.add(int(outputs["counts"].max()))
    assert min(found) < 10


def test_the_same_seed_gives_the_same_text_whatever_the_batch(folder):
    case = CASES["fixed-4"]
    encoder, step = (export_request(r, folder / f"seed-{r.name}.edgeseq") for r in step_requests(case))
    writer = edgeseq_runtime.load_writer(step, encoder=encoder)
    inputs = arrays(case.draw(6, 30))
    together = writer.write(inputs, generation.Sampling(seed=5), longest=12)
    again = writer.write(inputs, generation.Sampling(seed=5), longest=12)
    other = writer.write(inputs, generation.Sampling(seed=6), longest=12)
    np.testing.assert_array_equal(together.tokens, again.tokens)
    assert (together.tokens != other.tokens).any()
    for b in range(6):
        one = {"source": inputs["source"][:, b : b + 1], "lengths": inputs["lengths"][b : b + 1]}
        alone = writer.write(one, generation.Sampling(seed=5, first=b), longest=12)
        np.testing.assert_array_equal(alone.tokens[:, 0], together.tokens[:, b])
    longer = writer.write(inputs, generation.Sampling(seed=5), longest=20)
    np.testing.assert_array_equal(longer.tokens[:12], together.tokens)


def test_state_and_prompt_of_an_autoregressive_model_may_be_given(folder):
    case = CASES["autoregressive-0"]
    _, request = step_requests(case)
    writer = edgeseq_runtime.load_writer(export_request(request, folder / "prompt.edgeseq"))
    unconditional = writer.write({}, longest=9)
    assert unconditional.tokens.shape == (9, 1, 1)
    zeros = {name: np.zeros((2, 5), np.float32) for name in ("h", "s")}
    np.testing.assert_array_equal(writer.write(zeros, longest=9).tokens[:, 0], unconditional.tokens[:, 0])
    with pytest.raises(InputError, match=r"missing: \['s'\]"):
        writer.write({"h": zeros["h"]})


# ---- what is refused ----


class Repeated(Loop):
    def __init__(self, step):
        super().__init__()
        self.own = step

    def unfinished(self, state, given):
        return state[0] < 3

    def step(self, state, given):
        return state[0] + 1, self.own(state[1])


class Around(torch.nn.Module):
    def __init__(self, step):
        super().__init__()
        self.loop = Repeated(step)

    def forward(self, x):
        return self.loop((torch.zeros((), dtype=torch.int64), x))[1]


def test_any_loop_of_ones_own_is_one_loop(tmp_path):
    path = export(Around(torch.nn.Linear(4, 4)), {"x": torch.randn(3, 4)}, tmp_path / "own.edgeseq", axes={"x": ("B", None)})
    assert edgeseq_runtime.open_bundle(path).manifest.census == {"Loop": 1}


def test_a_recurrent_layer_inside_a_loop_is_named(tmp_path):
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(4, 4)

        def forward(self, x):
            return self.gru(x.unsqueeze(0))[0].squeeze(0)

    with pytest.raises(UnsupportedModule, match=r"'loop\.own\.gru', a GRU, is called in the step of an edgeseq Loop; call a cell"):
        export(Around(Layer()), {"x": torch.randn(3, 4)}, tmp_path / "no.edgeseq", axes={"x": ("B", None)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": "y"}, "input 'y', which there is not"),
        ({"scores": "y"}, "names the output 'y'"),
        ({"start": None}, "needs the token before the first"),
        ({"form": "tree"}, "form of generation is 'tree'"),
        ({"form": "loop", "tokens": "scores", "counts": "scores"}, "search of a loop is ''"),
        ({"form": "loop", "tokens": "scores", "counts": "scores", "search": "beam"}, r"takes the inputs \['longest'\]"),
    ],
)
def test_a_generation_that_does_not_fit_its_graph_is_refused(changes, message):
    _, request = step_requests(CASES["autoregressive-0"])
    says = {"form": "step", "tokens": "previous", "scores": "scores", "start": V, "end": END, **changes}
    with pytest.raises(UsageError, match=message):
        ExportRequest(request.model, request.inputs, request.axes, request.state, request.outputs, generation=Generation(**says))


def test_text_that_does_not_fit_is_refused():
    _, request = step_requests(CASES["autoregressive-0"])
    for text, message in (
        (TextInput(input="letters", symbols=("a",)), "text names the input 'letters'"),
        (TextInput(input="previous", symbols=("a", "a")), "each once"),
        (TextInput(input="previous", symbols=("ab",)), r"found \['ab'\]"),
    ):
        with pytest.raises(UsageError, match=message):
            ExportRequest(request.model, request.inputs, request.axes, request.state, request.outputs, text=text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generation.Sampling(temperature=0), "temperature is 0; give more than 0"),
        (lambda: generation.Sampling(top_k=0), "top_k is 0"),
        (lambda: generation.Sampling(top_p=1.5), "top_p is 1.5"),
        (lambda: generation.Sampling(seed=-1), "seed is -1"),
        (lambda: generation.BeamSearch(0), "width is 0"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_model_that_says_nothing_of_generation_is_refused(folder):
    path = export(torch.nn.GRU(2, 3), {"input": torch.randn(4, 1, 2)}, folder / "gru.edgeseq", axes={"input": ("T", "B", None)})
    with pytest.raises(UsageError, match="does not say how it writes sequences"):
        edgeseq_runtime.load_writer(path)
