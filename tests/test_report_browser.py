"""The report's page in a real browser: nothing leaves, nothing fails, it fits a phone, and the keyboard reaches it all."""

import contextlib

import pytest
import runtime_models
from chromium import PROGRAM, Browser
from report_pages import hostile_model, reported
from runtime_models import faulty
from test_parity import swapped_gates
from test_report_graph import scan_model

from edgeseq_runtime.onnx_wire import read_model
from edgeseq_runtime.report import write_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="needs chromium: apt-get install chromium"),
]

KINDS = ("good", "failing", "hostile")
VIEWS = {"light": {}, "dark": {"dark": True}, "phone": {"width": 390, "height": 844}, "narrow": {"width": 320, "height": 600}}
# The least contrast (WCAG 2.2, 1.4.3) of any text with what is painted behind it, and where.
CONTRAST = """(() => {
  const parse = (color) => { const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const rect = at.matches("g.box") && at.querySelector("rect");
      const color = parse(rect ? getComputedStyle(rect).fill : getComputedStyle(at).backgroundColor);
      if (color.a > 0) return color.rgb;
    }
    return [255, 255, 255];
  };
  let least = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    if (element.matches("script, title") || ![...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(element.closest("svg") ? style.fill : style.color).rgb), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < least[0]) least = [contrast, element.outerHTML.slice(0, 120)];
  }
  return least;
})()"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def pages(folder):
    """A page of each kind."""
    models = {
        "good": (runtime_models.lstm(), {"horizon": {"y": 9, "h_out": 9}}),
        "failing": (faulty(runtime_models.lstm(), swapped_gates), {}),
        "hostile": (hostile_model(), {"sizes": ({"<i>T</i>": 5, "B": 2},), "notes": ("<script>document.title = 'x'</script>",)}),
    }
    made = {}
    for kind, (model, options) in models.items():
        report = reported(model, folder, seconds=0.01, **options)
        if kind == "good":
            report = report._replace(model=read_model(scan_model()))
        made[kind] = write_page(report, folder / f"{kind}.html")
    return made


@pytest.fixture(scope="module")
def browser():
    with Browser() as one:
        yield one


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_fails_and_nothing_leaves(kind, view, pages, browser):
    browser.open(pages[kind], **VIEWS[view])
    assert browser.problems() == []
    assert browser.requests() == [pages[kind].resolve().as_uri()]
    assert browser.evaluate("document.querySelectorAll('img, iframe').length") == 0


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_fits_any_width_with_everything_unfolded(kind, view, pages, browser):
    browser.open(pages[kind], **VIEWS[view])
    browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    width, sight = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width == sight == VIEWS[view].get("width", 1200)
    tall = "[...document.querySelectorAll('th, td')].filter((one) => one.getBoundingClientRect().height > 150)"
    assert browser.evaluate(f"{tall}.map((one) => one.textContent)") == []
    small = "[...document.querySelectorAll('.chart text')].filter((one) => one.getBoundingClientRect().height < 9).length"
    assert browser.evaluate(small) == 0
    outside = """[...document.querySelectorAll('svg[role=img] text')].filter((one) => {
        const [a, b] = [one.getBoundingClientRect(), one.closest('svg').getBoundingClientRect()];
        return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }).map((one) => one.textContent)"""
    assert browser.evaluate(outside) == []
    overfull = """[...document.querySelectorAll('g.box')].filter((one) => one.querySelectorAll('text').length &&
        [...one.querySelectorAll('text')].some((text) =>
            text.getBBox().width > one.querySelector('rect').getBBox().width)).map((one) => one.textContent)"""
    assert browser.evaluate(overfull) == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_text_can_be_read_in_light_and_in_dark(kind, dark, pages, browser):
    browser.open(pages[kind], dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(18, 22, 26)" if dark else "rgb(255, 255, 255)")
    contrast, where = browser.evaluate(CONTRAST)
    assert contrast >= 4.5, where


@pytest.mark.parametrize("kind", KINDS)
def test_every_verdict_stands_in_its_cell(kind, pages, browser):
    browser.open(pages[kind])
    browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    astray = """[...document.querySelectorAll('td .verdict, .remarks strong')].filter((one) => {
        const [a, b] = [one.getBoundingClientRect(), one.parentElement.getBoundingClientRect()];
        return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }).map((one) => one.textContent)"""
    assert browser.evaluate(astray) == []


def test_the_keyboard_skips_to_the_content_and_reaches_every_part(pages, browser):
    browser.open(pages["good"])
    reached = []
    for _ in range(8):
        browser.press("Tab")
        reached.append(browser.evaluate("document.activeElement.getAttribute('href')"))
        assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        box = "(({ top, bottom, height }) => top >= 0 && bottom <= innerHeight && height > 0)"
        assert browser.evaluate(f"{box}(document.activeElement.getBoundingClientRect())")
    assert reached == [
        "#content", "#model", "#parity", "#error-over-time", "#error-sizes", "#latency", "#plans", "#provenance",
    ]  # fmt: skip
    browser.press("Enter")
    assert browser.evaluate("location.hash") == "#provenance"
    browser.open(pages["good"])
    browser.press("Tab")
    browser.press("Enter")
    assert browser.evaluate("document.activeElement.id") == "content"


def test_a_screen_reader_finds_names_for_everything_it_stops_at(pages, browser):
    browser.open(pages["good"])
    browser.send("Accessibility.enable")
    nodes = [one for one in browser.send("Accessibility.getFullAXTree")["nodes"] if not one["ignored"]]
    named = {}
    for one in nodes:
        named.setdefault(one["role"]["value"], []).append(one.get("name", {}).get("value", ""))
    for role in ("navigation", "link", "region", "heading", "image", "button", "combobox", "table"):
        assert named[role], role
        assert all(named[role]), (role, named[role])
    assert len(named["main"]) == len(named["banner"]) == len(named["contentinfo"]) == 1
    assert {"Model", "Parity", "Latency"} <= set(named["region"])


def test_rows_are_sorted_and_filtered_and_complete_without_the_script(pages, browser):
    shown = "[...document.querySelectorAll('#rows tbody tr')].filter((row) => !row.hidden)"
    ks = f"{shown}.map((row) => Number(row.cells[2].querySelector('data').value))"
    browser.open(pages["good"])
    measured = browser.evaluate(ks)
    header = "document.querySelector('#rows thead tr').cells[2]"
    browser.evaluate(f"{header}.querySelector('button').click()")
    assert browser.evaluate(ks) == sorted(measured)
    assert browser.evaluate(f"{header}.getAttribute('aria-sort')") == "ascending"
    browser.evaluate(f"{header}.querySelector('button').click()")
    assert browser.evaluate(ks) == sorted(measured, reverse=True)
    select = "document.querySelector('.filter select')"
    counts = browser.evaluate(f"[...{select}.options].map((one) => one.textContent)")
    assert counts[0] == f"all ({len(measured)})"
    skipped = next(one for one in counts if one.startswith("skip"))
    browser.evaluate(f"{select}.value = 'skip'; {select}.dispatchEvent(new Event('change'))")
    assert f"skip ({len(browser.evaluate(ks))})" == skipped
    browser.open(pages["good"], scripts=False)
    tree = browser.send("DOM.getDocument", depth=-1)
    found = browser.send("DOM.querySelectorAll", nodeId=tree["root"]["nodeId"], selector="#rows tbody tr")["nodeIds"]
    assert len(found) == len(measured)
    assert not browser.send("DOM.querySelectorAll", nodeId=tree["root"]["nodeId"], selector="select, button")["nodeIds"]


def test_the_policy_stops_what_gets_into_the_page_all_the_same(pages, browser, folder):
    """Markup that an escaping fault would let through can neither run nor call."""
    planted = "<script>document.title = 'ran'</script><img src='http://127.0.0.1:9/x.png'><b onclick='1' style='color: red'>x</b>"
    text = pages["good"].read_text("utf-8")
    (folder / "planted.html").write_text(text.replace("<footer>", planted + "<footer>"), "utf-8")
    browser.open(folder / "planted.html")
    assert browser.evaluate("document.title").startswith("PASS")
    assert len([text for text in browser.problems() if "Content Security Policy" in text]) >= 3
    blocked = [event for event in browser.events if event.get("method") == "Network.loadingFailed"]
    with contextlib.suppress(IndexError):
        assert blocked[0]["params"].get("blockedReason") == "csp"
    assert browser.evaluate("getComputedStyle(document.querySelector('footer').previousElementSibling).color") != "rgb(255, 0, 0)"


def test_it_prints_without_its_controls_and_in_full_width(pages, browser):
    browser.open(pages["good"], dark=True)
    browser.send("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.evaluate("getComputedStyle(document.querySelector('.filter')).display") == "none"
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.send("Emulation.setEmulatedMedia", media="")


def test_pictures_of_every_view_are_taken(pages, browser, folder):
    """Each differs from the others: a style that is not applied would show."""
    taken = {}
    for view, options in VIEWS.items():
        browser.open(pages["good"], **options)
        browser.screenshot(folder / f"{view}.png")
        taken[view] = (folder / f"{view}.png").read_bytes()
        assert taken[view].startswith(b"\x89PNG")
    assert len(set(taken.values())) == len(VIEWS)
