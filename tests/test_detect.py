"""What a machine says of itself, read from planted trees and from a driver's library that is really compiled and called."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import edgeseq_runtime
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.detect.jetson import read_jetson
from edgeseq_runtime.detect.nvml import read_driver
from edgeseq_runtime.detect.processor import read_processor, read_ram
from edgeseq_runtime.jetpack import jetpack_of_l4t, list_jetpacks, load_jetpack, version_of

MODULES = [device for device in edgeseq_runtime.list_devices() if device.jetpack]
BOARDS = [
    (device, release, l4t) for device in MODULES for release in device.jetpack.releases for l4t in load_jetpack(release).l4t
]  # every module on every release of Jetson Linux that runs on it


def plant(root, **files):
    """Write files below a root; `__` stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def nv_tegra_release(l4t):
    """The file's first line, as boards have it: `# R36 (release), REVISION: 4.3, ...`."""
    major, _, revision = l4t.partition(".")
    return f"# R{major} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"


def compatible(*names):
    return b"".join(f"nvidia,{name}".encode() + b"\0" for name in names)


@pytest.mark.parametrize(("device", "release", "l4t"), BOARDS, ids=lambda one: getattr(one, "name", one))
def test_a_module_and_its_jetpack_are_named(device, release, l4t, tmp_path):
    part = device.identity.modules[0] if device.identity.modules else "p0000-0000"
    model = device.identity.models[0] if device.identity.models else "NVIDIA Jetson Developer Kit"
    root = plant(
        tmp_path,
        **{
            "proc__device-tree__model": f"{model}\0",
            "proc__device-tree__compatible": compatible(f"p3768-0000+{part}", part.removesuffix("-super"), device.chip.soc),
            "etc__nv_tegra_release": nv_tegra_release(l4t),
        },
    )
    found = read_jetson(root)
    assert (found.device, found.l4t, found.jetpack, found.soc) == (device.name, l4t, release, device.chip.soc)
    assert (found.model, found.like) == (model, ())


def test_the_boards_cover_every_module_and_release():
    assert {device.name for device, _, _ in BOARDS} == {device.name for device in MODULES}
    assert {release for _, release, _ in BOARDS} == {jetpack.release for jetpack in list_jetpacks()}
    assert len(MODULES) == 15


def test_the_developer_kit_is_its_module_and_super_mode_is_told_apart(tmp_path):
    for name, first, device in (
        ("plain", "p3768-0000+p3767-0005", "jetson-orin-nano-8gb"),
        ("super", "p3768-0000+p3767-0005-super", "jetson-orin-nano-8gb-super"),
        ("thor", "p4071-0000+p3834-0008", "jetson-t5000"),
    ):
        root = plant(tmp_path / name, **{"proc__device-tree__compatible": compatible(first, "p3767-0005", "tegra234")})
        assert read_jetson(root).device == device


def test_a_module_without_a_profile_says_which_have_its_soc(tmp_path):
    files = {
        "proc__device-tree__compatible": compatible("p3737-0000+p3701-0000", "tegra234"),
        "proc__device-tree__model": "AGX Orin\0",
    }
    found = read_jetson(plant(tmp_path, **files))
    assert (found.device, found.l4t, found.jetpack) == (None, None, None)
    assert set(found.like) == {device.name for device in MODULES if device.chip.soc == "tegra234"}
    assert found.parts == ("p3737-0000", "p3701-0000")


def test_the_other_place_of_the_device_tree(tmp_path):
    root = plant(tmp_path, sys__firmware__devicetree__base__compatible=compatible("p3448-0000", "tegra210"))
    assert read_jetson(root).device == "jetson-nano-4gb"


def test_in_a_container_the_package_tells_the_release(tmp_path):
    entries = ("other\nVersion: 1", "nvidia-l4t-core\nStatus: ok\nVersion: 36.4.7-20250918154033", "z\nVersion: 2")
    status = "\n\n".join(f"Package: {entry}" for entry in entries)
    found = read_jetson(plant(tmp_path, var__lib__dpkg__status=status))
    assert (found.l4t, found.jetpack, found.device, found.soc) == ("36.4.7", "6.2", None, None)


@pytest.mark.parametrize(
    ("l4t", "release"),
    [
        ("36.4.9", "6.2"),
        ("36.4.1", "6.1"),
        ("39.2.1", "7.2"),
        ("38.3", "7.0"),
        ("35.2.1", "5.1"),
        ("35.1", None),
        ("28.2", None),
        ("40.0.0", None),
    ],
)
def test_a_release_that_is_not_listed_is_that_of_the_one_below(l4t, release):
    found = jetpack_of_l4t(l4t)
    assert (found.release if found else None) == release


def test_versions_are_compared_as_numbers():
    assert version_of("10.16.1 GA") == (10, 16, 1)
    assert version_of("8.0.1 (4.6)") == (8, 0, 1)
    assert version_of("8.x") == (8,)
    assert version_of("") == version_of("none") == (0,)
    assert [jetpack.release for jetpack in list_jetpacks()] == ["4.6", "5.1", "6.0", "6.1", "6.2", "7.0", "7.1", "7.2"]


