"""Operators that change how long an axis is: padding, repeating, resizing, filling; and sizes themselves."""

from __future__ import annotations

import numpy as np

from graphprune.graph.model import Array, Node
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.edit import Edit
from graphprune.rules.kinds import FIXED, no_labels
from graphprune.rules.registry import rule
from graphprune.rules.reshape import sizes_const


def pad_counts(e: Edit) -> None:
    """Removed padding positions are simply not added; removed positions need no cropping any more."""
    rank = len(e.in_shape(0))
    pads, axes = _pads(e.const(1), e.attr(_attribute(e.node)), e.const(3), rank)
    if pads is None or all(e.kept_out(a) is None and e.kept(0, a) is None for a in range(rank)):
        return
    new = [new_pad(e, a, *pad) for a, pad in enumerate(pads)]
    flat = [new[a][0] for a in axes] + [new[a][1] for a in axes]
    if e.has(1):
        e.change.consts[1] = np.array(flat, np.int64)
    else:
        e.change.attrs[_attribute(e.node)] = flat


def _attribute(node: Node) -> str:
    return "paddings" if "paddings" in node.attrs else "pads"


def new_pad(e: Edit, axis: int, before: int, after: int) -> tuple[int, int]:
    """How many kept positions are added (or cropped, negative) on both sides."""
    n_in, n_out = e.in_shape(0)[axis], e.out_shape()[axis]
    read, made = e.kept(0, axis), e.kept_out(axis)
    read = np.arange(n_in) if read is None else read
    made = np.arange(n_out) if made is None else made
    return (
        int((made < before).sum()) if before > 0 else -int((read < -before).sum()),
        int((made >= n_out - after).sum()) if after > 0 else -int((read >= n_in + after).sum()),
    )


def _pads(
    operand: Array | None, attr: list[int] | None, named: Array | None, rank: int
) -> tuple[list[tuple[int, int]] | None, list[int]]:
    """(before, after) per axis, and the axes in the order the node lists them."""
    flat = [int(p) for p in (attr if attr is not None else ([] if operand is None else operand.ravel()))]
    axes = list(range(rank)) if named is None else [int(a) % rank for a in named.ravel()]
    if not flat:
        return None, axes
    pads = [(0, 0)] * rank
    for i, a in enumerate(axes):
        pads[a] = (flat[i], flat[i + len(axes)])
    return pads, axes


@rule("Pad", kind="REINDEX", edit=pad_counts)
def pad(r: Relate) -> None:
    """Constant padding adds positions that may be left out again; other modes repeat positions that must stay."""
    axes = r.axes(0)
    known = not r.has(3) or r.const(3) is not None
    pads, _ = _pads(r.const(1), r.attr(_attribute(r.node)), r.const(3), len(axes)) if known else (None, [])
    out = r.output().shape
    assert out is not None
    constant = r.attr("mode", "constant") in ("constant", b"constant")
    for a in range(len(axes)):
        before, after = pads[a] if pads is not None else (0, 0)
        if pads is not None and before == after == 0:
            continue
        if pads is None or r.value(0).dynamic[a] or not (constant or max(before, after) <= 0) or axes[a].frozen:
            text, mend = _stuck(r, pads is not None, constant)
            r.freeze(0, a, text, mend)
            axes[a] = r.frozen(out[a], text, mend)
            continue
        body = r.index(axes[a], np.arange(max(-before, 0), axes[a].n - max(-after, 0)))
        parts = [body]
        if before > 0:
            parts.insert(0, r.store.fresh(before))
        if after > 0:
            parts.append(r.store.fresh(after))
        axes[a] = r.concat(parts)
    r.out(axes)


def _stuck(r: Relate, known: bool, constant: bool) -> tuple[str, str]:  # noqa: FBT001
    if not known:
        return "it is padded by a computed number of positions", FIXED
    return "it is padded", "" if constant else f"pad with a constant instead of mode {r.attr('mode')}"


def expand_target(e: Edit) -> None:
    """The shape operand names the new sizes."""
    sizes_const(e, 1)


