"""Device profiles."""

import json
import platform
import re
from importlib import resources

import pytest
from typer.testing import CliRunner

import edgeseq_runtime
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.device import _profiles
from edgeseq_runtime.errors import DeviceError
from edgeseq_runtime.jetpack import list_jetpacks, load_jetpack

PROFILE = """
name = "mine"
title = "a board of mine"
kind = "cpu"
backend = "onnxruntime"
providers = ["CPUExecutionProvider"]
"""


def test_every_profile_loads_by_its_name_and_has_sources():
    devices = edgeseq_runtime.list_devices()
    assert {device.name for device in devices} >= {"cpu-x86_64", "cpu-aarch64", "cuda"}
    for device in devices:
        assert edgeseq_runtime.load_device(device.name) == device
        assert all(hazard.source and hazard.rule and hazard.text for hazard in device.hazards)


def test_the_devices_are_those_promised():
    groups = {}
    for device in edgeseq_runtime.list_devices():
        groups.setdefault(device.group, []).append(device.name)
    assert (len(groups["Jetson"]), len(groups["GPU"])) == (15, 14)
    assert {"cuda", "tensorrt"} <= set(groups["any"])
    assert len(list_jetpacks()) == 8


def test_a_profiles_file_is_named_as_it_is_and_no_name_is_taken_twice():
    names = {file: profile["name"] for file, profile in _profiles().items()}
    assert {f"{name}.toml" for name in names.values()} == set(names)
    titles = [device.title for device in edgeseq_runtime.list_devices()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("device", edgeseq_runtime.list_devices(), ids=lambda device: device.name)
def test_every_figure_has_a_source_and_makes_sense(device):
    for facts in device.facts.values():
        assert re.search(r"https://|data sheet|nvmlDevice|the module's name", facts.source), facts
    if device.group in ("Jetson", "GPU"):
        assert device.memory.bandwidth_gb_s
        assert device.peak.fp16_tflops >= device.peak.fp32_tflops > 0
        assert re.fullmatch(r"\d{1,2}\.\d", device.chip.compute_capability)
        assert device.identity.modules or device.identity.models
    if device.jetpack:
        sm = round(10 * float(device.chip.compute_capability))
        assert all(sm in load_jetpack(release).sm for release in device.jetpack.releases)
        assert device.machines == ("aarch64",)


def test_two_figures_of_each_kind_by_hand():
    """From the pages that the profiles name, so that no column was mistaken for another."""
    nano, thor, ada = (edgeseq_runtime.load_device(name) for name in ("jetson-orin-nano-8gb", "jetson-t5000", "rtx-4090"))
    assert (nano.memory.gb, nano.memory.bandwidth_gb_s, nano.peak.fp32_tflops, nano.gpu.l2_mb) == (8, 68.22, 1.28, 2)
    assert (nano.int8.dense_tops, nano.int8.sparse_tops, nano.cpu.qemu_cpu, nano.dla.count) == (20, 40, "cortex-a78ae", 0)
    assert (thor.memory.gb, thor.memory.bandwidth_gb_s, thor.peak.fp16_tflops, thor.power) == (128, 273.2, 51.7, None)
    assert (ada.memory.bandwidth_gb_s, ada.gpu.sm_count, ada.gpu.tensor_cores, ada.power.tdp_w) == (1010, 128, 512, 450)
    assert edgeseq_runtime.load_device("jetson-agx-orin-64gb").modes.int8_sparse_tops == (275, 200, 131, 54)


@pytest.mark.parametrize("jetpack", list_jetpacks(), ids=lambda jetpack: jetpack.release)
def test_every_field_of_a_jetpack_has_a_source(jetpack):
    given = {name for name in jetpack.__struct_fields__ if getattr(jetpack, name)} - {"release", "note", "sources"}
    assert given == set(jetpack.sources)
    assert all("https://" in source for source in jetpack.sources.values())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", one) for one in jetpack.l4t)


def test_a_release_of_jetson_linux_belongs_to_one_jetpack():
    listed = [one for jetpack in list_jetpacks() for one in jetpack.l4t]
    assert len(set(listed)) == len(listed)
    with pytest.raises(DeviceError, match=r"there is no JetPack '9\.9' among those known: 4\.6, 5\.1, "):
        load_jetpack("9.9")


def test_profiles_are_data_beside_the_code():
    folder = resources.files("edgeseq_runtime.devices")
    assert sum(file.name.endswith(".toml") for file in folder.iterdir()) == len(edgeseq_runtime.list_devices())


LIKE = """
name = "mine"
title = "a board of mine"
like = "jetson-orin-nano-8gb"

[memory]
gb = 16
source = "its box"

[[hazards]]
rule = "hot"
text = "it gets hot"
source = "measured: by hand"
"""


def test_a_profile_that_is_like_another(tmp_path):
    (tmp_path / "mine.toml").write_text(LIKE)
    mine, other = edgeseq_runtime.load_device(tmp_path / "mine.toml"), edgeseq_runtime.load_device("jetson-orin-nano-8gb")
    assert (mine.name, mine.title, mine.memory.gb, mine.memory.bandwidth_gb_s) == ("mine", "a board of mine", 16, None)
    assert (mine.backend, mine.peak, mine.jetpack, mine.group) == (other.backend, other.peak, other.jetpack, "Jetson")
    assert [hazard.rule for hazard in mine.hazards] == ["engine-of-one-machine", "tf32-by-default", "hot"]


def run(*arguments, code=0):
    done = CliRunner(env={"COLUMNS": "120"}).invoke(app, ["devices", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def test_the_screen_shows_a_device_with_its_sources(tmp_path):
    shown = run("jetson-agx-orin-64gb").stdout
    for text in ("64 GB, LPDDR5, 204.8 GB/s [2]", "tegra234, compute capability 8.7 [1]", "10.16, 11.4 [", "MAXN, 50W, 30W, 15W"):
        assert text in shown
    cited = {int(number) for number in re.findall(r" \[(\d+)\]", shown)}
    listed = [int(number) for number in re.findall(r"^\[(\d+)\]", shown, re.MULTILINE)]
    assert listed == sorted(listed) == sorted(cited)
    (tmp_path / "mine.toml").write_text(LIKE)
    assert "mine: a board of mine" in run(tmp_path / "mine.toml").stdout
    assert [hazard["rule"] for hazard in json.loads(run(tmp_path / "mine.toml", "--json").stdout)["hazards"]][-1] == "hot"


def test_the_list_has_every_device():
    shown = run().stdout
    found = json.loads(run("--json").stdout)
    names = [device.name for device in edgeseq_runtime.list_devices()]
    assert all(re.search(rf"^{re.escape(name)} ", shown, re.MULTILINE) for name in names)
    assert [device["name"] for device in found["devices"]] == names
    assert [jetpack["release"] for jetpack in found["jetpack"]] == [jetpack.release for jetpack in list_jetpacks()]


@pytest.mark.parametrize("name", ["auto", "cpu"])
@pytest.mark.parametrize(
    ("machine", "found"), [("x86_64", "cpu-x86_64"), ("AMD64", "cpu-x86_64"), ("aarch64", "cpu-aarch64"), ("arm64", "cpu-aarch64")]
)
def test_the_local_cpu_is_found_by_what_it_calls_itself(name, machine, found, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert edgeseq_runtime.load_device(name).name == found


def test_a_cpu_without_a_profile_is_an_error(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(DeviceError, match="'riscv64'; there are: aarch64, arm64, x86_64, AMD64"):
        edgeseq_runtime.load_device("auto")


@pytest.mark.parametrize(("asked", "near"), [("cudda", "cuda"), ("cpu-x86", "cpu-x86_64"), ("arch64", "cpu-aarch64")])
def test_an_unknown_name_lists_names_near_it(asked, near):
    with pytest.raises(DeviceError, match=f"no device '{asked}'; did you mean .*{near}.*`edgeseq devices` lists those known"):
        edgeseq_runtime.load_device(asked)
    with pytest.raises(DeviceError, match="there is no device 'qqqq'; known: auto, cpu, a10, "):
        edgeseq_runtime.load_device("qqqq")


def test_a_profile_of_ones_own(tmp_path):
    (tmp_path / "mine.toml").write_text(PROFILE)
    device = edgeseq_runtime.load_device(tmp_path / "mine.toml")
    assert (device.name, device.hazards) == ("mine", ())
    assert edgeseq_runtime.load_device(str(tmp_path / "mine.toml")) == device
    with pytest.raises(AttributeError):
        device.name = "other"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name = ", "Invalid value"),
        (PROFILE + "speed = 3", "unknown field `speed`"),
        (PROFILE.replace("title", "#"), "missing required field `title`"),
        (PROFILE.replace('"cpu"', "3"), "Expected `str`"),
        (PROFILE.replace('"cpu"', '"tpu"'), "kind is 'tpu'"),
        (PROFILE.replace('["CPUExecutionProvider"]', "[]"), "must not be empty"),
        (PROFILE + '[provider_options.Other]\nx = "1"', "must hold every name"),
        (PROFILE + "[memory]\ngb = 8", "missing required field `source`"),
        (PROFILE + '[memory]\ngb = 8\nsource = " "', r"\[memory\] has no source"),
        (PROFILE + '[memory]\ngb = 0\nsource = "s"', r"\[memory\] says gb = 0(.0)?; it must be more than 0"),
        (PROFILE + '[memory]\ngb = nan\nsource = "s"', "says gb = nan"),
        (PROFILE + '[modes]\nrange_w = [5, -1]\nsource = "s"', "says range_w = -1"),
        (PROFILE + '[peak]\ntflops = 3\nsource = "s"', "unknown field `tflops`"),
        (PROFILE + 'like = "nonsense-9"', "there is no device 'nonsense-9'"),
        (PROFILE + '[[hazards]]\nrule = "r"\ntext = "no source"', "missing required field `source`"),
    ],
)
def test_a_file_that_does_not_follow_the_schema_is_refused(text, match, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(DeviceError, match=f"mine.toml is no device profile: .*{match}"):
        edgeseq_runtime.load_device(tmp_path / "mine.toml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DeviceError, match="can't read the device profile"):
        edgeseq_runtime.load_device(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(DeviceError, match="can't read the device profile"):
        edgeseq_runtime.load_device(tmp_path / "latin.toml")


def test_hazards_may_be_a_matter_of_precision():
    x86 = edgeseq_runtime.load_device("cpu-x86_64")
    assert [hazard.rule for hazard in x86.hazards_at("int8")] == ["int8-saturates"]
    assert x86.hazards_at("fp32") == ()
