"""`edgeseq report`: the page says what was measured, needs nothing from outside, and lets no name become markup."""

import base64
import hashlib
import re

import msgspec
import numpy as np
import pytest
import runtime_models
from blocked_imports import run_python
from html_tree import parsed
from report_pages import HOSTILE, SEEN, SPECIAL, chart, hostile_model, identity, reported, rows_of, sound
from runtime_models import faulty
from test_parity import not_a_number, swapped_gates
from typer.testing import CliRunner

import edgeseq_runtime
from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.cli.main import app
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.report import measure_report, page_html, write_page
from edgeseq_runtime.report.measures import bin_edges
from edgeseq_runtime.report.scales import figure_text, times_text
from edgeseq_runtime.report.sections.headline import sentence

EPS = 2 * float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def good(folder):
    path = runtime_models.lstm().write(folder / "good.edgeseq", notes=("a note",), hazards=("rule: text",))
    return measure_report(path, seconds=0.01)


@pytest.fixture(scope="module")
def page(good):
    return parsed(page_html(good))


def test_the_page_holds_every_part_in_order(page):
    sections = [section.attributes["id"] for section in page.all("section")]
    assert sections == ["verdict", "model", "parity", "error-over-time", "error-sizes", "latency", "plans", "provenance"]
    links = [link.attributes["href"] for link in page.one("nav").all("a")]
    assert links == [f"#{anchor}" for anchor in sections[1:]]


@pytest.mark.parametrize("kind", ["good", "failing", "not a number", "skipped", "no error", "discrete"])
def test_the_structure_is_sound_for_eyes_keyboard_and_screen_reader(kind, good, folder):
    report = good if kind == "good" else reported(*SPECIAL[kind], folder)
    sound(parsed(page_html(report)))


