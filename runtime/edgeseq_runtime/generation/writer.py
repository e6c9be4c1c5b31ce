"""Open what writes sequences, and let it write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np

from edgeseq_runtime.bundle import Bundle, Generation, TextInput, open_bundle
from edgeseq_runtime.device import Device
from edgeseq_runtime.errors import UsageError
from edgeseq_runtime.generation.beam import BeamSearch
from edgeseq_runtime.generation.greedy import Greedy
from edgeseq_runtime.generation.sampling import Sampling
from edgeseq_runtime.generation.steps import StepGraph, batch_of
from edgeseq_runtime.generation.text import WrittenText, text_inputs, written_texts
from edgeseq_runtime.generation.written import Written
from edgeseq_runtime.plan import make_plan
from edgeseq_runtime.session import Session, open_session
from edgeseq_runtime.tensors.spec import Array

Search = Greedy | Sampling | BeamSearch

LONGEST = 100


class Writer(ABC):
    """What writes sequences of tokens. Made by `load_writer`."""

    def __init__(self, generation: Generation, text: TextInput | None, reader: Session) -> None:
        self.generation = generation
        self.text = text
        self._reader = reader  # what text goes to

    def write(self, inputs: Mapping[str, Array], search: Search | None = None, *, longest: int = LONGEST) -> Written:
        """Write a sequence for each of a batch.

        Args:
            inputs: of the encoder where there is one, else of the graph itself, by name; not the tokens.
            search: `Greedy()` where omitted; of a graph with its loop inside the one that it was exported with.
            longest: the most tokens of a sequence.

        Raises:
            InputError: an input does not fit.
            UsageError: the search is not what the graph holds, or longest is less than 1.
        """
        if longest < 1:
            raise UsageError(f"longest is {longest}; give 1 or more")
        return self._write(inputs, search, longest)

    @abstractmethod
    def _write(self, inputs: Mapping[str, Array], search: Search | None, longest: int) -> Written: ...

    def write_text(self, texts: Sequence[str], search: Search | None = None, *, longest: int = LONGEST) -> list[WrittenText]:
        """What is written for each text, with its score.

        Raises:
            InputError: a text has characters that the model does not read.
            UsageError: as `write`, or the bundles do not say how text becomes tokens.
        """
        return written_texts(self.generation, self.write(self.text_inputs(texts), search, longest=longest))

    def text_inputs(self, texts: Sequence[str]) -> dict[str, Array]:
        """The inputs that some texts become.

        Raises:
            InputError: a text has characters that the model does not read.
            UsageError: the bundles do not say how text becomes tokens.
        """
        if self.text is None:
            way_out = "open it with its encoder" if self.generation.form == "step" else "export it with text=..."
            raise UsageError(f"the bundle does not say how text becomes tokens; {way_out}, or give it arrays")
        return text_inputs(self.text, self._reader.inputs, texts)


class StepWriter(Writer):
    """A graph of one step, the choice made here; before it, where there is one, an encoder that runs once."""

    def __init__(self, step: Session, encoder: Session | None, generation: Generation, text: TextInput | None) -> None:
        super().__init__(generation, text, encoder or step)
        self._step = step
        self._encoder = encoder

    def _write(self, inputs: Mapping[str, Array], search: Search | None, longest: int) -> Written:
        search = search or Greedy()
        steps = StepGraph(self._step, self.generation, self._encoded(inputs), search.width)
        return search.search(steps, steps.batch, min(longest, steps.limit or longest))

    def _encoded(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """A step's inputs: of the encoder's outputs and its inputs, those that the step takes."""
        if self._encoder is None:
            return dict(inputs)
        names = {spec.name for spec in self._step.inputs}
        found: dict[str, Array] = {name: np.asarray(array) for name, array in inputs.items() if name in names}
        own = {spec.name for spec in self._encoder.inputs}
        found |= self._encoder.run({name: array for name, array in inputs.items() if name in own or name not in names})
        return {name: array for name, array in found.items() if name in names}


class LoopWriter(Writer):
    """A graph with its loop inside: one run writes whole sequences."""

    def __init__(self, session: Session, generation: Generation, text: TextInput | None) -> None:
        super().__init__(generation, text, session)
        self._session = session

    def _write(self, inputs: Mapping[str, Array], search: Search | None, longest: int) -> Written:
        kind = self.generation.search
        if search is not None and not (search.kind == kind == "sampling"):
            raise UsageError(
                f"{type(search).__name__} was asked for, and this graph holds a search of its own, {kind}, as it was exported; "
                + ("give Sampling(...)" if kind == "sampling" else "leave the search out, or open the step graph")
            )
        outputs = self._session.run({**inputs, **self._controls(search, longest, inputs)})
        tokens, counts, scores = (outputs[n] for n in (self.generation.tokens, self.generation.counts, self.generation.scores))
        if tokens.ndim == 2:
            tokens, counts, scores = tokens[:, :, None], counts[:, None], scores[:, None]
        return Written(tokens.astype(np.int64), counts.astype(np.int64), scores.astype(np.float32))

    def _controls(self, search: Search | None, longest: int, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self.generation.search != "sampling":
            return {"longest": np.array(longest)}
        chosen = search if isinstance(search, Sampling) else Sampling()
        return {
            "uniforms": chosen.uniforms(longest, batch_of(self._session.interface, inputs)),
            "temperature": np.array(chosen.temperature, np.float32),
            "top_k": np.array(chosen.top_k or np.iinfo(np.int64).max),
            "top_p": np.array(chosen.top_p, np.float32),
        }


def load_writer(
    path: str | PathLike[str],
    *,
    encoder: str | PathLike[str] | None = None,
    device: Device | str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> Writer:
    """Open a bundle that writes sequences of tokens.

    Args:
        path: a graph of one step, or one with its loop inside; its manifest says which.
        encoder: what runs once before the steps: its outputs, and its inputs, go by name to the step's inputs.
        device: a profile or its name; "auto" is the local CPU.
        precision: one that the bundles hold.
        threads: how many share one operator; 1 unless said.

    Raises:
        UsageError: no such file or precision, or a bundle that says nothing of generation, or an encoder beside a loop.
        BundleError, DeviceError, ProviderError: as `load`.
    """
    bundle = open_bundle(path)
    generation = bundle.manifest.generation
    if generation is None:
        raise UsageError(f"{path} does not say how it writes sequences; export it with generation=..., or use load(...).run")

    def opened(which: Bundle) -> Session:
        return open_session(which, make_plan(which, device, precision=precision, threads=threads))

    if generation.form == "loop":
        if encoder is not None:
            raise UsageError(f"{path} holds its whole loop, encoder included; leave the encoder {encoder} out")
        return LoopWriter(opened(bundle), generation, bundle.manifest.text)
    if encoder is None:
        return StepWriter(opened(bundle), None, generation, bundle.manifest.text)
    first = open_bundle(encoder)
    _require_fitting(bundle, first)
    return StepWriter(opened(bundle), opened(first), generation, first.manifest.text or bundle.manifest.text)


def _require_fitting(step: Bundle, encoder: Bundle) -> None:
    """What goes by one name in both is of one kind."""
    given = {spec.name: spec for spec in (*encoder.inputs, *encoder.outputs)}
    for spec in step.inputs:
        found = given.get(spec.name, spec)
        if (found.dtype, len(found.shape)) != (spec.dtype, len(spec.shape)):
            raise UsageError(f"the step {step.path} takes {spec}, the encoder {encoder.path} gives {found}; export them together")
