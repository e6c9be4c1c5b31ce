"""What `edgeseq compile` brings on this machine, measured again after the choice, and what the options bring that it leaves out.

    python benchmarks/tuning.py                     # some four minutes; writes docs/performance.md and results/tuning.json
    python benchmarks/tuning.py --seconds 1 --dry   # a look

Each workload is tuned twice: for one thread, and for as many as there are cores. What was chosen is then held against the default
in two processes of their own, which know nothing of the choice's own measurement: a gain that was luck is gone there. The options
that are left out are set on ONNX Runtime itself, each beside the default, in sessions opened anew several times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import msgspec
import onnxruntime
import torch
from filled_page import fill
from mutated_models import cache, exported
from peers.workloads import Layers, workload
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import edgeseq_runtime
from edgeseq_export import ExportRequest
from edgeseq_runtime.bench import inputs_at
from edgeseq_runtime.plan import Plan, make_plan
from edgeseq_runtime.tuning import Gain, Workload, tune_plan
from edgeseq_runtime.tuning.cache import usable_cores
from edgeseq_runtime.tuning.choose import gain_of, ratios
from edgeseq_runtime.tuning.contest import SITTING_ROUNDS, SITTINGS
from edgeseq_runtime.tuning.measure import Call, timed_rounds
from edgeseq_runtime.tuning.record import DEFAULT
from edgeseq_runtime.tuning.workload import call_of, example_inputs

HERE = Path(__file__).parent
WORKLOADS = (
    "lstm-128-step",
    "lstm-2x256-step",
    "gru-2x256-step",
    "lstm-1024-step",
    "vad-step",
    "lstm-2x256-100",
    "bilstm-2x256-100",
    "layer-norm-lstm-256",
)
CHECKS = 2
PARALLEL = "nodes in parallel"
LEFT_OUT: dict[str, Callable[[onnxruntime.SessionOptions], object]] = {
    "no memory arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
    "no memory pattern": lambda options: setattr(options, "enable_mem_pattern", False),
    "no memory reuse": lambda options: setattr(options, "enable_mem_reuse", False),
    PARALLEL: lambda options: setattr(options, "execution_mode", onnxruntime.ExecutionMode.ORT_PARALLEL),
    "by priority": lambda options: setattr(options, "execution_order", onnxruntime.ExecutionOrder.PRIORITY_BASED),
    "denormals as zero": lambda options: options.add_session_config_entry("session.set_denormal_as_zero", "1"),
    "allocators of the process": lambda options: options.add_session_config_entry("session.use_env_allocators", "1"),
    "weights from the device's allocator": lambda options: options.add_session_config_entry(
        "session.use_device_allocator_for_initializers", "1"
    ),
    "kernels for latency": lambda options: options.add_session_config_entry("session.kernel_dispatch_policy", "latency"),
}
LEFT_OUT_ON = ("lstm-128-step", "gru-2x256-step", "layer-norm-lstm-256")
TEXT = """Each model tuned with `edgeseq compile` for one thread and for {cores}, then the choice held against the default in two
processes of their own: median of {sittings} sittings in fresh sessions, in brackets the bound that the gain is above in 19 of 20
cases. A gain is the default's time over the choice's. Where nothing is certainly faster the default stays: 1.

{table}

ONNX Runtime {version} on {machine}; {seconds:g} s a choice: `python benchmarks/tuning.py`. What is chosen depends on the
processor: with AVX2 alone, unpacked weights bring a step 1.07 to 1.23 where they are below 4 MB.

What is never tried, since it brings nothing to these models; the same figures:

{left_out}

Times are the calling thread's own, so that what *nodes in parallel* leaves to other threads is not in its figures.

