"""What a GPU's execution provider needs, looked for in planted trees and in libraries that are really compiled and linked."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import runtime_models
from hypothesis import given, settings
from hypothesis import strategies as st
from orin_nano_files import FILES as ORIN_NANO
from test_detect import compatible, nv_tegra_release
from test_detect import plant as plant_named

import edgeseq_runtime
from edgeseq_runtime import provider_needs
from edgeseq_runtime.backends.packaged_libraries import load_packaged
from edgeseq_runtime.detect.elf import needed_libraries
from edgeseq_runtime.detect.libraries import find_library, library_folders, packaged_folders
from edgeseq_runtime.errors import ProviderError, UsageError
from edgeseq_runtime.jetpack import list_jetpacks
from edgeseq_runtime.plan import make_plan, plan_for_device
from edgeseq_runtime.provider_needs import CPU, CUDA, TENSORRT, missing_for, missing_for_engines, together

COMPILER = shutil.which("gcc") or shutil.which("cc")
compiled = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler to make libraries with")


def plant(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def board(root, l4t):
    files = {"proc__device-tree__compatible": compatible("tegra234"), "etc__nv_tegra_release": nv_tegra_release(l4t)}
    return plant_named(root, **files)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """A chain of libraries: librun_c.so.3 needs librun_b.so.2, which needs librun_a.so.1; each adds to a number."""
    folder = tmp_path_factory.mktemp("libraries")

    def make(name, version, needs, body):
        source, path = folder / f"{name}.c", folder / f"lib{name}.so.{version}"
        source.write_text(body)
        linked = [f"-l:{one}" for one in needs]
        command = [COMPILER, "-shared", "-fPIC", "-w", "-nostdlib", "-o", path, source, f"-Wl,-soname,{path.name}", "-L", folder]
        subprocess.run([*command, *linked], check=True)
        return path

    make("run_a", 1, (), "int a(void) { return 1; }")
    make("run_b", 2, ("librun_a.so.1",), "int a(void); int b(void) { return a() + 10; }")
    make("run_c", 3, ("librun_b.so.2", "librun_a.so.1"), "int a(void), b(void); int c(void) { return a() + b() + 100; }")
    return folder


@compiled
def test_what_a_library_needs_is_read_without_loading_it(libraries):
    assert needed_libraries(libraries / "librun_c.so.3") == ("librun_b.so.2", "librun_a.so.1")
    assert needed_libraries(libraries / "librun_a.so.1") == ()


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf to compare with")
def test_what_real_libraries_need_is_what_readelf_says():
    folder = provider_needs.package_folder() / "capi"
    files = [path for path in folder.iterdir() if ".so" in path.name]
    assert len(files) >= 2
    for path in files:
        said = subprocess.run(["readelf", "-dW", path], capture_output=True, text=True, check=True).stdout
        assert needed_libraries(path) == tuple(line.split("[")[1].rstrip("]") for line in said.splitlines() if "(NEEDED)" in line)


@compiled
@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 20000), place=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_damaged_library_needs_something_or_nothing_and_never_fails(cut, place, byte, libraries):
    data = bytearray((libraries / "librun_c.so.3").read_bytes()[: cut or None])
    if place < len(data):
        data[place] = byte
    path = libraries / "damaged.so"
    path.write_bytes(bytes(data))
    assert isinstance(needed_libraries(path), tuple)


def test_what_is_no_library_needs_nothing(tmp_path):
    (tmp_path / "text").write_text("\x7fELF" + "x" * 100)
    assert needed_libraries(tmp_path / "text") == needed_libraries(tmp_path / "nothing") == needed_libraries(tmp_path) == ()


@compiled
def test_packaged_libraries_are_loaded_after_what_they_need(libraries):
    """A process of its own: what is loaded stays. Without the first line the loader finds none of them."""
    script = f"""
