"""Small files of a machine, read below a folder that stands for its root: a tree of one's own serves as well as `/`."""

from __future__ import annotations

import re
from pathlib import Path

MOST_BYTES = 1 << 24  # of a file; dpkg's list of packages is the largest that is read


def file_text(root: Path, path: str) -> str | None:
    """What a file holds, without the NUL bytes that device trees end texts with; None where it can't be read."""
    try:
        with (root / path.lstrip("/")).open("rb") as file:
            data = file.read(MOST_BYTES)
    except (OSError, ValueError):
        return None
    return data.decode("utf-8", "replace").rstrip("\0\n ")


def field(text: str | None, name: str) -> str | None:
    """The value of the first line `name: value` or `name=value`, as in /proc/cpuinfo, /proc/meminfo and /etc/os-release."""
    found = re.search(rf"^{re.escape(name)}[ \t]*[:=][ \t]*(.*?)[ \t]*$", text or "", re.MULTILINE)
    return found[1].strip('"') if found else None
