"""Interpolation: axes that keep their size pass, the others stay."""

from __future__ import annotations

import numpy as np

from graphprune.graph.model import Array
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.registry import rule
from graphprune.rules.reshape import sizes_const


def resize_sizes(e: Edit) -> None:
    """Sizes given outright follow the new widths."""
    if not e.has(3):
        return
    named, given = e.attr("axes"), e.const(3)
    if named is None:
        sizes_const(e, 3)
        return
    places = [int(a) % len(e.in_shape(0)) for a in named]
    if given is not None and any(e.kept_out(a) is not None for a in places):
        new = e.out_sizes()
        moved = [new[a] if e.kept_out(a) is not None else int(n) for a, n in zip(places, given.ravel(), strict=True)]
        e.change.consts[3] = np.array(moved, np.int64)


def _scales(r: Relate) -> list[Array]:
    """Factors of the listed axes at the probes, as far as they are known."""
    slot = 2 if r.node.op == "Resize" and r.node.version >= 11 else 1
    if r.attr("scales") is not None:
        return [np.array(r.attr("scales"))]
    if not r.has(slot):
        return []
    fixed = r.const(slot)
    return [s for s in ([fixed] if fixed is not None else r.graph.varying.get(r.node.inputs[slot], ())) if s.size]


def _interpolated(r: Relate) -> list[bool]:
    """Which axes are interpolated: those that change their size or have a factor that is not 1."""
    out, data = r.output(), r.value(0)
    assert out.shape is not None
    assert data.shape is not None
    rank = len(data.shape)
    named = [int(a) % rank for a in r.attr("axes") or range(rank)]
    touched = [a >= 2 if data.dynamic[a] else out.shape[a] != data.shape[a] for a in range(rank)]
    for scales in _scales(r):
        for a, factor in zip(named, scales.ravel(), strict=True):
            touched[a] |= bool(factor != 1)
    uniform = r.attr("keep_aspect_ratio_policy", "stretch") != "stretch" and any(touched)
    unfixed = r.attr("axes") is not None and r.has(3) and r.const(3) is None
    if uniform or unfixed or r.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        for a in named:  # one factor for all of them, or a region that may start anywhere
            touched[a] = True
    return touched


@rule("Resize", "Upsample", kind="REINDEX", edit=resize_sizes)
def resize(r: Relate) -> None:
    """Axes that keep their size pass; the resized ones stay as they are."""
    axes = r.axes(0)
    out = r.output().shape
    assert out is not None
    for a, touched in enumerate(_interpolated(r)):
        if touched:
            r.freeze(0, a, "it is interpolated")
            axes[a] = r.frozen(out[a], "it is interpolated")
    r.out(axes)
