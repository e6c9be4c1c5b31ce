"""The equations of ONNX's LSTM, GRU and RNN, found in the forms of a step's next state.

LSTM: c' = f c + i g, h' = o s(c'); GRU: h' = (1 - z) n + z h, with n = s(x W + r (h R + b)) or s(x W + (r h) R); RNN: h' = s(a).
Gates i, f, o, z, r are sigmoids of a sum x W + h R + b, of an LSTM with peepholes p c where it has any (i and f see c, o sees c').
Source: the ONNX operators LSTM, GRU and RNN, version 14.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from edgeseq_export.passes.equations import FUNCTIONS, INPUT, LINEAR, Atom, Form, Numbers, Term, added, constant_form, multiplied

GATE = "Sigmoid"
Pair = tuple[Atom, Atom]


class Gate(NamedTuple):
    """A sum x W + h R + b + p c, of H features."""

    x: dict[Atom, Numbers]  # what the step is given, and its matrix (k, H) or one number a feature (H,)
    R: Numbers  # (H, H)
    b: Numbers  # (H,)
    p: Numbers  # (H,)


class FoundCell(NamedTuple):
    """A native node's equations, its gates in ONNX's order."""

    operator: str
    gates: tuple[Gate, ...]
    hidden_bias: Numbers  # (H,), of a GRU that resets after the product: the bias inside
    activations: tuple[str, ...]
    reset_after: bool
    output: int  # which state is h
    memory: int | None  # which is c

    @property
    def peepholes(self) -> bool:
        return any(gate.p.any() for gate in self.gates)


class _NoCell(Exception):
    """The forms are not a native node's."""


def found_cell(states: Sequence[Atom], following: Sequence[Form]) -> FoundCell | None:
    """The native node whose step takes the states to the forms; None where there is none."""
    attempts = {1: (_rnn, _gru), 2: (_lstm,)}.get(len(states), ())
    for attempt in attempts:
        try:
            return attempt(states, following)
        except _NoCell:
            continue
    return None


def _rnn(states: Sequence[Atom], following: Sequence[Form]) -> FoundCell:
    (h,), (form,) = states, following
    outcome = _single(form)
    return FoundCell("RNN", (_gate(_inner(outcome, FUNCTIONS), h),), np.zeros(h.width), (outcome.kind,), False, 0, None)


def _gru(states: Sequence[Atom], following: Sequence[Form]) -> FoundCell:
    (h,), (form,) = states, following
    z, n, negated = _mixed(form, h)
    candidate = _inner(n, FUNCTIONS)
    gate_z = _gate(_inner(z, (GATE,)), h)
    if negated:  # 1 - sigmoid(a) is sigmoid(-a)
        gate_z = Gate({atom: -w for atom, w in gate_z.x.items()}, -gate_z.R, -gate_z.b, gate_z.p)
    for r in _factors(candidate, GATE):
        rest = {term: coefficient for term, coefficient in candidate.terms.items() if r not in term}
        inside = {_without(term, r): coefficient for term, coefficient in candidate.terms.items() if r in term}
        gate_n = _gate(Form(h.width, rest), h)
        if gate_n.R.any():
            raise _NoCell
        gates = gate_z, _gate(_inner(r, (GATE,)), h)
        if set(inside) == {(h,)}:  # (r h) R, a product of the two; only then is its coefficient a matrix
            R, bias, after = _matrix(inside[(h,)]), np.zeros(h.width), False
        else:
            product = _gate(_opened(Form(h.width, inside)), h)
            if product.x:
                raise _NoCell
            R, bias, after = product.R, product.b, True
        return FoundCell("GRU", (*gates, gate_n._replace(R=R)), bias, (GATE, n.kind), after, 0, None)
    raise _NoCell


def _lstm(states: Sequence[Atom], following: Sequence[Form]) -> FoundCell:
    for memory in (0, 1):
        try:
            return _lstm_with(states, following, memory)
        except _NoCell:
            continue
    raise _NoCell


def _lstm_with(states: Sequence[Atom], following: Sequence[Form], memory: int) -> FoundCell:
    c, h = states[memory], states[1 - memory]
    cell, hidden = following[memory], following[1 - memory]
    o, squashed = _output_gate(hidden, cell)
    f, i, g, coupled = _memory_gates(cell, c)
    gates = [_gate(_inner(atom, (GATE,)), h, c) for atom in (i, f)]
    if coupled:
        gates[0] = Gate({atom: -w for atom, w in gates[1].x.items()}, -gates[1].R, -gates[1].b, -gates[1].p)
    gate_g = _gate(_inner(g, FUNCTIONS), h)
    gate_o = _sees(_inner(o, (GATE,)), cell, h)
    in_order = gates[0], gate_o, gates[1], gate_g
    return FoundCell("LSTM", in_order, np.zeros(h.width), (GATE, g.kind, squashed.kind), False, 1 - memory, memory)


def _output_gate(hidden: Form, cell: Form) -> Pair:
    """The atoms o and s(c') of h' = o s(c')."""
    one, two = _pair(hidden)
    for o, squashed in ((one, two), (two, one)):
        if o.kind == GATE and squashed.kind in FUNCTIONS and squashed.inner is not None and squashed.inner.key == cell.key:
            return o, squashed
    raise _NoCell


