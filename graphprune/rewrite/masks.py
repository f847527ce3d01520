"""Masking values in opsets that have no Where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphprune.graph.model import Array

if TYPE_CHECKING:
    from graphprune.rewrite.surgeon import Surgeon

WHERE_OPSET = 9


def mask_by_product(
    surgeon: Surgeon, value: ir.Value, keep: Array, other: Array, at: ir.Node, *, after: bool
) -> ir.Value:
    """``value`` times 1 where ``keep`` and 0 elsewhere, plus ``other`` there; small integers by way of floats."""
    if other.dtype.kind in "iub" and other.dtype.itemsize < 4:
        real = surgeon.insert("Cast", [value], {"to": ir.DataType.FLOAT.value}, at, after=after)
        place = real.producer() if after else at
        assert place is not None
        masked = mask_by_product(surgeon, real, keep, other.astype(np.float32), place, after=after)
        place = masked.producer() if after else at
        assert place is not None
        dtype = ir.DataType.from_numpy(other.dtype)
        return surgeon.insert("Cast", [masked], {"to": dtype.value}, place, after=after)
    factors, terms = keep.astype(other.dtype), np.where(keep, np.zeros_like(other), other)
    held = surgeon.insert("Mul", [value, surgeon.constant(f"{value.name}_mask", factors)], {}, at, after=after)
    maker = held.producer()
    if not terms.any() or maker is None:
        return held
    return surgeon.insert("Add", [held, surgeon.constant(f"{value.name}_fixed", terms)], {}, maker, after=True)


def mask_integers(surgeon: Surgeon, value: ir.Value, keep: Array, zero: ir.Value, at: ir.Node) -> ir.Value:
    """8-bit ``value`` where ``keep``, else ``zero``: by a detour over floats, products of integers came later."""
    facts = surgeon.graph.values.get(zero.name or "")
    dtype = zero.dtype if zero.dtype is not None or facts is None else ir.DataType[facts.dtype.upper()]
    assert dtype is not None
    parts = []
    for part, mask in ((value, keep), (zero, ~keep)):
        real = surgeon.insert("Cast", [part], {"to": ir.DataType.FLOAT.value}, at)
        factors = surgeon.constant(f"{value.name}_mask", mask.astype(np.float32))
        parts.append(surgeon.insert("Mul", [real, factors], {}, at))
    return surgeon.insert("Cast", [surgeon.insert("Add", parts, {}, at)], {"to": dtype.value}, at)
