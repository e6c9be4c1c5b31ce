"""The page of a self-test: verdict, what to do, environment, steps, parity and times, in one file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator

from edgeseq_runtime.bundle import Bundle
from edgeseq_runtime.interface import interface_of
from edgeseq_runtime.report.document import document, navigation, part
from edgeseq_runtime.report.markup import Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.sections import latency, parity
from edgeseq_runtime.report.sections.parity import SYMBOLS
from edgeseq_runtime.report.tables import facts, table
from edgeseq_runtime.selftest.checks import GOOD, MISSING, NOTE, Check
from edgeseq_runtime.selftest.run import SKIP, SelfTest

CLASSES = {GOOD: "pass", NOTE: "skip", MISSING: "fail"}  # of the page's style
PARTS = (("to-do", "To do"), ("environment", "Environment"), ("steps", "Steps"), ("parity", "Parity"), ("latency", "Latency"))


def selftest_page(test: SelfTest, bundle: Bundle) -> Html:
    """The page as one string; `bundle` is what was tested with."""
    word = "PASS" if test.passed else "FAIL"
    report = _report(test, bundle)
    contents = (
        _to_do(test),
        _environment(test),
        _steps(test),
        parity.section(report) if test.parity else element("p", "Nothing was compared."),
        latency.section(report) if test.bench else element("p", "Nothing was timed."),
    )
    header = [
        element("h1", element("span", "edgeseq selftest", class_="kicker"), " ", element("bdi", _where(test))),
        navigation(list(PARTS)),
    ]
    parts = [part(anchor, title, content) for (anchor, title), content in zip(PARTS, contents, strict=True)]
    made = f"Made by edgeseq {test.version} on {test.time}."
    return document(f"{word}: {_where(test)} - edgeseq selftest", header, [_headline(test, word), parts], made)


def _where(test: SelfTest) -> str:
    jetson = test.machine.jetson
    return (jetson.model if jetson else None) or test.machine.processor.name or test.machine.architecture


def _report(test: SelfTest, bundle: Bundle) -> Report:
    """As much of a report as the sections on parity and latency show."""
    return Report(
        bundle=bundle,
        interface=interface_of(bundle.manifest),
        parity=test.parity,  # type: ignore[arg-type]  # the section is left out where it is None
        errors=(),
        bench=test.bench,
        times=test.times,
        plans=(),
        model=None,
        model_problem="",
        made=test.time,
    )


def sentence(test: SelfTest) -> str:
    """What came out, for someone who has one minute."""
    lacking = [check for check in test.checks if check.verdict == MISSING]
    failed = [step.name for step in test.steps if step.verdict != "pass"]
    if test.passed:
        return f"This machine has what {test.plan.device} needs, and {test.bundle} computes on it what PyTorch computes."
    parts = []
    if lacking:
        things, are = ("thing", "is") if len(lacking) == 1 else ("things", "are")
        parts.append(f"{len(lacking)} {things} that {test.plan.device} needs {are} missing")
    if failed:
        parts.append(f"{', '.join(failed)} did not pass")
    return f"{'; '.join(parts)}."


def _headline(test: SelfTest, word: str) -> Html:
    return element(
        "section",
        element("h2", element("span", "✓" if test.passed else "✗", aria_hidden="true"), f" {word}", id_="verdict-title"),
        element("p", sentence(test), class_="sentence"),
        facts(_figures(test)),
        class_=f"headline {word.lower()}",
        id_="verdict",
        aria_labelledby="verdict-title",
    )


def _figures(test: SelfTest) -> Iterator[tuple[str, str]]:
    yield "bundle", f"{test.bundle} ({test.sha256[:16]})"
    counts = [(verdict, sum(check.verdict == verdict for check in test.checks)) for verdict in CLASSES]
    yield "environment", ", ".join(f"{count} {verdict}" for verdict, count in counts)
    for row in test.bench.rows if test.bench else ():
        yield f"median time of {'a step' if row.mode == 'step' else f'{row.T} steps'}", f"{row.median:.3g} µs"
    threads = f"{test.plan.threads} thread{'s' * (test.plan.threads != 1)}"
    yield "device", ", ".join([test.plan.device, test.plan.precision, threads, test.plan.backend])


def _to_do(test: SelfTest) -> Html:
    if not test.to_do:
        return element("p", "Nothing.")
    return joined([_task(check) for check in test.to_do])


def _task(check: Check) -> Html:
    commands = [element("li", element("code", command)) for command in check.do]
    return joined([element("h3", _verdict(check.verdict), f" {check.name}"), element("p", check.found), element("ul", commands)])


def _verdict(verdict: str) -> Html:
    kind = CLASSES.get(verdict, verdict)
    return element("span", element("span", SYMBOLS[kind], aria_hidden="true"), f" {verdict}", class_=f"verdict {kind}")


def _environment(test: SelfTest) -> Html:
    rows = [(check.name, _verdict(check.verdict), check.found) for check in test.checks]
    return table("What this machine has", ("what", "verdict", "found"), rows, prose=("found",))


def _steps(test: SelfTest) -> Html:
    rows = [
        (step.name, _verdict(step.verdict), "" if step.verdict == SKIP else f"{step.seconds:.2f}", step.text) for step in test.steps
    ]
    return table("What was done", ("step", "verdict", "seconds", "result"), rows, figures=("seconds",), prose=("result",))
