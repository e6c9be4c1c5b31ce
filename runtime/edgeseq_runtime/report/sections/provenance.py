"""What was measured, made with what: enough to do it again."""

from __future__ import annotations

from edgeseq_runtime.interface import size_text
from edgeseq_runtime.report.markup import Child, Html, element, joined
from edgeseq_runtime.report.measured import Report
from edgeseq_runtime.report.tables import facts, table


def section(report: Report) -> Html:
    """Versions, hashes, members, reference cases, notes."""
    manifest = report.bundle.manifest
    identity: list[tuple[str, Child]] = [
        ("file", report.bundle.path.name),
        ("bundle sha256", element("code", report.bundle.sha256)),
        ("format", manifest.format),
        *([("ONNX", _onnx(report))] if report.model else []),
        ("measured", report.made),
    ]
    exported = list(manifest.provenance.items())
    parts: list[Child] = [
        facts(identity),
        element("h3", "Measured with"),
        facts(list(report.parity.versions.items())),
        element("h3", "Exported with"),
        facts(exported) if exported else element("p", "The bundle does not say."),
        element("h3", "Contents"),
        _members(report),
        _cases(report),
    ]
    for title, texts in (("Notes of the export", manifest.notes), ("Hazards found at export", manifest.hazards)):
        if texts:
            parts += [element("h3", title), element("ul", [element("li", text) for text in texts])]
    return joined(parts)


def _onnx(report: Report) -> str:
    if report.model is None:
        return ""
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in report.model.opsets.items())
    return f"opset {opsets}; IR {report.model.ir_version}; producer {report.model.producer or 'not named'}"


def _members(report: Report) -> Html:
    hashes = report.bundle.manifest.sha256
    rows = [(name, f"{size:,}", element("code", hashes.get(name, "")[:16])) for name, size in report.bundle.member_sizes.items()]
    return table("Members of the bundle", ("member", "bytes", "sha256, first 16 digits"), rows, figures=("bytes",))


def _cases(report: Report) -> Html:
    rows = [(size_text(case.sizes), case.draws, size_text(case.horizon) or "all") for case in report.bundle.manifest.reference]
    return table("Reference values of PyTorch", ("sizes", "draws", "steps that can be compared"), rows, figures=("draws",))
