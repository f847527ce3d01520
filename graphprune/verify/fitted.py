"""Verification of a file whose weights were fitted to data after its cut was proved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from graphprune.coupling.cut import Cut
from graphprune.graph.scopes import nodes_of
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import Verdict, verify_cut

KEY = "graphprune.recovered"


def mark(model: Any, steps: str) -> None:
    """Note in an ONNX model which steps exchanged the contents of its weights."""
    if isinstance(model, ir.Model) and steps:
        model.metadata_props[KEY] = steps


def steps_of(model: Any) -> str:
    """The steps noted in a model, "" when there are none."""
    return str(model.metadata_props.get(KEY, "")) if isinstance(model, ir.Model) else ""


def verify_file(cut: Cut, model: ir.Model, **options: Any) -> Verdict:
    """Verify a pruned model; of one whose weights were fitted the cut, and that it is this cut but for contents.

    Args:
        cut: The removal.
        model: The pruned model.
        options: Those of :func:`graphprune.verify.compare.verify_cut`.
    """
    if not steps_of(model):
        return verify_cut(cut, model, **options)
    made = rewrite(cut)
    return _like_the_cut(model, made, verify_cut(cut, made, **options))


def _like_the_cut(model: ir.Model, cut: ir.Model, verdict: Verdict) -> Verdict:
    """A verdict about the cut, for the file that differs from it in the contents of weights alone.

    Args:
        model: The fitted model.
        cut: The same cut, carried out again.
        verdict: What verification says of that.
    """
    if not verdict.passed:
        return verdict
    steps = steps_of(model)
    mine, other = list(_structure(model)), list(_structure(cut))
    if mine != other:
        extra = next((a for a in mine if a not in other), None) or next(b for b in other if b not in mine)
        text = f"is not the cut with other weights: {extra} differs"
        return Verdict(passed=False, error=float("inf"), tolerance=0.0, samples=0, text=text)
    return replace(verdict, text=f"{verdict.text}, before its weights were fitted to data ({steps})")


def _structure(model: ir.Model) -> Iterator[tuple[Any, ...]]:
    """Nodes with their operands, and stored tensors with types and sizes; no contents."""
    for node in nodes_of(model.graph):
        yield node.op_identifier(), tuple(v.name if v is not None else "" for v in node.inputs)
    for name in sorted(model.graph.initializers):
        tensor = model.graph.initializers[name].const_value
        if tensor is not None:
            yield name, tensor.dtype, tuple(int(n) for n in tensor.shape if isinstance(n, int))
