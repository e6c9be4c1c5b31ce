"""Where and when a bundle that fails parity goes wrong, below the verdict of `edgeseq parity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from edgeseq_runtime.bisect import Divergence, find_divergence
from edgeseq_runtime.console import ERR, OUT, pairs, working
from edgeseq_runtime.errors import EdgeseqError, UsageError
from edgeseq_runtime.suite import Job

CAUSES = {
    "graph": "the graph differs from the one it was made from, here first",
    "device": "the same graph gives other values on this device than on the CPU, here first",
    "optimisation": "the graph gives other values once ONNX Runtime has optimised it, here first",
    "model": "the graph itself computes something else than PyTorch did, optimised or not",
}

AgainstOption = Annotated[
    Path | None,
    typer.Option("--against", metavar="FILE", help="What the model was made from, .edgeseq or .onnx: names the node that fails."),
]
ReproductionOption = Annotated[
    Path | None, typer.Option("--reproduction", metavar="FOLDER", help="Where it fails, write that node and its inputs here.")
]


class Search(NamedTuple):
    """What was asked for beside the verdict."""

    against: Path | None = None
    reproduction: Path | None = None

    def require_one_bundle(self) -> None:
        """Refuse the two options where several bundles are measured.

        Raises:
            UsageError: one of them was given.
        """
        if self.against is not None or self.reproduction is not None:
            raise UsageError("--against and --reproduction are of one bundle on one device; measure them one by one")

    def require_readable(self) -> None:
        """Refuse a file that is not there and a folder that is not empty before anything is measured.

        Raises:
            UsageError: either of them.
        """
        if self.against is not None and not self.against.is_file():
            raise UsageError(f"can't read {self.against}, which --against names: no such file")
        folder = self.reproduction
        if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"can't write a reproduction to {folder}: it is not an empty folder; name a new one")


def find_where(job: Job, search: Search) -> Divergence | None:
    """Where a bundle that has failed goes wrong; None where that can't be said.

    Raises:
        EdgeseqError: what was asked for with `--against` or `--reproduction` can't be done.
    """
    try:
        with working("looking for the first node that goes wrong"):
            return find_divergence(
                job.path,
                against=search.against,
                device=job.device,
                precision=job.precision,
                threads=job.threads,
                reproduction=search.reproduction,
                rounding=True,
            )
    except EdgeseqError as error:
        if search.against is not None or search.reproduction is not None:
            raise
        ERR.print(f"where it goes wrong can't be said: {error}", soft_wrap=True)
        return None


def print_where(found: Divergence | None, search: Search) -> None:
    """The finding, and where the reproduction is."""
    OUT.print()
    if found is None:
        OUT.print("where: no single value leaves its reference by more than rounding explains")
    else:
        OUT.print(f"where: {CAUSES[found.cause]}")
        OUT.print(pairs([(f"  {heading}", text) for heading, text in found.lines()]))
    if search.reproduction is not None:
        known = found is not None and found.cause != "model"
        said = f"written to {search.reproduction}" if known else "no reproduction was written: the node is not known"
        ERR.print(said, soft_wrap=True)
