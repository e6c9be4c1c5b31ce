"""The program `edgeseq`: its commands, and what becomes of errors.

Exit codes: 0 good; 1 the check failed; 2 bad usage or bad input.
"""

from __future__ import annotations

import traceback
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgeseq_runtime.cli.bench import bench_command
from edgeseq_runtime.cli.compile import compile_command
from edgeseq_runtime.cli.devices import devices_command
from edgeseq_runtime.cli.inspect import inspect_command
from edgeseq_runtime.cli.options import DEBUG, DebugOption
from edgeseq_runtime.cli.parity import parity_command
from edgeseq_runtime.cli.plan import plan_command
from edgeseq_runtime.cli.plugins import add_plugin_commands
from edgeseq_runtime.cli.records import records_command
from edgeseq_runtime.cli.report import report_command
from edgeseq_runtime.cli.run import run_command
from edgeseq_runtime.cli.selftest import selftest_command
from edgeseq_runtime.console import ERR
from edgeseq_runtime.errors import EdgeseqError

BAD_USAGE = 2


class Program(TyperGroup):
    """A group of commands that turns the errors edgeseq raises on purpose into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except EdgeseqError as error:
            if ctx.find_root().meta.get(DEBUG):
                traceback.print_exc()
            ERR.print(f"error: {error}", soft_wrap=True)
            raise typer.Exit(BAD_USAGE) from None


app = typer.Typer(cls=Program, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"edgeseq {version('edgeseq')}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")]


@app.callback()
def program(shown: VersionOption = False, debug: DebugOption = False) -> None:
    """Recurrent networks from PyTorch onto edge devices, and proof that they compute the same there."""


for name, command in (
    ("inspect", inspect_command),
    ("devices", devices_command),
    ("plan", plan_command),
    ("compile", compile_command),
    ("run", run_command),
    ("parity", parity_command),
    ("records", records_command),
    ("bench", bench_command),
    ("report", report_command),
    ("selftest", selftest_command),
):
    app.command(name)(command)
add_plugin_commands(app)


def main() -> None:
    """Entry point of the program."""
    app(prog_name="edgeseq")


if __name__ == "__main__":
    main()