import ctypes, pathlib, sys
from edgeseq_runtime.backends.packaged_libraries import load_packaged
folder = pathlib.Path({str(libraries)!r})
try:
    ctypes.CDLL("librun_c.so.3"); sys.exit("the loader finds it by itself")
except OSError:
    pass
print([path.name for path in load_packaged(("librun_c.so", "libabsent.so"), (folder,))], ctypes.CDLL("librun_c.so.3").c())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.strip() == "['librun_a.so.1', 'librun_b.so.2', 'librun_c.so.3'] 112", done.stderr


@compiled
def test_what_the_loader_has_is_not_loaded_from_a_package_and_what_it_refuses_is_left_out(libraries, tmp_path):
    own = plant(tmp_path, "own/librun_a.so.1").joinpath("own")
    assert load_packaged(("librun_a.so.1",), (libraries,), (own, tmp_path / "nothing")) == ()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "libbad.so.1").write_text("no library")
    assert load_packaged(("libbad.so.1",), (tmp_path / "package",)) == ()


def test_the_loaders_folders_are_those_of_its_configuration(tmp_path):
    plant(tmp_path, "usr/lib/aarch64-linux-gnu/libusual.so.1", "opt/one/libone.so.3", "opt/two/libtwo.so", "opt/none/libnone.so.1")
    (tmp_path / "etc/ld.so.conf.d").mkdir(parents=True)
    (tmp_path / "etc/ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n# /opt/none\n")
    (tmp_path / "etc/ld.so.conf.d/nvidia.conf").write_text("/opt/one  # of NVIDIA\n\n/opt/two\ninclude ld.so.conf\n")
    assert find_library("libone.so.3", tmp_path) == tmp_path / "opt/one/libone.so.3"
    assert find_library("libone.so", tmp_path) == tmp_path / "opt/one/libone.so.3"
    assert find_library("libtwo.so", tmp_path) == tmp_path / "opt/two/libtwo.so"
    assert find_library("libusual.so.1", tmp_path) == tmp_path / "usr/lib/aarch64-linux-gnu/libusual.so.1"
    assert (
        find_library("libone.so.4", tmp_path)
        is find_library("libnone.so.1", tmp_path)
        is find_library("libon.so", tmp_path)
        is None
    )
    assert packaged_folders(tmp_path) == ()


def test_this_machines_loader_paths_and_packages_are_searched(tmp_path, monkeypatch):
    plant(tmp_path, "given/libgiven.so.1", "site/nvidia/cudnn/lib/libcudnn.so.9", "site/tensorrt_libs/libnvinfer.so.10")
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{tmp_path / 'given'}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert find_library("libgiven.so.1") == tmp_path / "given/libgiven.so.1"
    assert find_library("libcudnn.so.9") == tmp_path / "site/nvidia/cudnn/lib/libcudnn.so.9"
    assert find_library("libnvinfer.so") == tmp_path / "site/tensorrt_libs/libnvinfer.so.10"
    assert Path("") not in library_folders(Path("/"))


@pytest.fixture
def gpu_package(tmp_path, monkeypatch, libraries):
    """An onnxruntime that has the CUDA provider, linked to libraries of the chain."""
    folder = tmp_path / "onnxruntime"
    (folder / "capi").mkdir(parents=True)
    shutil.copy(libraries / "librun_c.so.3", folder / "capi" / "libonnxruntime_providers_cuda.so")
    monkeypatch.setattr(provider_needs, "package_folder", lambda: folder)
    return folder


@compiled
def test_exactly_what_the_provider_is_linked_to_and_not_there_is_missing(gpu_package, tmp_path):
    root = plant(tmp_path / "root", "usr/lib/librun_a.so.1", "usr/lib/libcuda.so.1")
    found = missing_for((CUDA, CPU), root, nvml=None)
    assert [(one.kind, one.name) for one in found] == [("library", "librun_b.so.2"), ("library", "libcudnn.so")]
    plant(root, "usr/lib/librun_b.so.2", "usr/lib/libcudnn.so.9")
    assert missing_for((CUDA, CPU), root, nvml=None) == ()


