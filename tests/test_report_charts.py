"""The small parts of the report: markup, figures, scales and bars."""

import pytest
from html_tree import parsed

from edgeseq_runtime.report.charts import ratio_bar
from edgeseq_runtime.report.markup import Html, element, escaped
from edgeseq_runtime.report.scales import close_log_scale, figure_text, linear_scale, log_scale


def test_text_is_escaped_and_only_markup_is_not():
    assert element("p", "<b>", [1, None, Html("<i></i>")], title='"x"', hidden=True, lang=None) == (
        '<p title="&quot;x&quot;" hidden>&lt;b&gt;1<i></i></p>'
    )
    assert escaped("a\u2066\ud800\x1bb\n") == "a\ufffd\ufffd\ufffdb\n"
    assert isinstance(str(Html("<b>")) + "", str)
    assert element("p", Html("<b>") + "<i>") == "<p>&lt;b&gt;&lt;i&gt;</p>"  # joined by hand it is text again: never the other way


def test_bars_cross_the_gate_where_the_figure_does():
    for value, kind in ((3.9, "within"), (4.1, "over"), (1e9, "over"), (1e-9, "within")):
        bar = next(one for one in parsed(ratio_bar(value, 4)).all("rect") if one.attributes["class"] != "track")
        assert bar.attributes["class"] == kind
        assert (float(bar.attributes["width"]) > 50) == (kind == "over")
        assert 0 <= float(bar.attributes["width"]) <= 100
    assert [one.attributes["class"] for one in parsed(ratio_bar(0, 4)).all("rect")] == ["track"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.9638, "0.964"), (1.9999, "2.00"), (9.999, "10.0"), (12.34, "12.3"), (1234.5, "1,234"), (123456, "1.2 × 10⁵"),
     (1.74e-7, "1.7 × 10⁻⁷"),
     (float("inf"), "∞"), (float("nan"), "–")],
)  # fmt: skip
def test_figures_read_as_people_write_them(value, text):
    assert figure_text(value) == text


def test_scales_keep_values_inside_and_have_ticks():
    for scale in (linear_scale(23, 0, 100), log_scale([1e-7, 3e-6, 0.0], 0, 100), close_log_scale([1000, 1200], 0, 100)):
        assert 2 <= len(scale.ticks) <= 7
        assert all(0 <= scale(value) <= 100 for value in (*scale.ticks, 0.0, 1e99))
        assert list(map(scale, scale.ticks)) == sorted(map(scale, scale.ticks))
    assert log_scale([1e-5, 1e-3], 0, 100)(1e-4) == pytest.approx(50)