@rule("Expand", kind="EXPAND", edit=expand_target)
def expand(r: Relate) -> None:
    """An axis of one position is repeated into free positions; the others pass."""
    out = r.output()
    assert out.shape is not None
    axes = [
        r.fresh(n) if not d else r.frozen(n, "its size changes") for n, d in zip(out.shape, out.dynamic, strict=True)
    ]
    offset = len(axes) - r.rank(0)
    for a in range(r.rank(0)):
        if r.shape(0)[a] != 1 or r.value(0).dynamic[a]:
            axes[offset + a] = r.axis(0, a)
    r.out(axes)


def tile_repeats(e: Edit) -> None:
    """Copies that are left of an axis; one of one position has as many as positions."""
    repeats = e.const(1)
    if repeats is None:
        return
    new = repeats.astype(np.int64).copy()
    for a in range(len(new)):
        if e.kept_out(a) is not None:
            new[a] = e.out_sizes()[a] // e.in_size(0, a)
    if not np.array_equal(new, repeats):
        e.change.consts[1] = new


@rule("Tile", kind="EXPAND", edit=tile_repeats)
def tile(r: Relate) -> None:
    """Whole copies one after the other; a number of copies that follows the input is a dynamic factor."""
    axes = r.axes(0)
    out = r.output()
    assert out.shape is not None
    if r.node.version < 6:
        raise Unsupported("a Tile this old is not followed; convert the file to opset 6 or later")
    repeats = r.const(1)
    counts = (repeats, repeats) if repeats is not None else r.graph.varying.get(r.node.inputs[1])
    for a in range(len(axes)):
        if counts is None:
            r.freeze(0, a, "it is repeated a number of times that depends on data", FIXED)
            axes[a] = r.frozen(out.shape[a], "it is repeated a number of times that depends on data", FIXED)
            continue
        times, other = int(counts[0].ravel()[a]), int(counts[1].ravel()[a])
        if times != other:
            copies = r.frozen(times, "copies that follow the input size")
            axes[a] = r.product([(copies, True), (axes[a], r.value(0).dynamic[a])])
        elif times > 1:
            whole = axes[a].n > 1 and axes[a].frozen
            axes[a] = r.merge(r.frozen(times, "copies") if whole else r.fresh(times), axes[a])
    r.out(axes)


def fill_shape(e: Edit) -> None:
    """The shape operand names the new sizes."""
    sizes_const(e, 0)


@rule("ConstantOfShape", kind="EXPAND", edit=fill_shape)
def constant_of_shape(r: Relate) -> None:
    """A fill is as wide as its shape operand says: fixed axes are free."""
    out = r.output()
    assert out.shape is not None
    r.out([r.frozen(n, "its size changes") if d else r.fresh(n) for n, d in zip(out.shape, out.dynamic, strict=True)])


def shape_entries(e: Edit) -> None:
    """What the model computes from its sizes stays what it was: entries of cut axes keep the original size."""
    rank = len(e.in_shape(0))
    entries = range(rank)[slice(int(e.attr("start", 0)), int(e.attr("end", rank)))]
    for position, a in enumerate(entries):
        new, old = e.in_ratio(0, a)
        if e.kept(0, a) is not None:
            e.change.fixed[position] = e.in_shape(0)[a]
        elif new != old:
            e.change.regrown[position] = old, new


rule("Shape", kind="SIZES", edit=shape_entries)(no_labels)
rule("Range", "RandomNormal", "RandomUniform", kind="SIZES")(no_labels)


def element_count(e: Edit) -> None:
    """A constant number of elements stays what it was."""
    if any(e.kept(0, a) is not None for a in range(len(e.in_shape(0)))):
        e.change.fixed[0] = int(np.prod(e.in_shape(0), dtype=np.int64))


@rule("Size", kind="SIZES", edit=element_count)
def size(r: Relate) -> None:
    """The number of elements enters the computation: where it is not a constant, nothing may leave."""
    if r.node.outputs[0] not in r.graph.constants:
        r.freeze_all(0, "its number of elements is computed")
    r.out_frozen(0, "computed from sizes")
