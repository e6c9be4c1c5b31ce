"""A folder with Debian packages of another architecture unpacked in it, made by any user.

apt resolves, downloads and verifies as ever, but with lists, cache and status of its own; nothing is installed, and no script of a
package is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRRORS = ("http://deb.debian.org/debian {suite} main", "http://deb.debian.org/debian-security {suite}-security main")
CONFIGURATION = """Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
"""


class DebianError(Exception):
    """apt or dpkg is not there, or can't get the packages."""


def missing() -> str:
    """What keeps this machine from it, and what to do; empty where nothing does."""
    absent = [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]
    if absent:
        return f"{' and '.join(absent)} not found: Debian's packages are unpacked on Debian, or on what is made from it"
    if not KEYRING.exists():
        return f"{KEYRING} not found, which Debian's packages are verified by: apt-get install debian-archive-keyring"
    return ""


def unpack(packages: Sequence[str], root: Path, *, suite: str, architecture: str) -> None:
    """Unpack the packages and all that they depend on below `root`, which is made.

    Raises:
        DebianError: something is missing here, or a package can't be had.
    """
    if reason := missing():
        raise DebianError(reason)
    with tempfile.TemporaryDirectory(prefix="apt-") as made:
        folder = Path(made)
        for name in ("lists", "archives"):
            (folder / name / "partial").mkdir(parents=True)
        (folder / "status").touch()
        sources = [f"deb [signed-by={KEYRING}] {mirror.format(suite=suite)}\n" for mirror in MIRRORS]
        (folder / "sources.list").write_text("".join(sources))
        (folder / "apt.conf").write_text(CONFIGURATION.format(folder=folder, architecture=architecture))
        environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}
        _apt(["update", "--error-on=any"], environment)
        _apt(["install", "-y", "--download-only", "--no-install-recommends", *packages], environment)
        root.mkdir(parents=True)
        for archive in sorted((folder / "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)


def _apt(arguments: list[str], environment: dict[str, str]) -> None:
    command = ["apt-get", "-q", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
        raise DebianError(f"{' '.join(command)} ended with {done.returncode}: {' '.join(said) or done.stderr.strip()}")
