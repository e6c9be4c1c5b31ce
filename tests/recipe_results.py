"""What a recipe's run leaves, without a run."""

from __future__ import annotations

import json

PNG = b"\x89PNG\r\n\x1a\nof "


def leave(folder, name, *, ok=True, passed=True, figure=None, what="a|b"):
    """What a run leaves in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = figure or f"{name}.png"
    measure = {"what": what, "reached": 0.5, "wanted": {"low": 0.4, "high": "inf", "text": "≥ 0.4"}, "ok": ok}
    graph = {"file": "g.edgeseq", "nodes": 9, "census": {"LSTM": 1}, "k": 1.25, "k999": "inf", "passed": passed}
    fit = {"name": "net", "parameters": 4609, "steps": 1500, "last_loss": 0.1, "best": 0.1, "stopped": "target"}
    found = {
        "name": name,
        "title": "T",
        "exported_as": "a graph",
        "measures": [measure, {"what": "for information", "reached": "nan", "wanted": None, "ok": None}],
        "caption": "What is seen.",
        "figures": [figure],
        "fits": [fit],
        "graphs": [graph],
    }
    (folder / "metrics.json").write_text(json.dumps(found))
    (folder / figure).write_bytes(PNG + name.encode())
