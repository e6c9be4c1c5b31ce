"""Every model of the library, as bundles: those whose graphs are mutated, the other causal ones, and those that write tokens."""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path

import torch
from causal_models import CAUSAL, causal_model
from mutated_models import MODELS as MUTATED
from mutated_models import Make, cache

from edgeseq.generation import BeamSearch, Greedy, Sampling
from edgeseq_export import ExportNotice, ExportRequest, export_request
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
    path = cache() / own / f"{''.join(c if c.isalnum() else '_' for c in name)}.edgeseq"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        request = MODELS[name]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExportNotice)
            export_request(request, path)
    return path
