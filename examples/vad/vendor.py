"""Files of the installed package silero-vad, found without importing it (its import brings in PyTorch)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

WEIGHTS = "silero_vad_16k_op15.onnx"  # the 16 kHz network alone, its weights under PyTorch's names
MAIN = "silero_vad.onnx"  # what the vendor's own package runs: 8 and 16 kHz in one graph


class VendorMissing(RuntimeError):
    """The package silero-vad, or a file of it, is not there."""


def vendor_file(name: str) -> Path:
    """Path of a file in silero-vad's `data` folder.

    Raises:
        VendorMissing: the package is not installed, or has no such file.
    """
    spec = find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise VendorMissing("the package silero-vad is not installed; run: pip install --no-deps silero-vad==6.2.3")
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    if not path.is_file():
        raise VendorMissing(f"silero-vad has no {path}; this example was made with version 6.2.3")
    return path
