"""`edgeseq devices`: the profiles of this release."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeseq_runtime.cli.options import DebugOption
from edgeseq_runtime.console import OUT, pairs, table
from edgeseq_runtime.device import list_devices, load_device

NameArgument = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One device, with its hazards and their sources.")]


def devices_command(name: NameArgument = None, debug: DebugOption = False) -> None:
    """List the devices that are known, or show one."""
    if name is None:
        rows = [(device.name, device.kind, device.backend, device.title) for device in list_devices()]
        OUT.print(table(("device", "kind", "backend", "is"), rows))
        return
    device = load_device(name)
    OUT.print(
        pairs(
            [
                ("device", f"{device.name}: {device.title}"),
                ("backend", f"{device.backend}: {', '.join(device.providers)}"),
                *((f"{hazard.rule}", f"{hazard.text} ({hazard.source})") for hazard in device.hazards),
            ]
        )
    )
