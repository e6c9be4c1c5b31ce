"""Device profiles."""

import platform

import pytest

import edgeseq_runtime
from edgeseq_runtime.errors import DeviceError

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
