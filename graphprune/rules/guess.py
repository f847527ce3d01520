"""The guesser: what an operator couples, found by running it.

An input axis may be cut only where the operator was seen to treat its positions one by one: whatever set of
positions is changed, exactly these move in some axis of every output it reaches. And the claim is tried: the
operator is run on what is left of its inputs and must give what is left of its outputs. Whatever is not clear stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphprune.algebra import Axis
from graphprune.graph.blackbox import BlackBox, CannotProbe, sample
from graphprune.graph.model import Array
from graphprune.rules.context import Relate, Unsupported
from graphprune.rules.registry import Relation

Mask = NDArray[np.bool_]
Place = tuple[int, int]  # slot and axis


class Runs(Protocol):
    """An operator as a black box."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Its attributes."""

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        """Outputs by slot."""


ROUNDS = 4
OTHERS = 8
TRIALS = 3
SECONDS = 30.0
MAX_ELEMENTS = 1 << 24
_TOLERANCE = 1e-5
_STAYS = "running the operator did not show that its positions are independent"


@dataclass(frozen=True, slots=True)
class Coupled:
    """Input and output axes whose positions leave together."""

    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]


def guessed() -> Relation:
    """A relation that runs the operator; equal nodes are probed once."""
    memo: dict[str, tuple[Coupled, ...]] = {}

    def relate(r: Relate) -> None:
        if r.node.captures:
            raise Unsupported("its relation cannot be guessed: it reads values of the outer graph")
        probe = _Probe.of(r)
        key = repr(probe.signature)
        if key not in memo:
            try:
                memo[key] = tuple(probe.find())
            except CannotProbe as error:
                raise Unsupported(f"its relation cannot be guessed: it does not run alone: {error}") from None
        _state(r, memo[key])

    return relate


def _state(r: Relate, found: Sequence[Coupled]) -> None:
    """Tie what was found, freeze the rest."""
    free = {place for c in found for place in c.inputs}
    for slot in range(len(r.node.inputs)):
        for a in range(r.rank(slot)) if r.has(slot) else ():
            if (slot, a) not in free and r.node.inputs[slot] not in r.graph.constants:
                r.freeze(slot, a, _STAYS)
    labels: dict[Place, Axis] = {}
    for c in found:
        lead, *others = sorted(c.inputs, key=lambda place: r.unlabelled(place[0]))
        axis = r.axis(*lead)
        for slot, a in others:
            r.tie(slot, a, axis)
        labels |= dict.fromkeys(c.outputs, axis)
    for slot, name in enumerate(r.node.outputs):
        if name:
            shape = r.output(slot).shape
            assert shape is not None
            r.out([labels.get((slot, a)) or r.frozen(n, _STAYS) for a, n in enumerate(shape)], slot)


