"""Values (..., n) of a graph as equations in one normal form, so that two ways of writing the same are the same.

A `Form` is a sum of terms. Each is a product of atoms, element by element, times a coefficient: one number a feature (n,), or a
matrix (k, n) that takes the k features of the atoms to n. Products are multiplied out, so that (1 - z) n + z h and n + z (h - n)
are one form. Coefficients are float64, in which moving, negating and adding float32 numbers loses nothing.

An atom is a value that is not looked into, a function of a form, or a matrix product that was multiplied by something.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

FUNCTIONS = ("Sigmoid", "Tanh", "Relu", "Softsign")  # what a gate of a native node may be
Numbers = npt.NDArray[np.float64]

LINEAR = "linear"
INPUT = "input"


class Atom:
    """One factor of a term: features `first` to `first + width` of a value, or a function of a form."""

    def __init__(self, kind: str, *, value: ir.Value | None = None, first: int = 0, width: int, inner: Form | None = None) -> None:
        self.kind, self.value, self.first, self.width, self.inner = kind, value, first, width, inner
        self.key = f"{kind} {id(value)}[{first}:{first + width}]" if inner is None else f"{kind}({inner.key})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atom) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __getitem__(self, part: slice) -> Atom:
        """Some of the features."""
        if self.inner is not None:
            return Atom(self.kind, width=part.stop - part.start, inner=self.inner[part])
        return Atom(self.kind, value=self.value, first=self.first + part.start, width=part.stop - part.start)


Term = tuple[Atom, ...]  # in the order of their keys; () is the constant term


class Form:
    """A sum of terms of n features; see the module."""

    def __init__(self, width: int, terms: Mapping[Term, Numbers]) -> None:
        self.width = width
        self.terms: dict[Term, Numbers] = {}
        for term, coefficient in terms.items():
            for found, simplest in _simplest(term, coefficient):
                self.terms[found] = _added(self.terms[found], simplest) if found in self.terms else simplest
        self.terms = {term: coefficient for term, coefficient in self.terms.items() if coefficient.any()}

    @cached_property
    def key(self) -> str:
        """The same for the same equations."""
        digest = hashlib.sha256()
        for term in sorted(self.terms, key=_term_key):
            coefficient = self.terms[term]
            digest.update(f"{_term_key(term)} {coefficient.shape}".encode() + (coefficient + 0.0).tobytes())
        return f"{self.width}:{digest.hexdigest()}"

    def __getitem__(self, part: slice) -> Form:
        """Some of the features."""
        return Form(
            part.stop - part.start,
            _merged(
                (tuple(atom[part] for atom in term), coefficient[part]) if coefficient.ndim == 1 else (term, coefficient[:, part])
                for term, coefficient in self.terms.items()
            ),
        )

    @property
    def constant(self) -> Numbers | None:
        """Its value, where it is the same at every step."""
        return self.terms.get((), np.zeros(self.width)) if set(self.terms) <= {()} else None

    @property
    def moves(self) -> bool:
        """It is features of atoms put elsewhere, nothing calculated."""
        return all(term and is_selection(coefficient) for term, coefficient in self.terms.items())


def is_selection(coefficient: Numbers) -> bool:
    """Each of the n features is one feature of the atoms, or none."""
    if coefficient.ndim == 1:
        return bool(np.isin(coefficient, (0, 1)).all())
    return bool(np.isin(coefficient, (0, 1)).all() and (coefficient.sum(axis=0) <= 1).all())


def atom_of(value: ir.Value, width: int) -> Form:
    """A value that is not looked into."""
    return Form(width, {(Atom(INPUT, value=value, width=width),): np.ones(width)})


def constant_form(array: npt.NDArray[Any], width: int) -> Form:
    """Numbers (n,) or one for all."""
    return Form(width, {(): np.broadcast_to(array.reshape(-1), (width,)).astype(np.float64)})


def function_of(name: str, form: Form) -> Form:
    """An elementwise function of a form."""
    return Form(form.width, {(Atom(name, width=form.width, inner=form),): np.ones(form.width)})


def added(a: Form, b: Form, sign: float = 1.0) -> Form:
    """The sum a + b, or a - b."""
    return Form(a.width, _merged([*a.terms.items(), *((term, sign * coefficient) for term, coefficient in b.terms.items())]))


def multiplied(a: Form, b: Form) -> Form:
    """The product a * b, element by element."""
    for form, other in ((a, b), (b, a)):
        if form.constant is not None:
            number = form.constant
            return Form(other.width, {term: coefficient * number for term, coefficient in other.terms.items()})
    products = [
        (tuple(sorted((*one, *two), key=lambda atom: atom.key)), p * q)
        for one, p in _elementwise(a).items()
        for two, q in _elementwise(b).items()
    ]
    return Form(a.width, _merged(products))


def transformed(form: Form, matrix: npt.NDArray[Any]) -> Form:
    """A matrix product with (k, n). Of what is calculated already it is not looked into: weights are not multiplied together."""
    weights: Numbers = matrix.astype(np.float64)
    if not form.moves:
        form = Form(form.width, {(Atom(LINEAR, width=form.width, inner=form),): np.ones(form.width)})
    terms = (
        (term, coefficient[:, None] * weights if coefficient.ndim == 1 else coefficient @ weights)
        for term, coefficient in form.terms.items()
    )
    return Form(matrix.shape[1], dict(terms))


def joined(forms: Iterable[Form]) -> Form:
    """Features side by side."""
    parts = list(forms)
    width, start, terms = sum(part.width for part in parts), 0, []
    for part in parts:
        for term, coefficient in part.terms.items():
            full = coefficient if coefficient.ndim == 2 else coefficient if not term else np.diag(coefficient)
            padding = [(0, 0)] * (full.ndim - 1) + [(start, width - start - part.width)]
            terms.append((term, np.pad(full, padding)))
        start += part.width
    return Form(width, _merged(terms))


def _elementwise(form: Form) -> dict[Term, Numbers]:
    """The terms, those with a matrix taken together as one atom."""
    plain = {term: coefficient for term, coefficient in form.terms.items() if coefficient.ndim == 1}
    products = {term: coefficient for term, coefficient in form.terms.items() if coefficient.ndim == 2}
    if products:
        plain[(Atom(LINEAR, width=form.width, inner=Form(form.width, products)),)] = np.ones(form.width)
    return plain


def _term_key(term: Term) -> str:
    return " * ".join(atom.key for atom in term)


class _Block(NamedTuple):
    """Rows of a matrix that are not zero."""

    first: int
    last: int


def _simplest(term: Term, coefficient: Numbers) -> list[tuple[Term, Numbers]]:
    """A matrix that takes each feature to one, in order, is numbers on a part of the atoms."""
    if coefficient.ndim == 1:
        return [(term, coefficient)]
    k, n = coefficient.shape
    rows = np.flatnonzero(coefficient.any(axis=1))
    if not len(rows):
        return []
    block = _Block(int(rows[0]), int(rows[0]) + n)
    if block.last <= k and rows[-1] < block.last:
        part = coefficient[block.first : block.last]
        if np.count_nonzero(part) == np.count_nonzero(part.diagonal()):
            return [(tuple(atom[block.first : block.last] for atom in term), part.diagonal().copy())]
    return [(term, coefficient)]


def _added(a: Numbers, b: Numbers) -> Numbers:
    if a.ndim == b.ndim:
        return a + b
    return (np.diag(a) if a.ndim == 1 else a) + (np.diag(b) if b.ndim == 1 else b)


def _merged(terms: Iterable[tuple[Term, Numbers]]) -> dict[Term, Numbers]:
    result: dict[Term, Numbers] = {}
    for term, coefficient in terms:
        result[term] = _added(result[term], coefficient) if term in result else coefficient
    return result
