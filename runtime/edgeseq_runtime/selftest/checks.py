"""What a self-test says of a machine: one thing each, what was found, and what to do about it."""

from __future__ import annotations

import msgspec

GOOD, NOTE, MISSING = "good", "note", "missing"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    `verdict` is "good"; "note" where it is worth knowing and nothing that the device needs; "missing" where the device needs it.
    """

    name: str
    verdict: str
    found: str
    do: tuple[str, ...] = ()  # commands, in order; empty where there is nothing to do


def good(name: str, found: str) -> Check:
    """Nothing to do."""
    return Check(name=name, verdict=GOOD, found=found)


def note(name: str, found: str, *do: str) -> Check:
    """Worth knowing."""
    return Check(name=name, verdict=NOTE, found=found, do=do)


def missing(name: str, found: str, *do: str) -> Check:
    """The device needs it."""
    return Check(name=name, verdict=MISSING, found=found, do=do)
