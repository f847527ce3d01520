"""The table of operators a random graph draws from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.properties.state import State, Value

    Test = Callable[[State, Value], bool]
    Make = Callable[[State, Value], Value | list[Value]]
    Build = Callable[[State, Value], list[Value]]


@dataclass(frozen=True)
class Op:
    """A random operator: is it applicable, and how is it built.

    ``weight`` makes it more likely. ``kind`` says in which graphs it is drawn: "" in all plain ones, "stress" in those
    of the stress run only, "sequence" and "image" where these axes are dynamic.
    """

    test: Test
    build: Build
    weight: int = 1
    kind: str = ""


OPS: dict[str, Op] = {}


def op(test: Test, weight: int = 1, kind: str = "", name: str = "") -> Callable[[Make], Make]:
    """Register a builder under its own or another name."""

    def decorate(make: Make) -> Make:
        def build(s: State, v: Value) -> list[Value]:
            made = make(s, v)
            return made if isinstance(made, list) else [made]

        OPS[name or make.__name__] = Op(test, build, weight, kind)
        return make

    return decorate


def names(*kinds: str) -> tuple[str, ...]:
    """Names of the operators of some kinds."""
    return tuple(n for n, o in OPS.items() if o.kind in kinds)
