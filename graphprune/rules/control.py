"""Control flow: what goes in and out of a body is tied to what stands inside."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.registry import rule

_DIFFERS = "its size differs between the ways through the model"


@rule("If", kind="CONTROL")
def if_(r: Relate) -> None:
    """Inputs are the condition, then the outputs of both branches: what one way loses the other loses too."""
    count = len(r.node.outputs)
    condition = r.const(0)
    for k in range(count):
        ways = [1 + k, 1 + count + k]
        if condition is not None:
            dead = ways.pop(1 if condition.ravel()[0] else 0)
            if _alike(r, dead, ways[0]):  # not taken at the probed sizes; at others it may be
                ways.append(dead)
        _join(r, ways, k)


def _alike(r: Relate, slot: int, other: int) -> bool:
    """Whether two values have the same sizes."""
    mine, theirs = (r.graph.values[r.node.inputs[s]] for s in (slot, other))
    return mine.shape is not None and mine.shape == theirs.shape


@rule("graphprune.LoopEnter", kind="CONTROL")
def loop_enter(r: Relate) -> None:
    """The turn, the condition and the carried states go into the body."""
    for slot in range(2):
        r.out_frozen(slot, "a counter of the loop")
    for slot in range(2, 2 + int(r.attr("carried"))):
        _hand(r, slot, slot)


@rule("Loop", kind="CONTROL")
def loop(r: Relate) -> None:
    """Carried states come out as they went in; slices of every turn are stacked in front."""
    carried = int(r.attr("carried"))
    after = 3 + carried  # turns, condition, states; then the body's condition
    for k in range(carried):
        _join(r, [2 + k, after + k], k)
    for k in range(carried, len(r.node.outputs)):
        _stack(r, after + k, k, 0)


@rule("graphprune.ScanEnter", kind="CONTROL")
def scan_enter(r: Relate) -> None:
    """Carried states, and one slice of every scanned input, go into the body."""
    carried, count = int(r.attr("carried")), len(r.node.inputs)
    axes = r.attr("scan_input_axes") or [0] * (count - carried)
    for slot in range(carried):
        _hand(r, slot, slot)
    for slot, axis in zip(range(carried, count), axes, strict=True):
        rank = r.rank(slot)
        r.freeze(slot, axis % rank, "a scan goes along it")
        labels = r.axes(slot)
        del labels[axis % rank]
        if _rank(r, r.node.outputs[slot]) == len(labels):
            r.out(labels, slot)
        else:
            _freeze_known(r, [slot])


@rule("Scan", kind="CONTROL")
def scan(r: Relate) -> None:
    """Carried states come out as they went in; slices of every turn are stacked along an axis."""
    if r.node.version < 9:
        raise Unsupported("Scan before opset 9 has a batch axis that its body does not see")
    carried = int(r.attr("carried"))
    after = carried + int(r.attr("num_scan_inputs"))
    places = r.attr("scan_output_axes") or [0] * (len(r.node.outputs) - carried)
    for k in range(carried):
        _join(r, [k, after + k], k)
    for k, place in zip(range(carried, len(r.node.outputs)), places, strict=True):
        _stack(r, after + k, k, int(place))


def _rank(r: Relate, name: str) -> int | None:
    """Number of axes of a value, None when it is unknown or left out."""
    shape = r.graph.values[name].shape if name else None
    return None if shape is None else len(shape)


def _hand(r: Relate, slot: int, out: int) -> None:
    """Pass a value into a body; axes that grow from turn to turn stay."""
    rank = _rank(r, r.node.inputs[slot])
    if rank is not None and rank == _rank(r, r.node.outputs[out]):
        r.out(r.axes(slot), out)
        return
    _freeze_known(r, [slot])
    r.out_frozen(out, _DIFFERS)


def _freeze_known(r: Relate, slots: Sequence[int]) -> None:
    for slot in slots:
        if _rank(r, r.node.inputs[slot]) is not None:
            r.freeze_all(slot, _DIFFERS)


def _join(r: Relate, slots: Sequence[int], out: int) -> None:
    """One output that is any of several values: axis by axis they are tied where all have one size."""
    shapes = [r.graph.values[r.node.inputs[s]].shape for s in slots]
    name = r.node.outputs[out]
    end = r.graph.values[name].shape if name else shapes[0]
    if end is None or any(s is None or len(s) != len(end) for s in shapes):
        _freeze_known(r, slots)
        r.out_frozen(out, _DIFFERS)
        return
    labels = []
    for a, size in enumerate(end):
        if any(s is not None and s[a] != size for s in shapes):
            for slot in slots:
                r.freeze(slot, a, _DIFFERS)
            labels.append(r.frozen(size, _DIFFERS))
            continue
        lead = min(slots, key=r.unlabelled)
        first = r.axis(lead, a)
        for slot in slots:
            if slot != lead:
                r.tie(slot, a, first)
        labels.append(first)
    r.out(labels, out)


def _stack(r: Relate, slot: int, out: int, axis: int) -> None:
    """The slices of all turns along a new axis."""
    name = r.node.outputs[out]
    end = r.graph.values[name].shape if name else None
    if end is None or _rank(r, r.node.inputs[slot]) != len(end) - 1:
        _freeze_known(r, [slot])
        r.out_frozen(out, _DIFFERS)
        return
    labels = r.axes(slot)
    place = axis % len(end)
    labels.insert(place, r.frozen(end[place], "turns of the loop"))
    r.out(labels, out)
