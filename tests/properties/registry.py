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
    """A random operator: is it applicable, and how is it built; ``weight`` makes it more likely."""

    test: Test
    build: Build
    weight: int = 1


OPS: dict[str, Op] = {}


def op(test: Test, weight: int = 1) -> Callable[[Make], Make]:
    """Register a builder under its name."""

    def decorate(make: Make) -> Make:
        def build(s: State, v: Value) -> list[Value]:
            made = make(s, v)
            return made if isinstance(made, list) else [made]

        OPS[make.__name__] = Op(test, build, weight)
        return make

    return decorate
