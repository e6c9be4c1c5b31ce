"""Operators that reduce axes, or run along one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeseq_export.graph64.node import Build, Kernel, Node, UnknownOperator

Reduce = Callable[..., Any]  # (array, axis=, keepdims=)


def _reduction(reduce: Reduce) -> Build:
    """Axes as an attribute or as the second input; every axis where neither names one."""

    def build(node: Node) -> Kernel:
        keepdims, without_axes = bool(node.get("keepdims", 1)), bool(node.get("noop_with_empty_axes", 0))
        named = node.get("axes")

        def run(x: Any, axes: Any = None) -> Any:
            chosen = named if axes is None else axes.tolist()
            if not chosen and without_axes:
                return x
            found = reduce(x, axis=tuple(chosen) if chosen else None, keepdims=keepdims)
            return np.asarray(found).astype(x.dtype, copy=False)

        return run

    return build


def _log_sum_exp(x: Any, axis: Any, keepdims: bool) -> Any:
    peak = np.max(x, axis=axis, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)
    found = np.log(np.sum(np.exp(x - peak), axis=axis, keepdims=True)) + peak
    return found if keepdims else np.squeeze(found, axis=axis)


def _l2(x: Any, axis: Any, keepdims: bool) -> Any:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


def _arg(extreme: Callable[..., Any]) -> Build:
    def build(node: Node) -> Kernel:
        axis, keepdims, last = node.get("axis", 0), bool(node.get("keepdims", 1)), node.get("select_last_index", 0)

        def run(x: Any) -> Any:
            if last:
                found = x.shape[axis] - 1 - extreme(np.flip(x, axis), axis=axis, keepdims=keepdims)
            else:
                found = extreme(x, axis=axis, keepdims=keepdims)
            return np.asarray(found, np.int64)

        return run

    return build


def softmax(x: Any, axis: int) -> Any:
    """exp(x) over its sum along an axis."""
    grown = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return grown / np.sum(grown, axis=axis, keepdims=True)


def _log_softmax(x: Any, axis: int) -> Any:
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def _along(function: Callable[[Any, int], Any]) -> Build:
    def build(node: Node) -> Kernel:
        axis = node.get("axis", -1)
        return lambda x: function(x, axis)

    return build


def _cumulative_sum(node: Node) -> Kernel:
    exclusive, reverse = node.get("exclusive", 0), node.get("reverse", 0)

    def run(x: Any, axis: Any) -> Any:
        along = int(axis.item())
        x = np.flip(x, along) if reverse else x
        found = np.cumsum(x, axis=along, dtype=x.dtype)
        found = found - x if exclusive else found
        return np.flip(found, along) if reverse else found

    return run


def _top_k(node: Node) -> Kernel:
    axis, largest = node.get("axis", -1), node.get("largest", 1)

    def run(x: Any, k: Any) -> tuple[Any, Any]:
        # A stable sort: of equal elements, the one of the lower index comes first.
        order = np.argsort(-x if largest else x, axis=axis, kind="stable")
        index = np.take(order, range(int(k.item())), axis=axis).astype(np.int64)
        return np.take_along_axis(x, index, axis=axis), index

    return run


def _lp_normalisation(node: Node) -> Kernel:
    axis, p = node.get("axis", -1), node.get("p", 2)
    if p not in (1, 2):
        raise UnknownOperator(f"the graph can't be evaluated in float64: no equations for LpNormalization with p={p}")

    def run(x: Any) -> Any:
        norm = np.linalg.norm(x, ord=p, axis=axis, keepdims=True)
        return np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)

    return run


REDUCTIONS: dict[str, Build] = {
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "CumSum": _cumulative_sum,
    "LogSoftmax": _along(_log_softmax),
    "LpNormalization": _lp_normalisation,
    "ReduceL1": _reduction(lambda x, axis, keepdims: np.sum(np.abs(x), axis=axis, keepdims=keepdims)),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(lambda x, axis, keepdims: np.log(np.sum(x, axis=axis, keepdims=keepdims))),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "ReduceSumSquare": _reduction(lambda x, axis, keepdims: np.sum(x * x, axis=axis, keepdims=keepdims)),
    "Softmax": _along(softmax),
    "TopK": _top_k,
}
