"""What would run on each device of this release, side by side. Planned, not run: needs no hardware."""

from __future__ import annotations

from collections.abc import Iterator

from edgeseq_runtime.plan import Plan
from edgeseq_runtime.report.markup import Child, Html, element, joined
from edgeseq_runtime.report.measured import DevicePlan, Report
from edgeseq_runtime.report.tables import details, facts

FOLDED = {"Jetson": "Jetson modules", "GPU": "GPUs"}  # groups of devices that are too many to show at once


def section(report: Report) -> Html:
    """A card for each device; those of one family are folded together, unless it was measured on one of them."""
    text = "Decided from the bundle and the device's profile alone: nothing was run for this part."
    groups: dict[str, list[DevicePlan]] = {}
    for one in report.plans:
        groups.setdefault(FOLDED.get(one.device.group, ""), []).append(one)
    shown = _cards(groups.pop("", []), report)
    folded = [
        details(f"{len(ones)} {name}", _cards(ones, report), unfolded=any(one.device.name == report.parity.device for one in ones))
        for name, ones in groups.items()
    ]
    return joined([element("p", text), shown, *folded])


def _cards(plans: list[DevicePlan], report: Report) -> Html:
    return element("div", [_card(one, report) for one in plans], class_="cards")


def _card(one: DevicePlan, report: Report) -> Html:
    measured = one.device.name == report.parity.device
    return element(
        "article",
        element("h3", one.device.name, element("span", "measured here", class_="badge") if measured else None),
        element("p", one.device.title),
        facts(_facts(one.plan)) if one.plan else element("p", f"Can't run there: {one.problem}", class_="fail"),
        class_="measured" if measured else None,
    )


def _facts(plan: Plan) -> Iterator[tuple[str, Child]]:
    yield "backend", plan.backend
    yield "precision", plan.precision
    if plan.providers:
        yield "providers", ", then ".join(plan.providers)
    yield "threads", plan.threads
    options = [f"{provider}: {key}={value}" for provider, given in plan.provider_options.items() for key, value in given.items()]
    options += [f"{key}={value}" for key, value in plan.session_options.items()]
    if options:
        yield "options", element("ul", [element("li", option) for option in options])
    yield "hazards", element("ul", [element("li", hazard) for hazard in plan.hazards]) if plan.hazards else "none known"