def _memory_gates(cell: Form, c: Atom) -> tuple[Atom, Atom, Atom, bool]:
    """f, i and g of c' = f c + i g, and whether i is 1 - f."""
    signs = _numbers(cell)
    kept = [term for term in signs if c in term and len(term) == 2]
    if len(kept) != 1 or signs[kept[0]] != 1:
        raise _NoCell
    (f,) = _without(kept[0], c)
    others = {term: sign for term, sign in signs.items() if term != kept[0]}
    if list(others.values()) == [1] and len(next(iter(others))) == 2:
        one, two = next(iter(others))
        for i, g in ((one, two), (two, one)):
            if i.kind == GATE and g.kind in FUNCTIONS:
                return f, i, g, False
    if len(others) == 2:
        single = [term for term in others if len(term) == 1]
        if len(single) == 1 and others == {single[0]: 1, _sorted(f, *single[0]): -1}:
            return f, f, single[0][0], True
    raise _NoCell


def _mixed(form: Form, h: Atom) -> tuple[Atom, Atom, bool]:
    """The atoms z and n of h' = (1 - z) n + z h, and whether the gate is 1 - z of the z in the equation: h' = (1 - z) h + z n."""
    signs = _numbers(form)
    single = [term for term in signs if len(term) == 1]
    if len(signs) != 3 or len(single) != 1:
        raise _NoCell
    (alone,) = single[0]
    for term in signs:
        for z in term:
            if len(term) != 2 or z.kind != GATE:
                continue
            if alone == h:
                (n,) = _without(term, z)
                if n != h and signs == {(h,): 1, _sorted(z, n): 1, _sorted(z, h): -1}:
                    return z, n, True
            elif signs == {(alone,): 1, _sorted(z, alone): -1, _sorted(z, h): 1}:
                return z, alone, False
    raise _NoCell


def _gate(form: Form, h: Atom, c: Atom | None = None) -> Gate:
    """The sum of a gate; it may see the state h by a matrix, and c, where there is one, feature by feature."""
    x: dict[Atom, Numbers] = {}
    R, b, p = np.zeros((h.width, h.width)), np.zeros(h.width), np.zeros(h.width)
    for term, coefficient in form.terms.items():
        if not term:
            b = b + coefficient
            continue
        if len(term) != 1 or term[0].kind != INPUT:
            raise _NoCell
        (atom,) = term
        if atom.value is h.value:
            R[atom.first : atom.first + atom.width] += _matrix(coefficient)
        elif c is not None and atom.value is c.value:
            if atom != c or coefficient.ndim != 1:
                raise _NoCell
            p = coefficient
        else:
            x[atom] = coefficient
    return Gate(x, R, b, p)


def _sees(form: Form, cell: Form, h: Atom) -> Gate:
    """The output gate, whose peephole sees c': a number a feature times every term of its form."""
    shared = [form.terms.get(term) for term in cell.terms]
    first = shared[0]
    if first is None or first.ndim != 1:
        return _gate(form, h)
    p = first / cell.terms[next(iter(cell.terms))]
    rest = added(form, multiplied(constant_form(p, cell.width), cell), sign=-1.0)
    return _gate(rest, h)._replace(p=p)


def _opened(form: Form) -> Form:
    """A sum with its matrix products looked into."""
    total = Form(form.width, {})
    for term, coefficient in form.terms.items():
        inner = term[0].inner if len(term) == 1 and term[0].kind == LINEAR else None
        part = Form(form.width, {term: coefficient})
        total = added(total, part if inner is None else multiplied(constant_form(coefficient, form.width), inner))
    return total


def _inner(atom: Atom, kinds: Sequence[str]) -> Form:
    if atom.kind not in kinds or atom.inner is None:
        raise _NoCell
    return atom.inner


def _numbers(form: Form) -> dict[Term, int]:
    """Terms whose coefficient is 1 or -1 for every feature."""
    signs = {}
    for term, coefficient in form.terms.items():
        if coefficient.ndim != 1 or not (np.abs(coefficient) == 1).all() or len(set(coefficient.tolist())) != 1:
            raise _NoCell
        signs[term] = int(coefficient[0])
    return signs


def _single(form: Form) -> Atom:
    signs = _numbers(form)
    if len(signs) != 1 or len(next(iter(signs))) != 1 or set(signs.values()) != {1}:
        raise _NoCell
    return next(iter(signs))[0]


def _pair(form: Form) -> Pair:
    signs = _numbers(form)
    if len(signs) != 1 or len(next(iter(signs))) != 2 or set(signs.values()) != {1}:
        raise _NoCell
    one, two = next(iter(signs))
    return one, two


def _factors(form: Form, kind: str) -> Iterable[Atom]:
    return dict.fromkeys(atom for term in form.terms if len(term) < 3 for atom in term if atom.kind == kind)


def _without(term: Term, atom: Atom) -> Term:
    rest = list(term)
    rest.remove(atom)
    return tuple(rest)


def _sorted(*atoms: Atom) -> Term:
    return tuple(sorted(atoms, key=lambda atom: atom.key))


def _matrix(coefficient: Numbers) -> Numbers:
    return coefficient if coefficient.ndim == 2 else np.diag(coefficient)
