"""Commands that live in other packages and need more than the runtime does.

An entry point of the group `edgeseq.commands` names a `main(argv: list[str]) -> int | None`. It is loaded when its command is
used and not before: importing PyTorch takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer

from edgeseq_runtime.cli.options import DEBUG
from edgeseq_runtime.errors import UsageError

GROUP = "edgeseq.commands"
# Commands of this project that an extra brings. They are always listed, and say which one where it is missing.
EXTRAS = {
    "export": ("export", "Export a PyTorch module to a bundle."),
    "quantize": ("quantize", "Write smaller, faster variants of a bundle's model into it, each held to a gate."),
    "train": ("train", "Train a recipe of the lecture, measure its claim and export it."),
}


def add_plugin_commands(app: typer.Typer) -> None:
    """Add every such command to the program, none of them loaded."""
    installed = {point.name for point in entry_points(group=GROUP)}
    for name in sorted({*EXTRAS, *installed}):
        _, summary = EXTRAS.get(name, ("", f"From another package: see edgeseq {name} --help."))
        app.command(
            name,
            help=summary,
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
        )(_command(name))


def _command(name: str) -> Callable[[typer.Context], None]:
    def command(ctx: typer.Context) -> None:
        arguments = [argument for argument in ctx.args if argument != "--debug"]
        if len(arguments) < len(ctx.args):
            ctx.find_root().meta[DEBUG] = True
        code = load_plugin(name)(arguments)
        if code:
            raise typer.Exit(int(code))

    return command


def load_plugin(name: str) -> Callable[[list[str]], Any]:
    """A command's main.

    Raises:
        UsageError: its package, or something that it needs, is not installed.
    """
    points = list(entry_points(group=GROUP, name=name))
    extra, _ = EXTRAS.get(name, ("", ""))
    install = f'install it: pip install "edgeseq[{extra}]"' if extra else "reinstall the package that brings it"
    if not points:
        raise UsageError(f"'edgeseq {name}' is not part of this installation; {install}")
    try:
        main: Callable[[list[str]], Any] = points[0].load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"'edgeseq {name}' can't be loaded ({error}); {install}") from error
    return main