@dataclass
class _Probe:
    """One node with inputs to try."""

    box: Runs
    shapes: tuple[tuple[int, ...] | None, ...]
    dtypes: tuple[str, ...]
    fixed: Mapping[int, Array]
    open: tuple[Place, ...]
    signature: Any

    @classmethod
    def of(cls, r: Relate) -> _Probe:
        slots = range(len(r.node.inputs))
        names = r.node.inputs
        fixed = {s: np.asarray(r.graph.constants[names[s]]) for s in slots if names[s] in r.graph.constants}
        shapes = tuple(r.shape(s) if r.has(s) else None for s in slots)
        if any(d < 0 for shape in shapes for d in shape or ()):
            raise Unsupported("its relation cannot be guessed: the size of an input is unknown")
        if sum(int(np.prod(shape or (0,), dtype=np.int64)) for shape in shapes) > MAX_ELEMENTS:
            raise Unsupported("its relation cannot be guessed: its inputs are too large")
        dtypes = tuple(r.value(s).dtype if r.has(s) else "" for s in slots)
        places = tuple(
            (s, a)
            for s in slots
            if r.has(s) and s not in fixed
            for a, n in enumerate(r.shape(s))
            if n > 1 and not r.value(s).dynamic[a]
        )
        used = [bool(o) for o in r.node.outputs]
        own = getattr(r.graph.source, "black_box", None)  # an operator of another format than ONNX
        box = own(r.node) if own else BlackBox(r.graph.source, r.node.domain, r.node.op, r.node.attrs, used, fixed)
        content = [(s, a.dtype.str, a.shape, a.tobytes()) for s, a in fixed.items()]
        attrs = sorted(
            (k, np.asarray(v).tobytes() if isinstance(v, np.ndarray) else repr(v)) for k, v in box.attrs.items()
        )
        return cls(box, shapes, dtypes, fixed, places, (r.node.key, attrs, shapes, dtypes, content, places, used))

    @cached_property
    def contents(self) -> list[list[list[Array | None]]]:
        """Per round, inputs to start from and others to change to: normal, large, positive and small numbers."""
        rng = np.random.default_rng(0)
        return [
            [
                [
                    None if shape is None else self.fixed.get(s, sample(rng, self.dtypes[s], shape, k))
                    for s, shape in enumerate(self.shapes)
                ]
                for _ in range(1 + OTHERS)
            ]
            for k in range(ROUNDS)
        ]

    def find(self) -> Iterator[Coupled]:
        """Axes that may be cut together.

        Raises:
            CannotProbe: The operator does not run.
        """
        start = time.monotonic()
        plain = [self.box(self.contents[k][0]) for k in range(ROUNDS)]
        again = self.box(self.contents[0][0])
        if any(_moved(a, b) is None or np.any(_moved(a, b)) for a, b in _pairs(plain[0], again)):
            raise CannotProbe("it gives different results on equal inputs")
        reach: dict[Place, set[Place]] = {}
        for place in self.open:
            if time.monotonic() - start > SECONDS:
                raise CannotProbe(f"it takes more than {SECONDS:.0f} s")
            found = self._reached(place, plain)
            if found:
                reach[place] = found
        tried = [c for c in _components(reach) if all(self._holds([c], plain, seed) for seed in range(TRIALS))]
        if tried and all(self._holds(tried, plain, seed) for seed in range(TRIALS)):
            yield from tried

    def _reached(self, place: Place, plain: Sequence[list[Array | None]]) -> set[Place]:
        """Output axes whose positions move exactly as those of an input axis; empty where anything else moves."""
        slot, axis = place
        shape = self.shapes[slot]
        assert shape is not None
        n = shape[axis]
        outs = [(o, b) for o, a in enumerate(plain[0]) if a is not None for b in range(a.ndim) if a.shape[b] == n]
        seen = {one: np.zeros(n, bool) for one in outs}
        touched: set[int] = set()
        for k, j, mask in ((k, j, m) for k in range(ROUNDS) for j, m in enumerate(_masks(n))):
            inputs: list[Any] = list(self.contents[k][0])
            shaped = mask.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            inputs[slot] = np.where(shaped, self.contents[k][1 + j % OTHERS][slot], inputs[slot])
            try:
                made = self.box(inputs)
            except CannotProbe:
                return set()
            for o, (before, after) in enumerate(zip(plain[k], made, strict=True)):
                if before is None or after is None:
                    continue
                moved = _moved(before, after)
                if moved is None:
                    return set()
                if moved.any():
                    touched.add(o)
                for b in [b for other, b in seen if other == o]:
                    where = moved.any(axis=tuple(a for a in range(moved.ndim) if a != b))
                    if (where & ~mask).any():
                        del seen[o, b]
                    else:
                        seen[o, b] |= where
        good = {one for one, where in seen.items() if where.all()}
        return good if touched and touched == {o for o, _ in good} else set()

    def _holds(self, parts: Sequence[Coupled], plain: Sequence[list[Array | None]], seed: int) -> bool:
        """Whether the operator, run on a part of its inputs, gives that part of its outputs."""
        rng = np.random.default_rng(seed)
        k = seed % ROUNDS
        inputs: list[Any] = list(self.contents[k][0])
        wanted: list[Any] = list(plain[k])
        for part in parts:
            slot, axis = part.inputs[0]
            n = (self.shapes[slot] or ())[axis]
            kept = np.sort(rng.permutation(n)[: rng.integers(1, n)])
            for s, a in part.inputs:
                inputs[s] = np.take(inputs[s], kept, axis=a)
            for o, a in part.outputs:
                wanted[o] = np.take(wanted[o], kept, axis=a)
        try:
            made = self.box(inputs)
        except CannotProbe:
            return False
        return all(_close(a, b) for a, b in _pairs(wanted, made))


def _masks(n: int) -> Iterator[Mask]:
    """Sets of positions that tell any two apart, with their complements: two per binary digit."""
    positions = np.arange(n)
    for bit in range(max(1, int(n - 1).bit_length())):
        mask = (positions >> bit) & 1 == 1
        yield mask
        yield ~mask


def _moved(one: Array | None, two: Array | None) -> Mask | None:
    """Bool per element, bit for bit but for NaN; None for other shapes or types."""
    if one is None or two is None or one.shape != two.shape or one.dtype != two.dtype:
        return None
    same = one == two
    if one.dtype.kind in "fc":
        same = same | (np.isnan(one) & np.isnan(two))
    return np.atleast_1d(~same) if one.ndim == 0 else np.asarray(~same)


def _pairs(one: Sequence[Array | None], two: Sequence[Array | None]) -> list[tuple[Array, Array]]:
    return [(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None]


def _close(one: Array, two: Array) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, two))
    return bool(np.allclose(one, two, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))


def _components(reach: Mapping[Place, set[Place]]) -> list[Coupled]:
    """Input axes that share output axes, joined."""
    parts: list[tuple[set[Place], set[Place]]] = []
    for place, outs in reach.items():
        inputs, outputs = {place}, set(outs)
        for part in [p for p in parts if p[1] & outs]:
            parts.remove(part)
            inputs |= part[0]
            outputs |= part[1]
        parts.append((inputs, outputs))
    return [Coupled(tuple(sorted(i)), tuple(sorted(o))) for i, o in parts]