@compiled
def test_the_driver_is_asked_whether_it_starts(gpu_package, tmp_path):
    names = ("librun_a.so.1", "librun_b.so.2", "libcudnn.so.9")
    root = plant(tmp_path / "root", *(f"usr/lib/{name}" for name in names))
    assert [one.kind for one in missing_for((CUDA,), root, nvml=None)] == ["driver"]
    plant(root, "usr/lib/libcuda.so.1")
    (one,) = missing_for((CUDA,), root, nvml=str(tmp_path / "libnothing.so.1"))
    assert one.kind == "driver"
    assert "does not start" in one.text
    # Boards before JetPack 7 have no NVML: there its absence says nothing.
    assert missing_for((CUDA,), board(root, "36.4.3"), nvml=str(tmp_path / "libnothing.so.1")) == ()


@pytest.mark.parametrize("jetpack", list_jetpacks(), ids=lambda one: one.release)
def test_every_missing_piece_has_the_command_of_its_jetpack(jetpack, tmp_path, monkeypatch):
    monkeypatch.setattr(provider_needs, "package_folder", lambda: None)
    found = {one.name: one.install for one in missing_for((TENSORRT, CUDA), board(tmp_path, jetpack.l4t[0]), nvml=None)}
    own_build = float(jetpack.release) < 7
    assert found["onnxruntime-gpu"].startswith(
        "jetson-containers run $(autotag onnxruntime)" if own_build else "pip uninstall onnxruntime"
    )
    assert ("older than the 1.19" in found["onnxruntime-gpu"]) == (float(jetpack.release) < 6)
    assert found["libcuda.so.1"].startswith("sudo apt install nvidia-l4t-cuda")
    names = {"libnvinfer.so", "libnvonnxparser.so", "libnvinfer_plugin.so", "libcudart.so", "libcublas.so", "libcublasLt.so"}
    assert {name for name, command in found.items() if command.endswith("sudo apt install nvidia-jetpack")} == names | {
        "libcurand.so",
        "libcudnn.so",
    }


def test_on_a_desktop_pip_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr(provider_needs, "package_folder", lambda: None)
    found = {one.name: one.install for one in missing_for((TENSORRT, CUDA), tmp_path, nvml=None)}
    assert found["onnxruntime-gpu"] == 'pip uninstall onnxruntime && pip install "edgeseq[gpu]"'
    assert found["libcudart.so"] == found["libcudnn.so"] == 'pip install "onnxruntime-gpu[cuda,cudnn]"'
    assert found["libnvinfer.so"] == 'pip install "tensorrt-cu12>=10,<11"'
    assert "ubuntu-drivers" in found["libcuda.so.1"]
    assert [(one.name, one.install) for one in missing_for((CPU,), tmp_path, nvml=None)] == [
        ("onnxruntime", 'pip install "edgeseq[ort]"')
    ]


def test_tensorrt_of_the_cuda_that_the_provider_is_linked_to(tmp_path, monkeypatch):
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_tensorrt.so").touch()
    monkeypatch.setattr(provider_needs, "package_folder", lambda: tmp_path)
    monkeypatch.setattr(provider_needs, "needed_libraries", lambda file: ("libnvinfer.so.10", "libcudart.so.13", "libcudnn.so.9"))
    found = {one.name: one.install for one in missing_for((TENSORRT,), tmp_path, nvml=None)}
    assert found["libnvinfer.so.10"] == found["libnvinfer_plugin.so"] == 'pip install "tensorrt-cu13>=10,<11"'
    assert "libcudnn.so" not in found  # libcudnn.so.9 says the same, and which
    both = {one.name for one in missing_for((TENSORRT, CUDA), tmp_path, nvml=None)}
    assert {"libcudnn.so.9", "libcudart.so.13"} <= both
    assert not {"libcudnn.so", "libcudart.so"} & both  # the CUDA provider names no version of them