States in a tensor for each layer instead of one for all bring {apart} to a step of LSTM 2×256: too little to rewrite a graph and
its interface for. What does not depend on the state is always outside the loop ([hoisting](hoisting.md))."""


class Apart(nn.Module):
    """Two layers of LSTM, each with its own states: x (T, B, I) and four states (1, B, H)."""

    def __init__(self, layers: nn.LSTM) -> None:
        super().__init__()
        self.first = nn.LSTM(layers.input_size, layers.hidden_size)
        self.second = nn.LSTM(layers.hidden_size, layers.hidden_size)
        for number, layer in enumerate((self.first, self.second)):
            layer.load_state_dict({name: layers.state_dict()[f"{name[:-1]}{number}"] for name in layer.state_dict()})

    def forward(self, x: Tensor, h0: Tensor, c0: Tensor, h1: Tensor, c1: Tensor) -> tuple[Tensor, ...]:
        y, (h0, c0) = self.first(x, (h0, c0))
        y, (h1, c1) = self.second(y, (h1, c1))
        return y, h0, c0, h1, c1


@dataclass(frozen=True)
class Result:
    """A workload tuned for some threads."""

    title: str
    workload: str
    threads: int  # at most
    chosen: str
    default_us: float
    claimed: Gain | None
    checks: tuple[Gain, ...]
    best_other: tuple[str, float]  # of the heats: the best that was not chosen, and its gain
    seconds: float


def bundle_of(name: str) -> Path:
    """A workload's network as a bundle."""

    def request() -> ExportRequest:
        network = workload(name).make(5, 2)
        return ExportRequest(network.module, network.inputs, network.axes, dict(network.state), network.outputs)

    return exported(f"tuned {name}", request, cache())


def apart_of(name: str) -> Path:
    """A workload of two layers of LSTM with a state tensor for each layer."""

    def request() -> ExportRequest:
        network = workload(name).make(5, 2)
        assert isinstance(network.module, Layers)
        states = {state: torch.zeros(1, 2, 256) for state in ("h0", "c0", "h1", "c1")}
        axes = {"x": ("T", "B", None), **dict.fromkeys(states, (None, "B", None))}
        outputs = ("y", *(f"{state}_out" for state in states))
        inputs = {"x": network.inputs["x"], **states}
        return ExportRequest(Apart(network.module.layers).eval(), inputs, axes, {s: f"{s}_out" for s in states}, outputs)

    return exported(f"tuned apart {name}", request, cache())


def sizes_of(name: str) -> Workload:
    """A workload as tuning takes it."""
    one = workload(name)
    return Workload("step" if one.streams else "sequence", one.T, one.B)


def gain_in_sittings(opened: Callable[[str], Call], other: str, seconds: float, *, alone: bool) -> Gain:
    """The gain over the default in sessions opened anew at each sitting; `alone` on the calling thread, both."""
    found = []
    for number in range(SITTINGS):
        names = (DEFAULT, other) if number % 2 else (other, DEFAULT)
        calls = {name: opened(name) for name in names}
        times = timed_rounds(calls, SITTING_ROUNDS, seconds / SITTINGS, number * SITTING_ROUNDS[1])
        found.append(median(ratios(times[DEFAULT], times[other], alone=alone)))
    return gain_of(found)


def check(path: str, sizes: Workload, plan: bytes, seconds: float) -> Gain:
    """In a process of its own: a plan held against the default."""
    bundle = edgeseq_runtime.open_bundle(path)
    example = example_inputs(bundle)
    plans = {DEFAULT: make_plan(bundle), "": msgspec.json.decode(plan, type=Plan)}

    def opened(name: str) -> Call:
        return call_of(edgeseq_runtime.open_session(bundle, plans[name]), example, sizes)

    return gain_in_sittings(opened, "", seconds, alone=plans[""].threads == 1)


