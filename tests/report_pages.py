"""What the tests of the report share: pages of every kind, and what holds of each of them."""

import re
from dataclasses import replace
from itertools import pairwise

import onnx
import runtime_models
from runtime_models import faulty
from test_parity import not_a_number, swapped_gates

from edgeseq_runtime import TensorSpec
from edgeseq_runtime.report import measure_report

HOSTILE = "</title></svg></style><script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;\u202e\x00"
SEEN = HOSTILE.replace("\u202e", "\ufffd").replace("\x00", "\ufffd")


def reported(model, folder, seconds=None, **options):
    return measure_report(model.write(folder / "m.edgeseq", **options), seconds=seconds)


def rows_of(table):
    """The rows of a table as texts by column."""
    columns = [cell.text for cell in table.one("thead").all("th")]
    return [dict(zip(columns, (cell for cell in row.children), strict=True)) for row in table.one("tbody").all("tr")]


def chart(page, section, title):
    return next(one for one in page.one("section", id=section).all("figure") if one.one("strong").text == title)


def identity(spec_dtype="float32"):
    """A model without any rounding; of integers, if asked."""
    spec_in, spec_out = (TensorSpec(name, spec_dtype, ("T", "B", 3)) for name in ("x", "y"))
    proto = runtime_models.model_bytes([onnx.helper.make_node("Identity", ["x"], ["y"])], {}, [spec_in], [spec_out])

    def equations(inputs, dtype):
        return {"y": inputs["x"].astype(dtype) if spec_dtype == "float32" else inputs["x"]}

    return runtime_models.Model("identity", proto, equations, (spec_in,), (spec_out,))


def hostile_model():
    """A model every name of which tries to become markup."""
    base = runtime_models.gru()
    proto = onnx.load_from_string(base.onnx)
    proto.producer_name = HOSTILE
    for number, node in enumerate(proto.graph.node):
        node.name = f"{HOSTILE}{number}"
        node.output[:] = [HOSTILE if name == "y" else name for name in node.output]
        node.input[:] = ["<b>x</b>" if name == "x" else name for name in node.input]
    proto.graph.output[0].name = HOSTILE
    proto.graph.input[0].name = "<b>x</b>"
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "<i>T</i>"
    inputs = (TensorSpec("<b>x</b>", "float32", ("<i>T</i>", "B", 3)), *base.inputs[1:])
    outputs = (TensorSpec(HOSTILE, "float32", ("<i>T</i>", "B", 8)), *base.outputs[1:])

    def equations(arrays, dtype):
        found = base.equations({"x" if name == "<b>x</b>" else name: array for name, array in arrays.items()}, dtype)
        return {HOSTILE if name == "y" else name: array for name, array in found.items()}

    return replace(base, name=HOSTILE, onnx=proto.SerializeToString(), equations=equations, inputs=inputs, outputs=outputs)


SPECIAL = {
    "failing": (faulty(runtime_models.lstm(), swapped_gates),),
    "not a number": (faulty(runtime_models.lstm(), not_a_number),),
    "skipped": (runtime_models.gru(),),
    "no error": (identity(),),
    "discrete": (identity("int32"),),
}


def sound(page):
    html = page.one("html")
    assert html.attributes["lang"] == "en"
    assert page.one("meta", name="viewport").attributes["content"].startswith("width=device-width")
    assert [one.name for one in page.one("body").all() if one.name in ("header", "nav", "main", "footer")] == [
        "header", "nav", "main", "footer",
    ]  # fmt: skip
    ids = [one.attributes["id"] for one in page.all() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in page.all():
        if "aria-labelledby" in one.attributes:
            assert one.attributes["aria-labelledby"] in ids
        if "href" in one.attributes:
            assert one.attributes["href"][1:] in ids
    first = next(iter(page.one("body").all("a")))
    assert first.attributes == {"class": "skip", "href": "#content"}
    levels = [int(one.name[1]) for one in page.all() if re.fullmatch("h[1-6]", one.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for table in page.all("table"):
        assert table.one("caption").text
        assert all(cell.attributes["scope"] == "col" for cell in table.one("thead").all("th"))
        assert all(next(iter(row.all("th"))).attributes["scope"] == "row" for row in table.one("tbody").all("tr"))
    for region in page.all("div"):
        if region.attributes.get("class", "").startswith("scroll"):
            assert region.attributes["tabindex"] == "0"
            assert region.attributes["role"] == "region"
            assert region.attributes["aria-label"]
    for svg in page.all("svg"):
        assert (svg.attributes.get("role"), bool(svg.attributes.get("aria-label"))) == ("img", True) or (
            svg.attributes.get("aria-hidden") == "true"
        )
        numbers = " ".join(value for one in svg.all() for key, value in one.attributes.items() if key != "class")
        assert not re.search("nan|inf", numbers)
    for folded in page.all("details"):
        assert folded.children[0].name == "summary"