@pytest.mark.parametrize(
    "text",
    ["", "garbage", "# R (release), REVISION:", "# R36 (release)", "# R36 (release), REVISION: ", "\0" * 99, b"\xff\xfe\x80" * 40],
)
def test_a_malformed_release_is_no_release(text, tmp_path):
    files = {"etc__nv_tegra_release": text, "proc__device-tree__compatible": compatible("tegra234")}
    found = read_jetson(plant(tmp_path, **files))
    assert (found.l4t, found.jetpack) == (None, None)


X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Core(TM) i7
flags\t\t: fpu sse2 avx2 fma avx512f avx512_vnni avx_vnni amx_tile amx_int8 f16c

processor\t: 1
model name\t: Intel(R) Core(TM) i7
flags\t\t: fpu sse2
"""
ARM = """processor\t: 0
Features\t: fp asimd evtstrm aes pmull crc32 atomics fphp asimdhp asimddp i8mm bf16 sve2 pacg
CPU implementer\t: {implementer}
CPU part\t: {part}
"""


def test_a_processor_by_its_cpuinfo(tmp_path):
    intel = read_processor(plant(tmp_path / "x86", proc__cpuinfo=X86))
    assert (intel.name, intel.cores) == ("Intel(R) Core(TM) i7", 2)
    assert intel.features == ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "amx_int8")
    arm = read_processor(plant(tmp_path / "arm", proc__cpuinfo=ARM.format(implementer="0x41", part="0xd42")))
    assert (arm.name, arm.cores) == ("Cortex-A78AE", 1)
    assert arm.features == ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve2")


@pytest.mark.parametrize(
    ("implementer", "part", "name"),
    [
        ("0x4e", "0x004", "Carmel"),
        ("0x41", "0xd07", "Cortex-A57"),
        ("0x61", "0x22", "an ARM processor of implementer 0x61, part 0x22"),
        ("?", "0x22", None),
    ],
)
def test_an_arm_processor_by_its_part(implementer, part, name, tmp_path):
    assert read_processor(plant(tmp_path, proc__cpuinfo=ARM.format(implementer=implementer, part=part))).name == name


def test_memory_by_its_meminfo(tmp_path):
    text = "MemTotal:       7802020 kB\nMemFree:   1 kB\nMemAvailable:    117232 kB\nSwapTotal:             0 kB\n"
    found = read_ram(plant(tmp_path, proc__meminfo=text))
    assert (found.total, found.available, found.swap) == (7802020 * 1024, 117232 * 1024, 0)
    found = read_ram(plant(tmp_path, proc__meminfo="MemTotal: many kB\nMemAvailable: \nSwapTotal: 5 kB\n"))
    assert (found.total, found.available, found.swap) == (None, None, 5120)


def test_a_machine_that_says_nothing(tmp_path):
    machine = edgeseq_runtime.detect_machine(tmp_path / "nowhere", nvml=None, architecture="riscv64")
    assert (machine.jetson, machine.driver, machine.devices, machine.system) == (None, None, (), None)
    assert (machine.processor.name, machine.processor.cores, machine.processor.features) == (None, None, ())
    assert (machine.ram.total, machine.architecture) == (None, "riscv64")


FILES = (
    "proc/cpuinfo", "proc/meminfo", "proc/device-tree/model", "proc/device-tree/compatible", "etc/nv_tegra_release",
    "var/lib/dpkg/status", "etc/os-release",
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    contents=st.dictionaries(
        st.sampled_from(FILES),
        st.one_of(st.none(), st.binary(max_size=200), st.text("R36 (release), REVISION: p3767-05\0nvidia,tegra234\n", max_size=80)),
    )
)
def test_whatever_the_files_hold_detection_never_fails(contents, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()  # a folder where a file is expected
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    jetson = read_jetson(root)
    assert jetson is None or jetson.soc or jetson.l4t
    cores, total = read_processor(root).cores, read_ram(root).total
    assert cores is None or cores > 0
    assert total is None or total >= 0


def test_files_that_hold_nonsense_are_shown_as_nothing(tmp_path):
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(range(256)) * 3)
    shown = run("--detect", "--root", tmp_path).stdout
    assert "not named, ? cores" in shown
    assert "memory     not known" in shown


def test_this_machine_is_as_linux_says():
    machine = edgeseq_runtime.detect_machine()
    assert machine.processor.cores == Path("/proc/cpuinfo").read_text().count("processor\t:")
    assert machine.ram.total == int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert machine.packages["numpy"] == pytest.importorskip("numpy").__version__
    onnxruntime = pytest.importorskip("onnxruntime")
    assert onnxruntime.__version__ in machine.packages.values()
    assert set(machine.providers) <= {*onnxruntime.get_available_providers(), "TensorrtExecutionProvider", "CUDAExecutionProvider"}
    assert edgeseq_runtime.load_device("auto").name in machine.devices


DRIVER = r"""
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
static const char *names[] = {"NVIDIA GeForce RTX 4090", "NVIDIA H100 80GB HBM3", "A GPU of the future"};
static const unsigned long long sizes[] = {25757220864ULL, 85520809984ULL, 1ULL};
static const int major[] = {8, 9, 99}, minor[] = {9, 0, 1};
static int started;
int nvmlInit_v2(void) { started = 1; return START; }
int nvmlShutdown(void) { started = 0; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned int size) { strncpy(text, "580.95.05", size); return started ? 0 : 1; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    *handle = (void *)(size_t)(index + 1); return index == LOST; }
int nvmlDeviceGetName(void *handle, char *text, unsigned int size) { strncpy(text, names[(size_t)handle - 1], size); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *a, int *b) {
    *a = major[(size_t)handle - 1]; *b = minor[(size_t)handle - 1]; return 0; }
