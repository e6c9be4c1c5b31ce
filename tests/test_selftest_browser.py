"""The self-test's page in a real browser: nothing leaves, nothing fails, it fits a phone, and every verdict can be read."""

import pytest
from chromium import PROGRAM, Browser
from selftest_boards import orin_nano, plant
from test_report_browser import CONTRAST, VIEWS

from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.selftest import builtin_bundle, run_selftest, selftest_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="needs chromium: apt-get install chromium"),
]
DEVICES = ("cpu", "cuda")  # one passes; the other lacks everything


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selftest")
    root = plant(folder / "board", orin_nano(total=3_900_000, hot=True))
    made = {}
    with builtin_bundle() as path:
        for device in DEVICES:
            test = run_selftest(path, device=device, seconds=0.01, root=root)
            made[device] = folder / f"{device}.html"
            made[device].write_text(selftest_page(test, open_bundle(path)), "utf-8")
    return made


@pytest.fixture(scope="module")
def browser():
    with Browser() as one:
        yield one


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("device", DEVICES)
def test_it_fits_any_width_can_be_read_and_asks_for_nothing(device, view, pages, browser):
    browser.open(pages[device], **VIEWS[view])
    assert browser.problems() == []
    assert browser.requests() == [pages[device].resolve().as_uri()]
    browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    width, sight = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width == sight == VIEWS[view].get("width", 1200)
    contrast, where = browser.evaluate(CONTRAST)
    assert contrast >= 4.5, where


@pytest.mark.parametrize("device", DEVICES)
def test_every_verdict_stands_in_its_row(device, pages, browser):
    browser.open(pages[device])
    rows = "[...document.querySelectorAll('#environment tbody tr, #steps tbody tr')]"
    assert browser.evaluate(f"{rows}.length") > 12
    outside = f"""{rows}.filter((row) => {{
        const [a, b] = [row.querySelector('.verdict').getBoundingClientRect(), row.getBoundingClientRect()];
        return a.top < b.top || a.bottom > b.bottom || a.left < b.left || a.width === 0;
    }}).map((row) => row.textContent)"""
    assert browser.evaluate(outside) == []
