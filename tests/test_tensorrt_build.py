"""Engines that TensorRT-RTX really builds, without a GPU: kept, built by two at once, killed, on a full disk.

And its parsed networks, evaluated in NumPy, where an emulated engine would run: what an engine is given and gives back.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason='needs TensorRT-RTX, no GPU: pip install "edgeseq[tensorrt-rtx]"')
pytestmark = pytest.mark.tensorrt

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from emulated_cuda import COMPILER, EmulatedCuda  # noqa: E402
from emulated_tensorrt import Emulation  # noqa: E402
from library_models import bundle_of  # noqa: E402

from edgeseq_runtime import measure_parity, open_bundle  # noqa: E402
from edgeseq_runtime.backends.engine_store import read_engine  # noqa: E402
from edgeseq_runtime.backends.tensorrt_backend import compile_engine, opened_engine  # noqa: E402
from edgeseq_runtime.backends.tensorrt_library import Library  # noqa: E402
from edgeseq_runtime.backends.tensorrt_network_backend import LIBRARY, parse_network  # noqa: E402
from edgeseq_runtime.errors import UsageError  # noqa: E402
from edgeseq_runtime.interface import interface_of  # noqa: E402
from edgeseq_runtime.plan import make_plan  # noqa: E402
from edgeseq_runtime.session import Session  # noqa: E402
from edgeseq_runtime.tensorrt_network import Interpreter  # noqa: E402

SPAWN = multiprocessing.get_context("spawn")
AMPERE = "8.6"


def compiled(base, name="nn.LSTM", axes=(), progress=lambda *step: None, capability=AMPERE):
    bundle = open_bundle(bundle_of(name))
    return compile_engine(bundle, make_plan(bundle, "tensorrt", axes=axes), progress, capability=capability, base=base)


def test_an_engine_for_a_gpu_that_is_not_there_is_built_once(tmp_path):
    told = []
    first = compiled(tmp_path, progress=lambda *step: told.append(step))
    assert (first.built, first.runs_here, first.notes) == (True, False, ())
    assert told
    assert all(0 <= done <= total for _, done, total in told)
    record, engine = read_engine(first.path)
    assert record == first.record
    assert len(engine) == record.size > 100_000
    assert (record.facts.compute_capability, record.facts.tensorrt) == (AMPERE, str(LIBRARY))
    assert record.facts.profiles == ("B=1:1:8 T=1:100:1000", "B=1:1:8 T=1")
    assert [spec.name for spec in record.inputs] == ["x", "h", "c"]
    again = compiled(tmp_path)
    assert (again.built, again.path) == (False, first.path)
    other = compiled(tmp_path, capability="8.9")
    assert other.built
    assert "compute_capability is '8.6', not '8.9'" in other.notes[0]


def test_a_search_that_an_input_limits_is_built_for_the_values_asked_for(tmp_path):
    made = compiled(tmp_path, "greedy search, attention", axes=["longest=1:50:200"])
    assert "longest=1:50:200" in made.record.facts.profiles[0]


def test_a_capability_that_is_not_compiled_for_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"does not compile for compute capability '8\.7'"):
        compiled(tmp_path, capability="8.7")
    assert list(tmp_path.glob("*.engine")) == []


def build(base, started, go_on, results):
    """A builder that waits in the middle of a build."""

    def progress(phase, done, total):
        started.set()
        go_on.wait()

    made = compiled(base, progress=progress)
    results.put((made.built, made.record.sha256))


def test_a_builder_that_is_killed_leaves_nothing_that_is_used(tmp_path):
    base = tmp_path / "engines"
    started, go_on, results = SPAWN.Event(), SPAWN.Event(), SPAWN.Queue()
    process = SPAWN.Process(target=build, args=(base, started, go_on, results))
    process.start()
    assert started.wait(120)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(base.glob("*.engine")) == []
    made = compiled(base)
    assert made.built
    assert read_engine(made.path)[0] == made.record
    assert list(base.glob(".*")) == []


def test_of_two_builders_at_once_one_builds(tmp_path):
    base = tmp_path / "engines"
    started, go_on, results = SPAWN.Event(), SPAWN.Event(), SPAWN.Queue()
    processes = [SPAWN.Process(target=build, args=(base, started, go_on, results)) for _ in range(2)]
    processes[0].start()
    assert started.wait(120)
    processes[1].start()
    time.sleep(3)  # the second is waiting by now, or will find the engine
    go_on.set()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(built for built, _ in found) == [False, True]
    assert len({sha256 for _, sha256 in found}) == 1


def test_on_a_full_disk_the_engine_is_made_and_not_kept(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", disk]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root, where it may mount, has a small disk to fill")
    try:
        made = compiled(disk)
        assert (made.built, made.path) == (True, None)
        assert "the engine is used and not kept" in made.notes[0]
        assert "No space left on device" in made.notes[0]
        assert list(disk.glob("*.engine")) == []
    finally:
        subprocess.run(["umount", disk], check=True)


CHOSEN = ("VAD", "nn.GRU", "LayerNormLSTMCell", "AttentionDecoder", "NeuralTuringMachine", "packed BiLSTM tagger", "sampling")


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler to make the emulated CUDA runtime with")
@pytest.mark.parametrize("name", CHOSEN)
def test_an_emulated_engine_that_the_parsed_network_computes_is_at_parity(name, tmp_path):
    bundle = open_bundle(bundle_of(name))
    cuda = EmulatedCuda()
    emulation = Emulation("10.3.0", cuda, compute=lambda model: Interpreter(parse_network(model)))
    plan = make_plan(bundle, "tensorrt")
    model = opened_engine(Library(emulation.bindings), cuda, bundle.model(), plan, tmp_path, lambda *step: None)
    sizes = bundle.manifest.reference[-1].sizes
    report = measure_parity(bundle.path, session=Session(model, interface_of(bundle.manifest), plan, bundle.sha256), at=sizes)
    assert report.passed, report.to_json()
    if bundle.state:
        assert cuda.count("cudaGraphLaunch") > 0
