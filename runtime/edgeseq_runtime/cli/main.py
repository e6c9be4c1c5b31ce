"""The program `edgeseq`: its commands, and what becomes of errors.

Exit codes: 0 good; 1 the check failed; 2 bad usage or bad input.
"""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgeseq_runtime.cli.commands import COMMANDS, load_command
from edgeseq_runtime.cli.options import DEBUG, DebugOption
from edgeseq_runtime.cli.plugins import add_plugin_commands
from edgeseq_runtime.errors import EdgeseqError

BAD_USAGE = 2


class Program(TyperGroup):
    """A group of commands that turns the errors edgeseq raises on purpose into a message and an exit code.

    A command is imported when it is chosen: what they need together takes a board seconds.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that was chosen, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except EdgeseqError as error:
            if ctx.find_root().meta.get(DEBUG):
                traceback.print_exc()
            from edgeseq_runtime.console import ERR  # rich, which help does without

            ERR.print(f"error: {error}", soft_wrap=True)
            raise typer.Exit(BAD_USAGE) from None


app = typer.Typer(cls=Program, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        from importlib.metadata import version

        print(f"edgeseq {version('edgeseq')}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")]


@app.callback()
def program(shown: VersionOption = False, debug: DebugOption = False) -> None:
    """Recurrent networks from PyTorch onto edge devices, and proof that they compute the same there."""


for name, summary in COMMANDS.items():
    app.command(name, help=summary)(lambda: None)  # stands in the list until it is chosen
add_plugin_commands(app)


def main() -> None:
    """Entry point of the program."""
    app(prog_name="edgeseq")


if __name__ == "__main__":
    main()
