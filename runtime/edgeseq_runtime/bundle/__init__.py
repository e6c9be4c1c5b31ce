"""The bundle: one file that holds a model, what it promises, and the numbers that prove it.

It is the only thing that crosses from the machine that exports to the machine that runs.
"""

from edgeseq_runtime.bundle.bundle import Bundle, open_bundle, with_precision, write_bundle
from edgeseq_runtime.bundle.gates import DEFAULT_GATES, EXACT_GATE, LOW_PRECISION_GATES, AnyGate, Gate, RelativeGate
from edgeseq_runtime.bundle.manifest import FORMAT, LOW_PRECISION_FORMAT, Manifest, ReferenceCase
from edgeseq_runtime.bundle.reference import CaseArrays, pack_reference
from edgeseq_runtime.bundle.text import LOOP_INPUTS, Generation, TextInput
from edgeseq_runtime.bundle.verdict import Verdict, judge

__all__ = [
    "DEFAULT_GATES",
    "EXACT_GATE",
    "FORMAT",
    "LOOP_INPUTS",
    "LOW_PRECISION_FORMAT",
    "LOW_PRECISION_GATES",
    "AnyGate",
    "Bundle",
    "CaseArrays",
    "Gate",
    "Generation",
    "Manifest",
    "ReferenceCase",
    "RelativeGate",
    "TextInput",
    "Verdict",
    "judge",
    "open_bundle",
    "pack_reference",
    "with_precision",
    "write_bundle",
]
