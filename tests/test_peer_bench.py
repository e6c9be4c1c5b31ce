"""The benchmark beside other runtimes: its rounds, its statistics, what it does with who is wrong or breaks, and its page."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import performance_page as page
import performance_reasons
from peers import benchmark, environments, turns
from peers.converting import PARTS, converted, out_of_time
from peers.limits import Meter
from peers.prepared import Prepared, cost_of
from peers.runtimes import NAMES
from peers.statistics import fastest, ratios, spread
from peers.turns import Failed, Pace, Worker, take_turns
from peers.worker import relative_error
from peers.workloads import WORKLOADS, workload

ROOT = Path(__file__).parent.parent
GAIT = workload("gait-step")  # the smallest
BRISK = Pace(turn=0.002, warm=0.0005, rest=0.0, rounds=3, fewest=3, total=1.0)
STEADY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # however busy the machine is
SOME = st.lists(st.floats(0.1, 1e6), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def asked(build):
    return benchmark.Asked([GAIT], ("edgeseq", "torch_eager", "tract_cpu"), (1,), BRISK, build / "results.jsonl", build)


@pytest.fixture(scope="module")
def record(asked):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")  # as the program itself does before NumPy is imported
        (found,) = benchmark.measure(asked, lambda text: None)
    return found


@pytest.fixture(scope="module")
def prepared(record, build):
    (folder,) = (build / "workloads").iterdir()
    return Prepared(folder)


@pytest.fixture
def worker(prepared, build, record):
    workers = []

    def start(name="edgeseq", *, of=prepared, files=None, limit=30.0):
        files = files or next((build / "converted").glob(f"gait-step-{name}-*"))
        workers.append(Worker(name, of.folder, files, 1, limit=limit))
        return workers[-1]

    yield start
    for one in workers:
        one.kill()


# --- a run


def test_everyone_is_timed_in_every_round_after_the_outputs_agree(record):
    assert set(record["candidates"]) == {"edgeseq", "torch_eager"}
    for found in record["candidates"].values():
        assert len(found["microseconds"]) == len(record["limit"]["microseconds"]) == BRISK.rounds
        assert set(found["errors"]) == {"now", "ahead"}
        assert all(0 < error < 1e-6 for error in found["errors"].values())
        assert 0 < found["best"] <= min(found["microseconds"])
        assert min(found["load_ms"], found["first_ms"], found["bytes"]) > 0
        assert found["peak_mib"] > found["import_mib"] > 10
        assert "threads" in found["told_threads_by"]
    # Three operators more or less, PyTorch takes several times as long for them; whatever the machine is doing.
    assert ratios(*(record["candidates"][name]["microseconds"] for name in ("torch_eager", "edgeseq"))).median > 1


def test_what_is_not_installed_is_listed(record):
    assert record["failed"] == {"tract_cpu": "not installed: its package is not there"}


def test_a_finished_run_is_begun_anew_and_a_broken_off_one_gone_on_with(asked, record, monkeypatch):
    measured = []

    def measure_workload(one, threads, asked, say):
        measured.append((one.name, threads))
        return {**record, "workload": one.name, "threads": threads}

    monkeypatch.setattr(benchmark, "measure_workload", measure_workload)
    longer = asked._replace(threads=(1, 2), results=asked.results.with_name("longer.jsonl"))
    run = benchmark.measure(longer, lambda text: None)
    next(run)
    run.close()  # broken off
    assert len(list(benchmark.measure(longer, lambda text: None))) == 2
    assert measured == [("gait-step", 1), ("gait-step", 2)]
    list(benchmark.measure(longer, lambda text: None))  # the last one was finished
    assert measured == [("gait-step", 1), ("gait-step", 2)] * 2
    other = longer._replace(pace=BRISK._replace(rounds=4))
    longer.results.write_text("\n".join(longer.results.read_text().splitlines()[:2]) + "\n")
    list(benchmark.measure(other, lambda text: None))  # of another kind: nothing of it is kept
    assert len(measured) == 6
    header, records = benchmark.read(longer.results)
    assert header["asked"]["pace"]["rounds"] == 4
    assert len(records) == 2


def test_the_state_is_carried_from_frame_to_frame(prepared):
    network = GAIT.network()
    state = {name: network.inputs[name] for name in network.state}
    for frame, expected in zip(prepared.frames(), prepared.expected(), strict=True):
        with torch.no_grad():
            outputs = network.module(**{name: torch.from_numpy(array) for name, array in frame.items()}, **state)
        named = dict(zip(network.outputs, outputs, strict=True))
        state = {name: named[output] for name, output in network.state.items()}
        for name in ("now", "ahead"):
            np.testing.assert_allclose(named[name].numpy(), expected[name], atol=1e-6)
    assert expected["now"].dtype == np.float64


def test_the_model_with_fixed_axes_computes_the_same(prepared):
    session = onnxruntime.InferenceSession(prepared.fixed_onnx, providers=["CPUExecutionProvider"])
    inputs = {**prepared.frames()[0], **prepared.zeros()}
    assert {value.name: tuple(value.shape) for value in session.get_inputs()} == {n: a.shape for n, a in inputs.items()}
    np.testing.assert_allclose(session.run(["now"], inputs)[0], prepared.expected()[0]["now"], atol=1e-6)


# --- who is wrong, or breaks


def test_a_runtime_that_disagrees_is_wrong_and_not_timed(worker, prepared, tmp_path):
    lying = Prepared(shutil.copytree(prepared.folder, tmp_path / "lying"))
    stacked = dict(np.load(lying.folder / "expected.npz"))
    stacked["ahead"][-1] += 1e-3  # in the last frame alone: a state that is lost shows late
    np.savez(lying.folder / "expected.npz", **stacked)
    found = worker(of=lying).loaded()
    with pytest.raises(Failed, match=r"wrong: 'ahead' is .*e-0\d of its rms"):
        benchmark._checked("edgeseq", found)
    assert benchmark._checked("edgeseq_int8", found) is found  # within 2 %


def test_an_error_is_relative_to_the_outputs_rms_over_all_frames():
    rng = np.random.default_rng(0)
    right = [{"y": rng.standard_normal((3, 2))} for _ in range(4)]
    got = [{"y": (frame["y"] + 0.01 * rng.standard_normal((3, 2))).astype(np.float32)} for frame in right]
    error = np.stack([one["y"] for one in got]).astype(float) - np.stack([frame["y"] for frame in right])
    expected = np.linalg.norm(error) / np.linalg.norm(np.stack([frame["y"] for frame in right]))
    assert relative_error("y", got, right) == pytest.approx(expected)
    got[2]["y"][0, 0] = np.nan
    assert relative_error("y", got, right) == float("inf")
    got[1]["y"] = got[1]["y"].T
    with pytest.raises(ValueError, match=r"'y' has shape \(2, 3\), PyTorch's has \(3, 2\)"):
        relative_error("y", got, right)


def test_a_file_that_can_not_be_loaded_is_listed_with_the_error(worker, prepared, tmp_path):
    (tmp_path / "model.edgeseq").write_bytes(prepared.bundle.read_bytes()[:1000])
    with pytest.raises(Failed, match=r"^TruncatedBundle: "):
        worker(files=tmp_path).loaded()


def test_one_that_ends_or_is_too_slow_is_listed_and_the_others_go_on(worker):
    with pytest.raises(Failed, match=r"no answer after 0 s"):
        worker(limit=0.001).loaded()
    alive, killed = worker(), worker()
    for one in (alive, killed):
        one.loaded()
    killed_after = iter([lambda: None, lambda: os.kill(killed._process.pid, signal.SIGKILL), lambda: None])
    found = take_turns({"alive": alive, "killed": killed}, BRISK, 0, lambda: next(killed_after)())
    assert found.failed == {"killed": "crashed (SIGKILL)"}
    assert {name: len(times) for name, times in found.medians.items()} == {"alive": BRISK.rounds}
    assert alive.end()["peak_mib"] > 10


class Clock:
    """A candidate of which it is known how long it takes."""

    def __init__(self, nanoseconds, log):
        self.nanoseconds, self.log, self.asked = iter(nanoseconds), log, []

    def time(self, calls, warm):
        self.asked.append((calls, warm))
        self.log.append(self)
        now = next(self.nanoseconds)
        return {"median": now, "best": 0.9 * now, "p90": 1.1 * now}


def test_rounds_are_shuffled_and_a_turn_lasts_as_long_as_asked():
    log = []
    pace = Pace(turn=0.04, warm=0.01, rest=0.0, rounds=40, fewest=2, total=9.0)
    first, second = Clock([1e6] * 3 + list(range(1000, 1040)), log), Clock([4e7] * 50, log)
    found = take_turns({"first": first, "second": second}, pace, 7)
    assert found.medians["first"] == list(range(1000, 1040))
    assert found.best == {"first": 900.0, "second": 0.9 * 4e7}
    assert first.asked[3:] == [(40, 10)] * 40  # 1 ms a call
    assert second.asked[1:] == [(1, 1)] * 40
    began = [log[at] is first for at in range(4, 84, 2)]
    assert 10 < sum(began) < 30
    again = []
    take_turns({"first": Clock([1e6] * 43, again), "second": Clock([4e7] * 50, again)}, pace, 7)
    assert [one.asked is again[4].asked for one in again[4:]] == [one is log[4] for one in log[4:]]


def test_there_are_fewer_rounds_when_time_is_up(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(turns.time, "monotonic", lambda: 13.0 * next(now))
    found = take_turns({"one": Clock([1e6] * 99, [])}, Pace(rest=0.0, rounds=30, fewest=4, total=12.0), 0)
    assert len(found.medians["one"]) == 4


# --- conversions


def test_a_conversion_has_a_time_limit_and_a_failure_is_kept(prepared, tmp_path):
    late = converted("torch_eager", prepared, tmp_path, limit=0.9)  # rounded up to a second: importing PyTorch alone takes more
    assert late.error == "not converted after 1 s of processor time"
    assert out_of_time(late)
    said = []
    assert converted("torch_eager", prepared, tmp_path, say=said.append) == late
    assert said == []


def test_a_conversion_that_raises_says_why(prepared, tmp_path):
    unknown = Prepared(shutil.copytree(prepared.folder, tmp_path / "unknown"))
    (unknown.folder / "facts.json").write_text(json.dumps({**prepared.facts, "name": "nobody"}))
    assert converted("torch_eager", unknown, tmp_path / "converted").error == "KeyError: 'nobody'"


def test_a_changed_graph_is_converted_anew_and_what_starts_from_pytorch_is_not(prepared, tmp_path):
    changed = Prepared(shutil.copytree(prepared.folder, tmp_path / "changed"))
    with changed.onnx.open("ab") as file:
        file.write(b"\n")
    folders = [[converted(name, one, tmp_path).folder for one in (prepared, changed)] for name in ("onnxruntime_plain", "edgeseq")]
    assert [one != other for one, other in folders] == [True, False]


# --- statistics and limits


@STEADY
@given(SOME)
def test_spread_is_numpys(figures):
    found = spread(figures)
    assert tuple(found) == pytest.approx(tuple(np.quantile(figures, (0.5, 0.1, 0.9))))


@STEADY
@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(0.1, 1e6)), min_size=1, max_size=30))
def test_a_ratio_is_the_median_of_the_rounds_ratios(pairs):
    over, under = (list(column) for column in zip(*pairs, strict=True))
    assert ratios(over, under).median == pytest.approx(float(np.median([a / b for a, b in pairs])))


def test_a_clock_that_moves_between_rounds_leaves_ratios_alone():
    clock = np.linspace(1, 1.5, 11)
    assert tuple(ratios(3 * clock, 2 * clock)) == pytest.approx((1.5, 1.5, 1.5))
    with pytest.raises(ValueError, match="3 rounds and 2"):
        ratios([1, 2, 3], [1, 2])
    assert fastest({"one": [3, 1, 2], "other": [1, 9, 9]}) == "one"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_limit_is_the_larger_of_reading_and_multiplying(monkeypatch, threads):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    reading = Meter(1 << 16, 1 << 20, 1, threads).limit()
    assert reading.bound == "reading"
    assert reading.seconds == pytest.approx((1 << 20) / (1e9 * reading.gigabytes))
    multiplying = Meter(1 << 16, 4, 10**9, threads).limit()
    assert multiplying.bound == "multiplying"
    assert multiplying.seconds == pytest.approx(1 / multiplying.gigaflops)
    # Nothing reads a buffer out of the cache faster than 512 bytes a cycle and core, or slower than 10 MB/s.
    assert 0.01 < reading.gigabytes < 2500 * threads
    assert 0.01 < multiplying.gigaflops < 1000 * threads


def test_threads_of_numpys_own_are_refused(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with pytest.raises(RuntimeError, match="OPENBLAS_NUM_THREADS=1"):
        Meter(1, 1, 1, 1)


def test_costs_are_those_counted_by_hand():
    I, H = 64, 256  # noqa: E741
    step = workload("lstm-2x256-step")
    first, second = 4 * H * (I + H), 4 * H * (H + H)
    biases = 2 * 2 * 4 * H
    assert cost_of(step.network().module, {}, 1, 1) == (
        4 * (first + second + biases),
        4 * (first + second + biases),
        2 * (first + second),
    )
    whole = workload("bilstm-2x256-100").network().module
    one = 4 * H * H  # of a layer and direction, with its state
    assert cost_of(whole, {}, 100, 3)[:2] == (4 * one, 100 * 4 * 4 * one)
    assert cost_of(whole, {}, 100, 3).operations == 2 * 100 * 3 * 2 * (4 * H * I + 4 * H * 2 * H + 2 * one)
    vad = workload("vad-step").network
    network = vad()
    matrices = {name: p.numel() for name, p in network.module.named_parameters() if p.dim() == 2}
    four_times = matrices["stft.weight"] + matrices["conv1.weight"]
    assert cost_of(network.module, network.uses, 1, 1).operations == 2 * (sum(matrices.values()) + 3 * four_times)


# --- what belongs together


def constants_of(name):
    tree = ast.parse((ROOT / "benchmarks" / "peers" / "runtimes" / f"{name}.py").read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    return {node.targets[0].id: node.value.value for node in assigned}, tree


def test_every_runtime_keeps_the_interface():
    assert set(NAMES) == set(PARTS) == set(page.TITLES)
    for name in NAMES:
        constants, tree = constants_of(name)
        assert (constants["MODEL"], constants["PACKAGE"]) == PARTS[name]
        assert constants["NAME"].replace("`", "") == page.TITLES[name].replace("`", "")
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        imported = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert {"convert", "load"} <= functions | imported
        assert "THREADS" in {*constants, *imported}


def test_the_extra_installs_the_peers_in_versions_that_are_written_down():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["bench"] == ["edgeseq[train,quantize]", *environments.PEERS]
    pinned = {line.split("==")[0].lower() for line in environments.CONSTRAINTS.read_text().splitlines() if "==" in line}
    assert {name.lower() for name in environments.PEERS} <= pinned
    assert {"torch", "onnxruntime", "numpy"} <= pinned
    assert "litert-torch==" in environments.CONVERTER_CONSTRAINTS.read_text()
    assert {"bench"} <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert "bench" not in (ROOT / ".ci" / "run").read_text()


def test_the_workloads_are_those_that_were_asked_for():
    assert {one.name for one in WORKLOADS} >= set(benchmark.QUICKLY)
    assert len({one.name for one in WORKLOADS}) == len(WORKLOADS) == 16
    assert {one.group for one in WORKLOADS} == set(page.GROUPS)
    assert all((one.T, one.B) == (1, 1) for one in WORKLOADS if one.streams)
    assert page.FOOTPRINT in benchmark.QUICKLY


# --- the page


def candidate(*microseconds):
    return {
        "microseconds": list(microseconds), "best": min(microseconds), "load_ms": 12.3, "first_ms": 0.4, "import_ms": 50.0,
        "import_mib": 30.0, "peak_mib": 42.0, "bytes": 3_400_000, "convert_s": 1.5, "errors": {"y": 1e-7},
        "told_threads_by": "num_threads",
    }  # fmt: skip


def recorded(name, group, threads, candidates, limit, failed=None, bound="reading"):
    return {
        "workload": name, "title": name.upper(), "group": group, "threads": threads, "seconds": 30.0, "load": 0.1,
        "candidates": {who: candidate(*times) for who, times in candidates.items()}, "failed": failed or {},
        "limit": {"microseconds": limit, "bound": bound, "gigabytes_a_second": 31.0, "gigaflops": 77.0},
    }  # fmt: skip


HEADER = {
    "asked": {
        "workloads": [], "runtimes": list(NAMES), "threads": [1, 2], "pace": BRISK._asdict(), "machine": "a CPU, 2 cores, x86_64",
        "versions": dict.fromkeys(NAMES, "1.2"),
    },
    "started": "2026-01-01 00:00", "load": 0.2, "features": ["avx2"], "system": "Debian", "python": "3.11", "numpy": "2.4",
}  # fmt: skip
RECORDS = [
    recorded(
        "lstm-2x256-step", "step", 1,
        {"edgeseq": (100, 110, 120), "edgeseq_int8": (50, 55, 60), "litert": (80, 88, 96), "onnxruntime_plain": (10, 10, 10)},
        (50, 55, 60), {"tract_cpu": "TractError: /tmp/x/y no | operator " + 40 * "long "},
    ),
    recorded(
        "gait-step", "step", 1, {"edgeseq": (13, 13, 13), "litert": (4, 4, 4), "mnn_cpu": (3, 3, 3)}, (1, 1, 1),
        {"tract_cpu": "TractError: /tmp/x/y no | operator " + 40 * "long "},
    ),
    recorded(
        "lstm-2x512", "throughput", 2, {"edgeseq": (1000, 1000, 1000), "litert": (1200, 1300, 1400)}, (500, 500, 500),
        bound="multiplying",
    ),
]  # fmt: skip


def test_the_page_is_filled_from_the_measurements(tmp_path):
    target = tmp_path / "performance.md"
    target.write_text("# Above\n<!-- peers -->\nof last time\n<!-- end of peers -->\nbelow\n")
    page.write_page(HEADER, RECORDS, target, tmp_path)
    text = target.read_text()
    assert text.startswith("# Above\n")
    assert text.endswith("\nbelow\n")
    assert "of last time" not in text
    assert "| edgeseq | 110 | 13.0 |" in text
    assert "| LiteRT | 88.0 (0.80) | 4.0 (0.31) |" in text
    assert "| ONNX Runtime, plain `run` | **10.0** (0.09) | – |" in text
    assert "| edgeseq, int8, tuned | 55.0 (0.50) | – |" in text
    assert "| *limit* | 55.0, 31 GB/s | 1.0, 31 GB/s |" in text
    assert "| *edgeseq's best fp32 over its limit* | 2.00 | 13.00 |" in text
    # The runtime under edgeseq is no peer, and neither is int8.
    assert "| *edgeseq's best fp32 over the best peer* | 1.25 (1.25–1.25), LiteRT | 4.33 (4.33–4.33), MNN |" in text
    assert "| *best fp32 peer over int8* | 1.60 | – |" in text
    assert "| *limit* | 500, 77 GFLOP/s |" in text
    assert "| tract | LSTM-2X256-STEP; GAIT-STEP (one thread) | TractError: no / operator long" in text
    assert "| edgeseq | 50 | 12 | 0.4 | 42 (12) | 3.40 | 1.5 |" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert text.count("![") == 2
    assert "its number of threads: edgeseq: num_threads. edgeseq, int8, tuned: num_threads. ONNX Runtime, plain `run`:" in " ".join(
        text.split()
    )
    assert max(map(len, (line for line in text.splitlines() if not line.startswith(("|", "-"))))) <= 140


def test_reasons_tell_the_cost_of_a_call_from_the_kernels():
    text = "\n".join(performance_reasons.reasons(RECORDS, page.TITLES))
    assert (
        "With one thread, of 2 workloads in fp32, edgeseq is ahead of every peer on 0, within 3% of the best on 0, and behind on 2:"
        in text
    )
    assert "With 2 threads, of 1 workloads in fp32, edgeseq is ahead of every peer on 1" in text
    # 110 against 88: of the 22 between them 9 are the call's, as 13 against 4 show.
    assert "LSTM-2X256-STEP: 1.25 times LiteRT (110.0 against 88.0 µs). 41% of the difference is what a call costs" in text
    assert "of the rate of reading edgeseq 50%, LiteRT 62%" in text
    assert "GAIT-STEP: 4.33 times MNN (13.0 against 3.0 µs). Next to nothing of it is arithmetic (the limit is 1.0 µs)" in text
    assert text.index("GAIT-STEP") < text.index("LSTM-2X256-STEP")
    assert "Over a sequence" not in text  # edgeseq is behind on none


def test_the_terminals_table_is_in_the_order_of_the_medians():
    from rich.console import Console

    console = Console(width=130, record=True, file=io.StringIO())
    console.print(page.terminal_table(RECORDS[0]))
    text = console.export_text()
    places = [text.index(name) for name in ("ONNX Runtime", "edgeseq, int8", "LiteRT", "limit: reading", "tract: TractError")]
    assert places == sorted(places)
    assert re.search(r"LiteRT +│ +88\.0 │ 81\.6–94\.4 │ +80\.0 │ +0\.80 │ +1\.60 │", text)


def test_results_that_are_published_are_read_back(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (HEADER, *RECORDS)) + "\n")
    header, records = benchmark.read(path)
    assert header["asked"]["machine"] == "a CPU, 2 cores, x86_64"
    assert [one["workload"] for one in records] == ["lstm-2x256-step", "gait-step", "lstm-2x512"]
