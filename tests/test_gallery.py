"""The gallery: what the page says of recipes that reached their figures, missed them, or failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from recipe_results import PNG, leave

from edgeseq_recipes.gallery.outcome import last_outcome, outcome_of
from edgeseq_recipes.gallery.page import write_page
from edgeseq_recipes.gallery.runs import longest_first, remember_durations
from edgeseq_recipes.gallery.screen import show_outcomes


@pytest.fixture
def out(tmp_path):
    return tmp_path / "docs"


def written(out, *outcomes):
    return write_page(outcomes, out).read_text(encoding="utf-8")


def test_a_page_shows_what_was_reached(tmp_path, out):
    leave(tmp_path / "clipping", "clipping")
    leave(tmp_path / "adding-problem", "adding-problem", figure="curve.png")
    outcomes = [outcome_of(name, tmp_path / name, 0) for name in ("adding-problem", "clipping")]
    assert all(outcome.passed for outcome in outcomes)
    text = written(out, *outcomes)
    assert "| 12 | [Gradient clipping, by norm and by value](#clipping) |" in text
    assert "| a\\|b | ≥ 0.4 | 0.5 | ✓ |" in text
    assert "| for information |  | nan |  |" in text
    assert "| `g.edgeseq` | 1 LSTM | 9 | 1.25 | inf | ✓ |" in text
    assert "`net`, 4,609 parameters, 1,500 steps (target)" in text
    assert "![T](gallery/clipping.png)" in text
    assert "![T](gallery/adding-problem-curve.png)" in text
    assert "edgeseq train clipping --export" in text
    assert "missed" not in text.split("\n## ", 1)[1]
    assert (out / "gallery" / "adding-problem-curve.png").read_bytes() == PNG + b"adding-problem"
    assert written(out, *outcomes) == text


@pytest.mark.parametrize("what", [{"ok": False}, {"passed": False}])
def test_a_missed_figure_and_an_unequal_graph_are_shown(what, tmp_path, out):
    leave(tmp_path / "clipping", "clipping", **what)
    outcome = outcome_of("clipping", tmp_path / "clipping", 1)
    assert not outcome.passed
    head, section = written(out, outcome).split("\n## ", 1)
    assert "✗ **missed**" in head.split("|---", 1)[1]
    assert "✗ **missed**" in section


@pytest.mark.parametrize("code", [1, 2, -9])
def test_a_failed_recipe_is_shown_without_its_old_figures(code, tmp_path, out):
    leave(tmp_path / "clipping", "clipping")
    written(out, outcome_of("clipping", tmp_path / "clipping", 0))
    assert (out / "gallery" / "clipping.png").exists()
    # As a run does that fails: it begins by removing what was there.
    (tmp_path / "clipping" / "metrics.json").unlink()
    (tmp_path / "clipping" / "log.txt").write_text("Traceback\nValueError: no data\n\n")
    outcome = outcome_of("clipping", tmp_path / "clipping", code)
    assert not outcome.passed
    text = written(out, outcome)
    assert "|  |  |  | ✗ **failed**: ValueError: no data |" in text
    assert "**This recipe failed:** `ValueError: no data`" in text
    assert "png" not in text
    assert not list((out / "gallery").iterdir())


def test_a_process_that_dies_after_measuring_has_failed(tmp_path):
    leave(tmp_path / "clipping", "clipping")
    assert outcome_of("clipping", tmp_path / "clipping", -11).metrics is None


def test_a_recipe_that_was_not_run_is_no_success(tmp_path, out):
    outcome = last_outcome("clipping", tmp_path)
    assert not outcome.passed
    text = written(out, outcome)
    assert "| not run |" in text
    assert "failed" not in text


def test_the_verdicts_fit_a_narrow_terminal(tmp_path, capsys):
    """Whatever is missed, and however long its name."""
    leave(tmp_path / "clipping", "clipping", ok=False, what="a figure with a name longer than any terminal is wide " * 4)
    leave(tmp_path / "copy", "copy")
    show_outcomes([outcome_of("clipping", tmp_path / "clipping", 1, 12.3), outcome_of("copy", tmp_path / "copy", 0, 4.5)])
    head, _, first, second, *reasons = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["recipe", "seconds"]
    assert first.split()[:3] == ["✗", "clipping", "12"]
    assert second.split()[:3] == ["✓", "copy", "4"]
    assert reasons[0].startswith("✗ clipping: a figure with a name")


def test_the_longest_begin_first(tmp_path):
    names = ("a", "b", "c", "d")
    assert longest_first(names, tmp_path) == list(names)
    outcomes = {name: outcome_of(name, tmp_path, 1, seconds) for name, seconds in (("a", 1.0), ("b", 9.0), ("d", 4.0))}
    remember_durations(outcomes, tmp_path)
    assert longest_first(names, tmp_path) == ["c", "b", "d", "a"]
    (tmp_path / "durations.json").write_text("{")
    assert longest_first(names, tmp_path) == list(names)


PROGRAM = """
import json, sys
name, folder = sys.argv[2], sys.argv[sys.argv.index("--out") + 1]
import pathlib
sys.path.insert(0, {tests!r})
from recipe_results import leave
print(*sys.argv[1:])
if name == "clipping" and {fault!r} == "crash":
    raise ValueError("no data")
leave(pathlib.Path(folder), name, ok=not (name == "clipping" and {fault!r} == "miss"))
"""


@pytest.mark.parametrize(("fault", "code"), [("", 0), ("miss", 1), ("crash", 1)])
def test_the_command_runs_every_recipe_and_fails_where_one_does(fault, code, tmp_path, monkeypatch, capsys):
    """Real processes, of a program that leaves what recipes leave; the real one is run by `make gallery`."""
    from edgeseq_recipes.gallery import __main__ as gallery
    from edgeseq_recipes.gallery import runs

    (tmp_path / "program.py").write_text(PROGRAM.format(tests=str(Path(__file__).parent), fault=fault))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "PROGRAM", (sys.executable, str(tmp_path / "program.py")))
    monkeypatch.setattr(gallery, "NAMES", ("adding-problem", "clipping"))
    monkeypatch.setattr(sys, "argv", ["gallery"])
    with pytest.raises(SystemExit) as ended:
        gallery.main()
    assert ended.value.code == code
    log = (tmp_path / "build" / "gallery" / "adding-problem" / "log.txt").read_text()
    assert log == "train adding-problem --export --out build/gallery/adding-problem\n"
    text = (tmp_path / "docs" / "gallery.md").read_text()
    assert text.count("✗") == {"": 0, "miss": 2, "crash": 1}[fault]
    pictures = {path.name for path in (tmp_path / "docs" / "gallery").iterdir()}
    assert pictures == {"adding-problem.png"} | ({"clipping.png"} if fault != "crash" else set())
    assert ("✗" in capsys.readouterr().out) is bool(fault)
    monkeypatch.setattr(sys, "argv", ["gallery", "--only", "adding-problem"])
    with pytest.raises(SystemExit) as ended:
        gallery.main()
    assert ended.value.code == 0  # it alone was run, and passed
    assert (tmp_path / "docs" / "gallery.md").read_text() == text


def test_an_unknown_recipe_is_bad_usage(monkeypatch, capsys, tmp_path):
    from edgeseq_recipes.gallery.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gallery", "--only", "nothing"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "there are no recipes nothing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