#ifndef NO_MEMORY
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) { memory->total = sizes[(size_t)handle - 1]; return 0; }
#endif
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Compiles a driver's library: what it answers is set by macros."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a driver's library with")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "nvml.c").write_text(DRIVER)

    def make(name, *macros, START=0, COUNT=3, LOST=-1):
        path = folder / f"lib{name}.so.1"
        given = [f"-D{key}={value}" for key, value in {"START": START, "COUNT": COUNT, "LOST": LOST}.items()]
        flags = ["-shared", "-fPIC", "-w", *given, *(f"-D{macro}" for macro in macros)]
        subprocess.run([compiler, *flags, "-o", path, folder / "nvml.c"], check=True)
        return str(path)

    return make


def test_gpus_are_what_the_driver_says(driver):
    found = read_driver(driver("three"))
    assert (found.version, found.cuda) == ("580.95.05", "12.8")
    assert [(gpu.name, gpu.memory, gpu.compute_capability, gpu.device) for gpu in found.gpus] == [
        ("NVIDIA GeForce RTX 4090", 25757220864, "8.9", "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", 85520809984, "9.0", "h100-sxm5-80gb"),
        ("A GPU of the future", 1, "99.1", None),
    ]


def test_a_gpu_that_is_lost_is_left_out_and_a_call_that_is_missing_is_not_made(driver):
    assert [gpu.name for gpu in read_driver(driver("lost", LOST=1)).gpus] == ["NVIDIA GeForce RTX 4090", "A GPU of the future"]
    assert {gpu.memory for gpu in read_driver(driver("old", "NO_MEMORY")).gpus} == {None}
    assert read_driver(driver("none", COUNT=0)).gpus == ()


def test_a_driver_that_does_not_start_is_none(driver, tmp_path):
    assert read_driver(driver("dead", START=9)) is None
    assert read_driver(str(tmp_path / "libnothing.so.1")) is None
    (tmp_path / "libtext.so.1").write_text("no library")
    assert read_driver(str(tmp_path / "libtext.so.1")) is None
    assert read_driver(None) is None


def test_the_machine_of_a_driver(driver, tmp_path):
    machine = edgeseq_runtime.detect_machine(tmp_path, nvml=driver("machine", COUNT=2), architecture="x86_64")
    assert machine.devices == ("rtx-4090", "h100-sxm5-80gb", "cpu-x86_64")


def run(*arguments, code=0, columns="100"):
    done = CliRunner(env={"COLUMNS": columns}).invoke(app, ["devices", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_the_screen_names_a_planted_board(tmp_path):
    plant(
        tmp_path,
        **{
            "proc__device-tree__model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "proc__device-tree__compatible": compatible("p3768-0000+p3767-0005", "tegra234"),
            "etc__nv_tegra_release": nv_tegra_release("36.4.3"),
            "etc__os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "proc__cpuinfo": ARM.format(implementer="0x41", part="0xd42"),
            "proc__meminfo": "MemTotal: 7802020 kB\nSwapTotal: 0 kB\n",
        },
    )
    shown = run("--detect", "--root", tmp_path).stdout
    for text in (
        "profiles   jetson-orin-nano-8gb, ",
        "Ubuntu 22.04.5 LTS",
        "Cortex-A78AE, 1 cores",
        "asimd, asimdhp, asimddp, i8mm",
        "8.0 GB in all, 0.0 GB of swap",
        "Jetson Linux 36.4.3: JetPack 6.2",
        "no NVIDIA driver",
    ):
        assert text in shown
    found = json.loads(run("--detect", "--json", "--root", tmp_path).stdout)
    assert (found["jetson"]["device"], found["jetson"]["jetpack"]) == ("jetson-orin-nano-8gb", "6.2")
    (tmp_path / "proc/device-tree/compatible").write_bytes(compatible("p3701-0000", "tegra234"))
    assert "no profile is this module's; with the same SoC: jetson-agx-orin-32gb" in run("--detect", "--root", tmp_path).stdout


def test_detecting_and_showing_are_two_requests():
    assert "leave out 'rtx-4090', or leave out --detect" in run("rtx-4090", "--detect", code=2).stderr


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("asked", [(), ("--detect",), ("jetson-agx-orin-64gb",), ("rtx-4090",), ("cpu-x86_64",)], ids=str)
def test_no_line_is_wider_than_the_screen(columns, asked):
    assert max(len(line.rstrip()) for line in run(*asked, columns=str(columns)).stdout.splitlines()) <= columns
