"""Cropping and padding around the centre."""

from __future__ import annotations

import numpy as np

from graphprune.graph.model import Array
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit, new_positions
from graphprune.rules.registry import rule


def _targets(sizes: Array | None, axes: list[int] | None, rank: int) -> dict[int, int] | None:
    """New size by axis; None when the sizes are not fixed."""
    if sizes is None:
        return None
    named = range(rank) if axes is None else [int(a) % rank for a in axes]
    return dict(zip(named, (int(n) for n in sizes.ravel()), strict=True))


def target_sizes(e: Edit) -> None:
    """What is kept of a cropped axis is read through an index first; then every size is already what it shall be."""
    targets = _targets(e.const(1), e.attr("axes"), len(e.in_shape(0)))
    if targets is None or all(e.kept(0, a) is None for a in targets):
        return
    for a, size in targets.items():
        n, source, kept = e.in_shape(0)[a], e.kept(0, a), e.kept_out(a)
        if source is not None and size < n:
            read = np.arange(size) if kept is None else kept
            e.change.gathers.append((0, a, new_positions(source, n)[read + (n - size) // 2]))
    new = e.out_sizes()
    e.change.consts[1] = np.array([new[a] for a in targets], np.int64)


@rule("CenterCropPad", kind="REINDEX", edit=target_sizes)
def center_crop_pad(r: Relate) -> None:
    """A cropped axis is read at the positions in its middle; a padded one stays; the others pass."""
    axes = r.axes(0)
    out = r.output()
    assert out.shape is not None
    targets = _targets(r.const(1), r.attr("axes"), len(axes))
    for a, axis in enumerate(axes):
        if out.shape[a] == axis.n and not (targets is None and out.dynamic[a]):
            continue
        if targets is None or r.value(0).dynamic[a] or out.shape[a] > axis.n:
            text = "it is padded around its middle" if targets is not None else "it is cropped to a computed size"
            r.freeze(0, a, text)
            axes[a] = r.frozen(out.shape[a], text)
            continue
        start = (axis.n - out.shape[a]) // 2
        axes[a] = r.index(axis, np.arange(start, start + out.shape[a]))
        if out.shape[a] == 1 and not axes[a].frozen:
            r.store.freeze(axes[a], r.why("a single position is cut out"))
    r.out(axes)