def test_libraries_of_one_command_are_told_together(tmp_path, monkeypatch):
    monkeypatch.setattr(provider_needs, "package_folder", lambda: None)
    package, library, driver = together(missing_for((CUDA,), tmp_path, nvml=None))
    assert (package.kind, driver.kind) == ("package", "driver")
    names = "libcudart.so, libcublas.so, libcublasLt.so, libcurand.so, libcudnn.so"
    assert str(library) == f'libraries {names} are in none of the loader\'s folders: pip install "onnxruntime-gpu[cuda,cudnn]"'


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_device_whose_provider_is_absent_is_refused_with_all_that_is_missing(backend, tmp_path):
    if provider_needs.provider_file(CUDA) is not None:
        pytest.skip("this onnxruntime has CUDA")
    bundle = edgeseq_runtime.open_bundle(runtime_models.gru().write(tmp_path / "m.edgeseq", ({"T": 4, "B": 2},), draws=1))
    with pytest.raises(ProviderError) as refused:
        edgeseq_runtime.open_session(bundle, make_plan(bundle, "rtx-4090", backend=backend))
    provider = "libonnxruntime_providers_cuda.so" if backend.endswith("cuda") else "libonnxruntime_providers_tensorrt.so"
    for part in (f"has no {provider}", 'pip install "edgeseq[gpu]"', "choose device 'cpu'"):
        assert part in str(refused.value)


def test_an_engine_needs_tensorrts_bindings_cudas_runtime_and_a_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(provider_needs.util, "find_spec", lambda name: None)
    found = {one.name: one.install for one in missing_for_engines(tmp_path / "desktop", nvml=None)}
    assert found["tensorrt"] == "pip install tensorrt"
    assert found["libcudart.so"] == "pip install nvidia-cuda-runtime"
    assert "ubuntu-drivers" in found["libcuda.so.1"]
    on_board = {one.name: one.install for one in missing_for_engines(board(tmp_path / "board", "36.4.3"), nvml=None)}
    assert on_board["tensorrt"].startswith("sudo apt update && sudo apt install nvidia-jetpack  # and a Python environment")
    assert on_board["libcudart.so"] == "sudo apt update && sudo apt install nvidia-jetpack"
    assert on_board["libcuda.so.1"].startswith("sudo apt install nvidia-l4t-cuda")
    plant(tmp_path / "desktop", "usr/lib/libcudart.so.12", "usr/lib/libcuda.so.1")
    monkeypatch.setattr(provider_needs.util, "find_spec", lambda name: object() if name == "tensorrt_rtx" else None)
    assert missing_for_engines(tmp_path / "desktop", nvml=None) == ()


def test_a_device_whose_engine_can_not_run_is_refused_with_all_that_is_missing(tmp_path, monkeypatch):
    bundle = lstm(tmp_path)
    monkeypatch.setattr(provider_needs, "find_library", lambda name, root: None)  # wherever CUDA and the driver may be
    with pytest.raises(ProviderError) as refused:
        edgeseq_runtime.open_session(bundle, make_plan(bundle, "tensorrt"))
    for part in (
        "device 'tensorrt' asks for a TensorRT engine",
        "missing: ",
        "library libcudart.so",
        "NVIDIA's driver",
        "'cuda' or 'cpu'",
    ):
        assert part in str(refused.value)
    assert all(one.install in str(refused.value) for one in together(missing_for_engines()))


def lstm(tmp_path):
    return edgeseq_runtime.open_bundle(runtime_models.lstm().write(tmp_path / "m.edgeseq", ({"T": 4, "B": 2},), draws=1))


