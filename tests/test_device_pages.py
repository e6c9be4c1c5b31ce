"""docs/devices.md: its tables are made anew from the profiles, its examples load. docs/plans.md is in tests/test_vad.py."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import edgeseq_runtime

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import device_pages  # noqa: E402

DEVICES = (ROOT / "docs" / "devices.md").read_text("utf-8")


def test_the_tables_are_those_of_the_profiles():
    assert device_pages.filled(DEVICES, device_pages.device_blocks()) == DEVICES


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_profiles_load(number, tmp_path):
    examples = re.findall(r"```toml\n(.*?)```", DEVICES, re.DOTALL)
    assert len(examples) == 2
    (tmp_path / "mine.toml").write_text(examples[number])
    device = edgeseq_runtime.load_device(tmp_path / "mine.toml")
    assert device.memory.bandwidth_gb_s == (51.2, 8.5)[number]
    assert device.peak.fp32_tflops


def test_a_page_without_the_place_for_a_table_is_an_error():
    with pytest.raises(SystemExit, match="0 places for 'x'"):
        device_pages.filled("no place", {"x": "y"})