def checked(path: Path, sizes: Workload, plan: Plan, seconds: float) -> Gain:
    """The gain of a plan, measured by a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(check, str(path), sizes, msgspec.json.encode(plan), seconds).result()


def tuned(name: str, threads: int, seconds: float) -> Result:
    """Tune a workload, and check what was chosen."""
    path, sizes = bundle_of(name), sizes_of(name)
    bundle = edgeseq_runtime.open_bundle(path)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        tuning = tune_plan(
            bundle, make_plan(bundle), workload=sizes, seconds=seconds, max_threads=threads, cache=Path(folder), anew=True
        )
    record = tuning.record
    others = {one.name: one.gain.median for one in record.tried if one.gain and one.name != record.chosen}
    best = max(others, key=lambda one: others[one])
    same = record.chosen == DEFAULT
    return Result(
        title=workload(name).title,
        workload=str(sizes),
        threads=threads,
        chosen=record.chosen,
        default_us=record.default_us,
        claimed=record.gain,
        checks=() if same else tuple(checked(path, sizes, tuning.plan, seconds / 2) for _ in range(CHECKS)),
        best_other=(best, others[best]),
        seconds=record.seconds,
    )


def left_out(name: str, seconds: float) -> Iterator[tuple[str, Gain]]:
    """The gain of each option that is not tried, with the states given and returned as arrays."""
    bundle = edgeseq_runtime.open_bundle(bundle_of(name))
    sizes = sizes_of(name)
    interface = edgeseq_runtime.load(bundle.path).interface
    feeds = inputs_at(interface, example_inputs(bundle), sizes.T, sizes.B)

    def opened(option: str) -> Call:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        if option != DEFAULT:
            LEFT_OUT[option](options)
        session = onnxruntime.InferenceSession(bundle.model(), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feeds)

    for option in LEFT_OUT:
        yield option, gain_in_sittings(opened, option, seconds, alone=option != PARALLEL)


def apart(name: str, seconds: float) -> Gain:
    """The gain of a state tensor for each layer over one for all."""
    bundles = {DEFAULT: edgeseq_runtime.open_bundle(bundle_of(name)), "apart": edgeseq_runtime.open_bundle(apart_of(name))}
    sizes = sizes_of(name)

    def opened(which: str) -> Call:
        bundle = bundles[which]
        return call_of(edgeseq_runtime.open_session(bundle, make_plan(bundle)), example_inputs(bundle), sizes)

    return gain_in_sittings(opened, "apart", seconds, alone=True)


def text_of(gain: Gain) -> str:
    """A gain and its bound."""
    return f"{gain.median:.2f} (> {gain.low:.2f})"


def table_of(results: list[Result]) -> str:
    """A line a workload and number of threads."""
    lines = [
        "| model | for | threads at most | default, µs | chosen | claimed | checked | again | best of the others |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        checks = [text_of(gain) for gain in one.checks] or ["1", "1"]
        claimed = text_of(one.claimed) if one.claimed else "1"
        other, gain = one.best_other
        cells = (
            one.title,
            one.workload,
            one.threads,
            f"{one.default_us:.1f}",
            one.chosen,
            claimed,
            *checks,
            f"{other}: {gain:.2f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def left_out_table(found: dict[str, dict[str, Gain]]) -> str:
    """A line an option."""
    lines = [f"| option of ONNX Runtime | {' | '.join(workload(name).title for name in found)} |", "|---|" + "---|" * len(found)]
    lines += [f"| {option} | {' | '.join(text_of(gains[option]) for gains in found.values())} |" for option in LEFT_OUT]
    return "\n".join(lines)


def main() -> None:
    """Tune, check, and write the page and the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for a choice")
    parser.add_argument("--only", nargs="*", default=WORKLOADS, help="workloads")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    console = Console()
    torch.set_num_threads(1)
    cores = len(usable_cores())
    for name in track([*given.only, *LEFT_OUT_ON], "exporting"):
        bundle_of(name)
    apart_of("lstm-2x256-step")
    asked = [(name, threads) for name in given.only for threads in sorted({1, cores})]
    results = []
    for name, threads in track(asked, "tuning"):
        results.append(tuned(name, threads, given.seconds))
    others = {name: dict(left_out(name, given.seconds / 5)) for name in track(LEFT_OUT_ON, "what is left out")}
    separate = apart("lstm-2x256-step", given.seconds)
    parts = (table_of(results), left_out_table(others), text_of(separate))
    for part in parts:
        console.print(part, soft_wrap=True)
    if given.dry:
        return
    processor = edgeseq_runtime.detect_machine(nvml=None).processor
    machine = f"{processor.name} ({', '.join(processor.features)})"
    written = {"results": [asdict(one) for one in results], "left_out": others, "states_apart": separate}
    (HERE / "results" / "tuning.json").write_text(json.dumps(msgspec.to_builtins(written), indent=1) + "\n", "utf-8")
    text = TEXT.format(
        table=parts[0],
        left_out=parts[1],
        apart=parts[2],
        cores=f"{cores} cores" if cores > 1 else "one core",
        sittings=SITTINGS,
        version=onnxruntime.__version__,
        machine=machine,
        seconds=given.seconds,
    )
    fill(HERE.parent / "docs" / "performance.md", {"tuning": text})


if __name__ == "__main__":
    main()