def test_it_needs_nothing_from_outside_and_says_so_to_the_browser(good, page):
    text = page_html(good)
    for one in page.all():
        assert one.name not in ("link", "img", "iframe", "object", "embed", "video", "audio", "base", "form", "image", "use")
        assert not {"src", "srcset", "style", "action", "data", "background", "poster", "xlink:href", "ping"} & set(one.attributes)
        assert not [name for name in one.attributes if name.startswith("on")]
        assert one.attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|WebSocket|import\(", text)
    policy = page.one("meta", http_equiv="Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.attributes["content"].split(";"))
    assert rules["default-src"] == "'none'"
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.one(name).text.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "style-src", "script-src", "base-uri", "form-action"}


def test_no_name_of_a_bundle_becomes_markup(folder):
    report = reported(
        hostile_model(),
        folder,
        sizes=({"<i>T</i>": 5, "B": 2},),
        notes=(HOSTILE,),
        hazards=(HOSTILE,),
        provenance={HOSTILE: HOSTILE},
        census={HOSTILE: 1},
    )
    page = parsed(page_html(report))
    sound(page)
    assert not [one for one in page.all() if one.name in ("img", "b", "i")]
    assert len(list(page.all("script"))) == 1
    assert page.one("head").one("title").text == f"PASS: {SEEN} - edgeseq report".replace("\r", "")
    assert page.one("h1").text.endswith(SEEN)
    assert [one for one in page.one("section", id="parity").all("bdi") if one.text == SEEN]
    assert SEEN in page.one("section", id="provenance").text
    assert "[<i>T</i>, B, 3]" in page.one("section", id="model").text


def test_the_table_holds_the_figures_of_measure_parity(good, page):
    report = edgeseq_runtime.measure_parity(good.bundle.path)
    rows = rows_of(page.one("table", id="rows"))
    assert len(rows) == len(report.rows)
    for shown, row in zip(rows, report.rows, strict=True):
        assert shown["output"].text == row.output
        assert shown["verdict"].text.split()[-1] == row.verdict
        assert shown["mode"].text == row.mode
        for column, value in (("k", row.k), ("k999", row.k999), ("largest |error|", row.max_abs)):
            figure = shown[column].one("data")
            assert float(figure.attributes["value"]) == pytest.approx(value, rel=1e-5)
            assert figure.text == figure_text(value)
    worst = max(row.k for row in report.rows)
    assert f"{figure_text(worst)} of 4 allowed" in page.one("section", id="verdict").text
    assert f"its error is at most {times_text(worst)} times PyTorch's own" in page.one("section", id="verdict").text


def test_each_output_is_shown_at_its_worst_and_many_rows_are_folded(good, page):
    section = page.one("section", id="parity")
    worst = rows_of(section.one("div", aria_label="The worst comparison of each output").one("table"))
    assert [row["output"].text for row in worst] == ["y", "h_out", "c_out"]
    for row in worst:
        of_output = [one for one in good.parity.rows if one.output == row["output"].text]
        highest = max(of_output, key=lambda one: max(one.k / 4, one.k999 / 8))
        assert row["k"].text.strip() == figure_text(highest.k)
        assert row["comparisons"].text == "6"
    every = next(one for one in section.all("details") if one.children[0].text == "All 18 comparisons")
    assert "open" in every.attributes
    many = good.parity.rows * 2
    folded = parsed(page_html(good._replace(parity=msgspec.structs.replace(good.parity, rows=many))))
    assert "open" not in next(one for one in folded.all("details") if one.children[0].text == "All 36 comparisons").attributes
    many = (*many, msgspec.structs.replace(many[0], verdict="fail", k=9.0))
    shown = parsed(page_html(good._replace(parity=msgspec.structs.replace(good.parity, rows=many))))
    assert "open" in next(one for one in shown.all("details") if one.children[0].text == "All 37 comparisons").attributes
    worst = rows_of(shown.one("div", aria_label="The worst comparison of each output").one("table"))
    assert (worst[0]["verdict"].text, worst[0]["k"].text.strip()) == ("✗ fail", "9.00")


def test_errors_are_those_that_k_is_made_of(good):
    """k = runtime / max(PyTorch, 2 eps), both relative to the rms of the output."""
    whole = {(row.output, tuple(row.sizes.items())): row.k for row in good.parity.rows if row.mode == "whole"}
    for one in good.errors:
        for case in one.by_case:
            assert case.runtime / max(case.torch, EPS) == pytest.approx(whole[one.output, tuple(case.sizes.items())], rel=1e-9)
    assert sum(len(one.by_case) for one in good.errors) == len(whole)


def test_steps_and_sizes_of_errors_are_those_of_the_arrays(good):
    session, case = edgeseq_runtime.load(good.bundle.path), good.bundle.reference()[-1]
    got = np.stack([session.run(case.draw_inputs(draw))["y"] for draw in range(case.case.draws)]).astype(np.float64)
    errors = next(one for one in good.errors if one.output == "y")
    scale = np.sqrt(np.mean(case.float64["y"] ** 2))
    for found, values in ((errors.by_step.runtime, got), (errors.by_step.torch, case.float32["y"].astype(np.float64))):
        expected = [np.sqrt(np.mean((values[:, t] - case.float64["y"][:, t]) ** 2)) / scale for t in range(20)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert errors.by_step.sizes == {"T": 20, "B": 2}
    total = sum(one.float64["y"].size for one in good.bundle.reference())
    assert (errors.runtime.total, errors.torch.total) == (total, total)
    assert errors.runtime.counts.sum() + errors.runtime.zeros == total
    every = np.concatenate(
        [np.abs(one.float32["y"].astype(np.float64) - one.float64["y"]).ravel() for one in good.bundle.reference()]
    )
    low = np.searchsorted(bin_edges(), 1e-8)
    assert errors.torch.counts[:low].sum() == np.sum((every > 0) & (every < bin_edges()[low]))


def test_charts_say_in_figures_what_they_draw(good, page):
    errors = next(one for one in good.errors if one.output == "y")
    rows = rows_of(chart(page, "error-over-time", "y").one("table"))
    assert [row["time step"].text for row in rows] == [figure_text(t) for t in range(1, 21)]
    assert [row["runtime"].text for row in rows] == list(map(figure_text, errors.by_step.runtime))
    assert [row["PyTorch float32"].text for row in rows] == list(map(figure_text, errors.by_step.torch))
    by_length = next(one for one in page.one("section", id="error-over-time").all("figure") if "3 cases" in one.text)
    assert [row["length T (steps)"].text for row in rows_of(by_length.one("table"))] == ["1.00", "7.00", "20.0"]
    histogram = rows_of(chart(page, "error-sizes", "y").one("table"))
    for column, found in (("runtime", errors.runtime), ("PyTorch float32", errors.torch)):
        share = 100 * found.counts.sum() / found.total
        assert sum(float(row[column].text) for row in histogram) == pytest.approx(share, abs=0.2)
    lines = chart(page, "error-over-time", "y").all("polyline")
    heights = {one.attributes["class"]: [float(point.split(",")[1]) for point in one.attributes["points"].split()] for one in lines}
    higher = errors.by_step.runtime > errors.by_step.torch  # a larger error is nearer to the top
    for t in np.flatnonzero(np.abs(np.log(errors.by_step.runtime / errors.by_step.torch)) > 0.05):
        assert (heights["line runtime"][t] < heights["line torch"][t]) == higher[t]


def test_long_sequences_are_gathered_into_few_points(folder):
    report = reported(runtime_models.lstm(state=False), folder, sizes=({"T": 1000, "B": 1},), draws=2)
    by_step = report.errors[0].by_step
    assert len(by_step.steps) == 120
    assert by_step.steps[-1] == 1000
    rms = np.sqrt(np.average(by_step.runtime**2, weights=np.diff(by_step.steps, prepend=0)))
    assert rms == pytest.approx(report.errors[0].by_case[0].runtime, rel=1e-9)


def test_a_failure_is_said_first_and_shown_first(folder):
    report = reported(faulty(runtime_models.lstm(), swapped_gates), folder, sizes=({"T": 4, "B": 2},))
    page = parsed(page_html(report))
    headline = page.one("section", id="verdict").text
    assert "✗ FAIL" in headline
    assert re.search(
        r"lstm does not compute on \S+ in fp32 what PyTorch computes: output \w+ at T=4 B=2 .* is off by [\d,]+ times", headline
    )
    assert page.one("head").one("title").text.startswith("FAIL: lstm")
    bad = reported(faulty(runtime_models.lstm(), not_a_number), folder)
    rows = rows_of(parsed(page_html(bad)).one("table", id="rows"))
    assert [row["verdict"].text for row in rows[:6]] == ["✗ fail"] * 6
    assert [row["k"].text.strip() for row in rows[:6]] == ["–"] * 6
    assert "y: not compared" in page_html(bad).replace("<bdi>", "").replace("</bdi>", "")
    assert "can't be equal (holds NaN or infinity)" in page_html(bad).replace("&#x27;", "'")


def test_what_was_skipped_is_shown_with_its_reason(folder):
    report = reported(runtime_models.gru(), folder, horizon={"y": 3, "h_out": 3}, sizes=({"T": 20, "B": 1},))
    page = parsed(page_html(report))
    remarks = page.one("section", id="parity").one("ul", class_="remarks").text
    assert "2 not compared: h_out" in remarks
    assert "chaotic after 3 steps, and has no time axis to cut" in remarks
    assert "first 3 steps; the rest is chaotic" in remarks
    assert "gated up to here" in chart(page, "error-over-time", "y").text
    errors = {one.output: one for one in report.errors}
    assert errors["h_out"].by_case == ()
    assert errors["y"].runtime.total == 32 * 3 * 8


def test_nothing_gated_is_nothing_proved(good):
    skipped = tuple(msgspec.structs.replace(row, verdict="skip") for row in good.parity.rows)
    assert "so nothing is proved" in sentence(msgspec.structs.replace(good.parity, rows=skipped))
    k999 = [msgspec.structs.replace(row, verdict="fail", k=1.0, k999=50.0) for row in good.parity.rows]
    assert "largest errors 50 times PyTorch" in sentence(msgspec.structs.replace(good.parity, rows=tuple(k999)))


def test_exact_and_whole_outputs_have_no_chart_but_a_sentence(folder):
    page = parsed(page_html(reported(identity(), folder)))
    assert "y: equal to the last bit in both" in page.one("section", id="error-over-time").text
    assert not list(page.one("section", id="error-over-time").all("figure"))
    assert "y: of whole numbers" in parsed(page_html(reported(identity("int32"), folder))).one("section", id="error-over-time").text


def test_latency_is_that_of_bench(good, page):
    rows = rows_of(page.one("section", id="latency").one("div", aria_label="Time of one call, in microseconds").one("table"))
    assert [row["median, µs"].text for row in rows] == [figure_text(row.median) for row in good.bench.rows]
    assert {mode: len(times) for mode, times in good.times.items()} == {row.mode: row.calls for row in good.bench.rows}
    for row in good.bench.rows:
        assert np.percentile(good.times[row.mode], 99) == pytest.approx(row.p99)


def test_every_device_is_planned_and_the_one_measured_is_marked(good, page):
    section = page.one("section", id="plans")
    cards = {next(iter(card.all("h3"))).children[0]: card.text for card in section.all("article")}
    assert set(cards) == {device.name for device in edgeseq_runtime.list_devices()}
    assert [name for name, text in cards.items() if "measured here" in text] == [good.parity.device]
    for name, text in cards.items():
        for hazard in edgeseq_runtime.make_plan(good.bundle, name).hazards:
            assert hazard in text


def test_families_of_devices_are_folded_but_for_the_one_measured(good, page):
    def families(shown):
        return {
            next(iter(one.all("summary"))).text: "open" in one.attributes for one in shown.one("section", id="plans").all("details")
        }

    assert families(page) == {"15 Jetson modules": False, "14 GPUs": False}
    there = good._replace(parity=msgspec.structs.replace(good.parity, device="jetson-t5000"))
    assert families(parsed(page_html(there))) == {"15 Jetson modules": True, "14 GPUs": False}


def test_provenance_is_the_bundles(good, page):
    text = page.one("section", id="provenance").text
    for part in (good.bundle.sha256, "opset ai.onnx 20; IR 10", "a note", "rule: text", *good.parity.versions.values()):
        assert part in text
    for name, size in good.bundle.member_sizes.items():
        assert f"{name}{size:,}" in text
    assert good.bundle.manifest.sha256["model.onnx"][:16] in text


def test_a_graph_that_can_not_be_read_leaves_the_rest_of_the_page(good):
    page = parsed(page_html(good._replace(model=None, model_problem="<cut> short")))
    sound(page)
    assert "The graph can't be drawn: <cut> short." in page.one("section", id="model").text
    relu = good.model.graph.nodes[-1]._replace(op="Relu")
    huge = good.model._replace(graph=good.model.graph._replace(nodes=(relu,) * 20_001))
    assert "20,001 nodes: too many to draw" in parsed(page_html(good._replace(model=huge))).one("section", id="model").text


def test_the_command_writes_the_page_and_says_by_its_code_what_it_found(good, folder):
    def run(*arguments):
        return CliRunner().invoke(app, ["report", *map(str, arguments)])

    done = run(good.bundle.path, "-o", folder / "new" / "page.html", "--seconds", "0.01", "--threads", "2")
    assert (done.exit_code, done.stdout.strip().replace("\n", "")) == (0, str(folder / "new" / "page.html"))
    assert "2 threads" in (folder / "new" / "page.html").read_text("utf-8")
    bad = faulty(runtime_models.lstm(), swapped_gates).write(folder / "bad.edgeseq")
    done = run(bad, "-o", folder / "bad.html", "--no-bench")
    assert done.exit_code == 1
    assert "parity failed" in done.stderr
    assert "Latency was left out" in (folder / "bad.html").read_text("utf-8")
    for arguments in (
        (good.bundle.path, "-o", folder),
        (folder / "none.edgeseq", "-o", folder / "none.html"),
        (good.bundle.path, "-o", folder / "none.html", "--precision", "int3"),
        (good.bundle.path, "-o", folder / "none.html", "--device", "toaster"),
        (good.bundle.path,),
    ):
        assert run(*arguments).exit_code == 2
    assert not (folder / "none.html").exists()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_the_page_is_made_where_pytorch_and_onnx_are_absent(good, folder):
    made = folder / "torch-free.html"
    done = run_python(
        f"from edgeseq_runtime.report import *\nwrite_page(measure_report({str(good.bundle.path)!r}, seconds=None), {str(made)!r})"
    )
    assert done.returncode == 0, done.stderr
    sound(parsed(made.read_text("utf-8")))


def test_a_page_is_written_whole_or_not_at_all(good, folder):
    with pytest.raises(UsageError, match="can't write the report"):
        write_page(good, folder)
    before = write_page(good, folder / "twice.html").read_bytes()
    assert write_page(good, folder / "twice.html").read_bytes() == before  # nothing random in it
    assert before.decode("utf-8") == page_html(good)
    assert len(before) < 200_000


def test_the_bundle_of_a_report_is_the_one_it_was_made_of(good):
    assert good.parity.sha256 == open_bundle(good.bundle.path).sha256
