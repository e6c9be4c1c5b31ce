"""Pages that are written by hand but for their tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def fill(page: Path, parts: Mapping[str, str]) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end of NAME -->`, for each part.

    Raises:
        ValueError: the page has no such place.
    """
    text = page.read_text("utf-8")
    for name, part in parts.items():
        place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end of {re.escape(name)} -->)", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"{page} has no place for '{name}': write <!-- {name} --> and <!-- end of {name} --> into it")
        text = place.sub(lambda found, part=part: f"{found[1]}\n{part.strip()}\n\n{found[2]}", text)
    page.write_text(text, "utf-8")
