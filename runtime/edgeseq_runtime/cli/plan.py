"""`edgeseq plan`: what would be run, and how, without running it."""

from __future__ import annotations

import json

import msgspec

from edgeseq_runtime.bundle import open_bundle
from edgeseq_runtime.cli.options import (
    BundleArgument,
    DebugOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    ThreadsOption,
)
from edgeseq_runtime.console import OUT, pairs
from edgeseq_runtime.plan import make_plan


def plan_command(
    bundle: BundleArgument,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show how a bundle would be run on a device. Needs neither the device nor its libraries."""
    plan = make_plan(open_bundle(bundle), device, precision=precision, threads=threads)
    if as_json:
        print(json.dumps(msgspec.to_builtins(plan), indent=1))
        return
    options = [f"{provider}: {key}={value}" for provider, given in plan.provider_options.items() for key, value in given.items()]
    OUT.print(
        pairs(
            [
                ("device", plan.device),
                ("backend", plan.backend),
                ("precision", plan.precision),
                ("providers", ", ".join(plan.providers)),
                *(("option", option) for option in options),
                ("threads", plan.threads),
                *(("hazard", hazard) for hazard in plan.hazards),
            ]
        )
    )
