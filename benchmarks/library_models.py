"""Every model of the library, as bundles: those whose graphs are mutated, the other causal ones, and those that write tokens."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from causal_models import CAUSAL, causal_model
from mutated_models import MODELS as MUTATED
from mutated_models import Make, cache, exported

from edgeseq.generation import BeamSearch, Greedy, Sampling
from edgeseq_export import ExportRequest
from edgeseq_export.generation import generation_request

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import generation_models  # type: ignore[import-not-found]


def searched(kind: str) -> ExportRequest:
    """A graph that writes whole sequences: a decoder with attention, or alone, in one Loop."""
    case = generation_models.autoregressive() if kind == "sampling" else generation_models.encoder_decoder("attention")
    searches = {"greedy": Greedy, "sampling": Sampling, "beam": lambda writer: BeamSearch(writer, 4)}
    return generation_request(searches[kind](case.writer), case.draw(3, 4), axes=case.axes, longest=12, name=kind)


MODELS: dict[str, Make] = {
    **MUTATED,
    **{name: lambda name=name: causal_model(name) for name in CAUSAL if name not in MUTATED},  # type: ignore[misc]
    "greedy search, attention": lambda: searched("greedy"),
    "beam search, attention": lambda: searched("beam"),
    "sampling": lambda: searched("sampling"),
}


def bundle_of(name: str) -> Path:
    """The model's bundle, exported if there is none yet of this code; its weights and example are drawn alike each time."""
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:6]
    return exported(name, MODELS[name], cache() / own)
