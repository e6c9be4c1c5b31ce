"""The commands of the runtime by name, none of them imported until it is chosen."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.main import get_command

# Each is `NAME_command` in the module of its name here; what the list of commands says of it is how its own help begins.
COMMANDS = {
    "inspect": "Show what a bundle holds: tensors, state, recurrent nodes, precisions, reference values.",
    "devices": "List the devices that are known, show one, or say what this machine is.",
    "plan": "Show how a bundle would be run on a device.",
    "compile": (
        "Make ready what a device runs: the fastest plan for a CPU, measured here, an engine of TensorRT, or edgeseq's own kernels."
    ),
    "run": "Run a model on arrays, on a sound, or on text.",
    "parity": "Compare every output with the bundle's PyTorch reference; exit 1 if one is too far off.",
    "records": "Check records of parity and show them together; exit 1 if one failed or was changed, 2 if one can't be read.",
    "bench": "Time a step and a whole sequence, in microseconds a call.",
    "report": "Write a page on a bundle: its graph, parity, errors, latency, plans.",
    "selftest": "Check this machine, open a session, prove a bundle and time it; write a JSON file and a page.",
}


def load_command(name: str) -> Any:
    """A command, imported."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name)(getattr(import_module(f"edgeseq_runtime.cli.{name}"), f"{name}_command"))
    return get_command(alone)
