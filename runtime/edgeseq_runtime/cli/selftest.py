"""`edgeseq selftest`: does this board have what it needs, and does it compute what PyTorch computes?"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.cli.options import DebugOption, DeviceOption, JsonOption, PrecisionOption, ThreadsOption
from edgeseq_runtime.console import ERR, OUT, pairs, table
from edgeseq_runtime.files import write_file

BundleArgument = Annotated[
    Path | None, typer.Argument(metavar="[BUNDLE]", help="A .edgeseq bundle; a small one of edgeseq's own if left out.")
]
FolderOption = Annotated[
    Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where selftest.json and selftest.html are written.")
]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.001, help="For the time of a step and of a sequence, each.")]
RootOption = Annotated[Path, typer.Option("--root", hidden=True, help="The folder that stands for the machine's root.")]


def selftest_command(
    bundle: BundleArgument = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    output: FolderOption = Path("selftest"),
    seconds: SecondsOption = 0.3,
    root: RootOption = Path("/"),
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check this machine, open a session, prove a bundle and time it; write a JSON file and a page. Exit 1 if anything fails."""
    # The page's code is for this command alone: others start without it.
    from edgeseq_runtime.selftest import builtin_bundle, run_selftest, selftest_page

    with builtin_bundle() if bundle is None else nullcontext(bundle) as path:
        test = run_selftest(
            path,
            device=device,
            precision=precision,
            threads=threads,
            seconds=seconds,
            root=root,
            tell=lambda step: ERR.print(f"{step} ...") if ERR.is_terminal else None,
        )
        page = selftest_page(test, open_bundle(path))
    files = (output / "selftest.json", output / "selftest.html")
    write_file(files[0], (json.dumps(test.to_json(), indent=1) + "\n").encode())
    write_file(files[1], page.encode())
    if as_json:
        print(json.dumps(test.to_json(), indent=1))
    else:
        OUT.print(
            pairs([("bundle", f"{test.bundle} ({test.sha256[:16]})"), ("device", f"{test.plan.device}, {test.plan.precision}")])
        )
        OUT.print()
        OUT.print(table(("environment", "verdict", "found"), [(one.name, one.verdict, one.found) for one in test.checks]))
        OUT.print()
        OUT.print(table(("step", "verdict", "result"), [(one.name, one.verdict, one.text) for one in test.steps]))
        for check in test.to_do:
            OUT.print(f"\n{check.verdict}: {check.name}")
            for command in check.do:
                OUT.print(f"  {command}", soft_wrap=True)
        OUT.print()
        OUT.print(f"{'PASS' if test.passed else 'FAIL'}: {files[0]}, {files[1]}", soft_wrap=True)
    if not test.passed:
        raise typer.Exit(1)
