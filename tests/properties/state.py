"""What a random graph under construction knows: live tensors, their shapes, weights to share."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.graphs.builder import Builder

T = TypeVar("T")
Shape = tuple[int, ...]

MAX_ELEMENTS = 4096
MAX_AXIS = 48
MAX_RANK = 5
MAX_DEGREE = 6
SIZES = (2, 3, 4, 6, 12, 8, 9, 10, 5, 7)


@dataclass(frozen=True)
class Value:
    """A live tensor. ``degree`` bounds its growth: products add degrees, bounded functions reset them."""

    name: str
    shape: Shape
    degree: int = 1

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class State:
    """The builder, the draw function, and the pool of live tensors.

    With ``dynamic`` axis 0 is a symbolic batch: it stays in front, and no constant may name its size.
    """

    draw: st.DrawFn
    b: Builder
    dynamic: bool
    tied_weights: bool
    shared_bias: bool
    pool: list[Value] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    matrices: list[tuple[str, int, int]] = field(default_factory=list)
    kernels: list[tuple[str, Shape]] = field(default_factory=list)
    vectors: list[tuple[str, int]] = field(default_factory=list)

    # -- draws ----------------------------------------------------------------------------------
    def pick(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(options))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def shuffled(self, options: Iterable[T]) -> list[T]:
        return list(self.draw(st.permutations(list(options))))

    def size(self, *more: int) -> int:
        """A channel count: one of ``more`` or of the biases there are (ties become likely), or any other."""
        known = (*more, *(n for _, n in self.vectors[-3:]))
        return self.pick((*(n for n in known if 2 <= n <= 12), *SIZES))

    # -- axes -----------------------------------------------------------------------------------
    @property
    def first(self) -> int:
        """The first axis that ops may touch."""
        return 1 if self.dynamic else 0

    def axes(self, v: Value, low: int = 1) -> list[int]:
        """The axes that ops may touch, of at least ``low`` positions; last one first."""
        return [i for i in reversed(range(self.first, v.rank)) if v.shape[i] >= low]

    def target(self, shape: Shape) -> Shape:
        """A Reshape target: the symbolic batch is copied."""
        return (0, *shape[1:]) if self.dynamic else shape

    # -- values ---------------------------------------------------------------------------------
    def add(self, op_type: str, v: Value, *inputs: str, shape: Shape, degree: int = 0, **attrs: Any) -> Value:
        """One node on ``v`` and more inputs; it keeps the degree of ``v`` unless told."""
        return Value(self.b.op(op_type, v.name, *inputs, **attrs), shape, degree or v.degree)

    def bias(self, n: int) -> str:
        """A 1-D bias, perhaps one that another node has."""
        old = [name for name, size in self.vectors if size == n]
        if self.shared_bias and old and self.flag():
            return self.pick(old)
        name = self.b.weight(n, name=self.b.fresh("bias"))
        self.vectors.append((name, n))
        return name

    def matrix(self, n_in: int) -> tuple[str, int]:
        """A [n_in, n_out] weight and n_out, perhaps one in use already, as it is or transposed."""
        if self.tied_weights:
            old = [(name, n, False) for name, m, n in self.matrices if m == n_in]
            old += [(name, m, True) for name, m, n in self.matrices if n == n_in]
            if old and self.flag():
                name, n_out, flipped = self.pick(old)
                return self.b.transpose(name, 1, 0) if flipped else name, n_out
        n_out = n_in if n_in in SIZES and self.flag() else self.size()
        name = self.b.weight(n_in, n_out, fan_in=n_in, name=self.b.fresh("matrix"))
        self.matrices.append((name, n_in, n_out))
        return name, n_out

    def kernel(self, shape: Shape, fan_in: int) -> str:
        """A convolution weight, perhaps one of the same shape in use already."""
        old = [name for name, other in self.kernels if other == shape]
        if self.tied_weights and old and self.flag():
            return self.pick(old)
        name = self.b.weight(*shape, fan_in=fan_in, name=self.b.fresh("kernel"))
        self.kernels.append((name, shape))
        return name

    def leaves(self) -> list[Value]:
        """Live tensors that no node reads."""
        read = {i for node in self.b.nodes for i in node.input}
        return [v for v in self.pool if v.name not in read]


@dataclass
class Seeded(State):
    """A state that draws from a seed, many times faster than hypothesis does."""

    rng: random.Random = field(default_factory=random.Random)

    def pick(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def flag(self) -> bool:
        return self.rng.random() < 0.5

    def shuffled(self, options: Iterable[T]) -> list[T]:
        out = list(options)
        self.rng.shuffle(out)
        return out


def replace(shape: Shape, axis: int, *sizes: int) -> Shape:
    """``shape`` with ``sizes`` in the place of one axis."""
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def fits(shape: Shape) -> bool:
    """Is a tensor of this shape small enough?"""
    return prod(shape) <= MAX_ELEMENTS and len(shape) <= MAX_RANK and max(shape, default=1) <= MAX_AXIS


def broadcast(one: Shape, two: Shape) -> Shape | None:
    """The common shape of two operands, if there is one."""
    rank = max(len(one), len(two))
    one, two = (1,) * (rank - len(one)) + one, (1,) * (rank - len(two)) + two
    if any(m != n and 1 not in (m, n) for m, n in zip(one, two, strict=True)):
        return None
    return tuple(max(m, n) for m, n in zip(one, two, strict=True))