def test_tensorrts_profile_is_of_the_axes_that_were_asked_for(tmp_path):
    plan = make_plan(lstm(tmp_path), "rtx-4090", backend="onnxruntime-tensorrt", axes=("T=1:50:400", "B=1:2:3"))
    options = plan.provider_options[TENSORRT]
    assert options["trt_profile_min_shapes"] == "x:1x1x3,h:1x1x8,c:1x1x8"
    assert options["trt_profile_opt_shapes"] == "x:50x2x3,h:1x2x8,c:1x2x8"
    assert options["trt_profile_max_shapes"] == "x:400x3x3,h:1x3x8,c:1x3x8"
    assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("1", "1")
    assert options["trt_max_workspace_size"] == str(1 << 30)
    assert "trt_fp16_enable" not in options
    assert plan.provider_options[CUDA]["use_tf32"] == "0"
    usual = make_plan(lstm(tmp_path), "rtx-4090", backend="onnxruntime-tensorrt").provider_options[TENSORRT]
    assert usual["trt_profile_max_shapes"] == "x:1000x8x3,h:1x8x8,c:1x8x8"
    with pytest.raises(UsageError, match="no axis 'Q'"):
        make_plan(lstm(tmp_path), "rtx-4090", backend="onnxruntime-tensorrt", axes=("Q=1",))
    assert make_plan(lstm(tmp_path), "cpu", axes=("Q=1",)).provider_options == {}  # no engine: nothing to prepare


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", set()), ("fp16", {"trt_fp16_enable"}), ("int8", {"trt_int8_enable", "trt_fp16_enable"})]
)
def test_tensorrt_may_choose_the_precision_that_was_asked_for(precision, flags, tmp_path):
    from edgeseq_runtime.interface import interface_of
    from edgeseq_runtime.provider_options import tensorrt_options

    options = tensorrt_options(interface_of(lstm(tmp_path).manifest), edgeseq_runtime.load_device("jetson-nano-4gb"), precision)
    assert {name for name, value in options.items() if name.endswith("_enable") and "cache" not in name and value == "1"} == flags
    assert options["trt_max_workspace_size"] == str(4_000_000_000 // 8)


def test_a_profiles_own_options_stand(tmp_path):
    (tmp_path / "own.toml").write_text(
        'name = "own"\ntitle = "a second GPU"\nkind = "gpu"\nbackend = "onnxruntime"\n'
        f'providers = ["{TENSORRT}", "{CUDA}", "{CPU}"]\n'
        f'[provider_options.{TENSORRT}]\ndevice_id = "1"\ntrt_engine_cache_enable = "0"\n'
    )
    options = make_plan(lstm(tmp_path), str(tmp_path / "own.toml")).provider_options[TENSORRT]
    assert (options["device_id"], options["trt_engine_cache_enable"]) == ("1", "0")
    assert options["trt_profile_min_shapes"].startswith("x:1x1x3,")


def test_the_cuda_provider_is_told_everything_that_matters():
    options = plan_for_device("cuda").provider_options[CUDA]
    assert options == {
        "use_tf32": "0",
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }


def test_which_nodes_a_provider_computes_is_told(tmp_path):
    """On a CPU there is one provider; asked to record, ONNX Runtime names the nodes that it has."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from edgeseq_runtime.backends.onnxruntime_backend import OnnxRuntimeModel

    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} can't tell")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(runtime_models.lstm().onnx, options, providers=[CPU])
    found = OnnxRuntimeModel(session, assigned=True).assignment()
    assert [node.split()[0] for node in found[CPU]] == ["LSTM", "Squeeze"]
    assert edgeseq_runtime.open_session(lstm(tmp_path), make_plan(lstm(tmp_path))).assignment == {}


def test_the_orin_nano_of_other_tests_is_a_board_without_cuda(tmp_path):
    for name, text in ORIN_NANO.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert {one.kind for one in missing_for((CUDA,), tmp_path, nvml=None)} == {"package", "library", "driver"}


def test_every_case_and_model_that_the_tests_on_a_gpu_name_exists():
    """Here, where it is run without a GPU."""
    import test_gpu
    from library_models import MODELS

    assert {case.id for case in test_gpu.CASES} >= set(test_gpu.CHOSEN)
    assert set(MODELS) >= set(test_gpu.LIBRARY)
    assert len(test_gpu.LIBRARY) >= 8
