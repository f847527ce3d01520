"""Gradient rules for onnx-ad where it has none, is inexact or slow; they expect one seed and fixed sizes.

A rule gets onnx-ad's context, the node, and the gradient of each output with a trailing axis of length 1, and returns
the gradient of each input likewise. Rules are in place only while a model is differentiated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from onnx import NodeProto

Rule = Callable[[Any, NodeProto, list[Any]], Any]
OWN: dict[str, Rule] = {}
_LOCK = threading.Lock()


class NoGradient(Exception):
    """An operator between the model's weights and its outputs has no gradient rule."""


def own(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators, "Conv" or "com.microsoft.FusedConv"."""

    def register(rule: Rule) -> Rule:
        OWN.update(dict.fromkeys(ops, rule))
        return rule

    return register


@contextmanager
def in_place() -> Iterator[None]:
    """onnx-ad with the rules of this package, and with errors that name the node.

    Raises:
        NoGradient: A rule refuses a node.
    """
    from onnx_ad import rules

    kept = dict(rules.REVERSE)
    ops = {*kept, *(key.rpartition(".")[2] for key in OWN)}
    with _LOCK:
        rules.REVERSE.update({op: _guarded(op, kept.get(op)) for op in ops})
        try:
            yield
        finally:
            rules.REVERSE.clear()
            rules.REVERSE.update(kept)


def _guarded(op: str, theirs: Rule | None) -> Rule:
    from onnx_ad import UnsupportedOperator

    def rule(ctx: Any, node: NodeProto, grads: list[Any]) -> Any:
        domain = "" if node.domain == "ai.onnx" else node.domain
        found = OWN.get(f"{domain}.{op}" if domain else op) or (None if domain else theirs)
        label = node.name or (node.output[0] if node.output else "")
        if found is None:
            raise NoGradient(f"{domain}.{op} (node {label}) has no gradient rule")
        try:
            return found(ctx, node, grads)
        except UnsupportedOperator as error:
            raise NoGradient(f"{op} (node {label}): {' '.join(str(error).split())}") from None

    return rule


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Value of an attribute, strings decoded."""
    from onnx_ad._build import attribute as read

    return read(node, name, default)


def sizes(ctx: Any, name: str) -> tuple[int, ...]:
    """Sizes of a value.

    Raises:
        UnsupportedOperator: They are not all known.
    """
    from onnx_ad import UnsupportedOperator

    found = ctx.shapes.static(name)
    if found is None:
        raise UnsupportedOperator(f"the sizes of {name} are not known")
    return tuple(int(n) for n in found)


def bare(ctx: Any, grad: str, of: str) -> str:
    """A gradient at its full sizes, without the trailing axis."""
    full = ctx.full(grad, of)
    return str(ctx.b.op("Reshape", [full, ctx.b.ints(sizes(ctx, of))], stem="bare"))


def seeded(ctx: Any, value: str, of: str) -> str:
    """A gradient with the trailing axis put back."""
    return str(ctx.b.op("Reshape", [value, ctx.b.ints([*sizes(ctx, of), 1])], stem="seeded"))


def flipped(ctx: Any, weight: str, axes: list[int], shape: tuple[int, ...]) -> str:
    """A tensor with some axes read backwards."""
    for axis in axes:
        if shape[axis] > 1:
            index = ctx.b.ints(np.arange(shape[axis])[::-1])
            weight = ctx.b.op("Gather", [weight, index], axis=axis, stem="flipped")
    return weight
