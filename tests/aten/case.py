"""One operator with operands of drawn sizes, and which of their axes may be cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

_WINDOW = "HWD"  # axes that windows slide along are longer


@dataclass(frozen=True)
class Case:
    """A call of an operator.

    Attributes:
        name: What it is called in the list of tests.
        call: The call, of one tensor for each operand.
        operands: Axes of each operand as letters: equal letters have equal sizes. "(gc)" is one axis, the product of
            two; a digit is a size; "#v" in front makes indices below the size of v, "?" booleans, "+" positive numbers,
            "=" makes a parameter of it.
        stays: Letters that must stay; all others must be free, and tied where they are equal.
        sizes: Sizes of letters that are not to be drawn.
    """

    name: str
    call: Callable[..., Any]
    operands: tuple[str, ...]
    stays: str = ""
    sizes: tuple[tuple[str, int], ...] = ()

    def drawn(self, rng: np.random.Generator) -> dict[str, int]:
        """Sizes by letter, all different."""
        letters = sorted({c for o in self.operands for c in axes_text(o) if c.isalpha()})
        small, large = iter(rng.permutation(np.arange(2, 9))), iter(rng.permutation(np.arange(9, 14)))
        sizes = {c: int(next(large if c in _WINDOW else small)) for c in letters}
        return sizes | dict(self.sizes)

    def built(self, seed: int) -> tuple[nn.Module, tuple[torch.Tensor, ...], dict[str, int]]:
        """The module, its inputs, and the sizes."""
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        sizes = self.drawn(rng)
        tensors = [_tensor(o, sizes, generator) for o in self.operands]
        module = Called(self, tensors)
        return module, tuple(t for t, o in zip(tensors, self.operands, strict=True) if not o.startswith("=")), sizes


def case(name: str, call: Callable[..., Any], *operands: str, stays: str = "", **sizes: int) -> Case:
    """A case, with sizes by keyword."""
    return Case(name, call, operands, stays, tuple(sizes.items()))


def axes_text(operand: str) -> str:
    """The axes of an operand without what says its content."""
    return re.sub(r"^(#.|[?+=])", "", operand)


def tokens(operand: str) -> list[str]:
    """The axes of an operand, one each: letters, digits, products."""
    return re.findall(r"\([^)]*\)|.", axes_text(operand))


def size_of(token: str, sizes: dict[str, int]) -> int:
    """Length of an axis."""
    return int(np.prod([int(c) if c.isdigit() else sizes[c] for c in token.strip("()")]))


def _tensor(operand: str, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = [size_of(t, sizes) for t in tokens(operand)]
    if operand.startswith("#"):
        return torch.randint(sizes[operand[1]], shape, generator=generator)
    if operand.startswith("?"):
        return torch.randint(2, shape, generator=generator).bool()
    made = torch.randn(shape, generator=generator)
    return made.abs() + 0.1 if operand.startswith("+") else made


class Called(nn.Module):
    """Calls the operator; operands marked "=" are its parameters."""

    def __init__(self, one: Case, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.one = one
        for i, (tensor, operand) in enumerate(zip(tensors, one.operands, strict=True)):
            if operand.startswith("="):
                self.register_parameter(f"p{i}", nn.Parameter(tensor))

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The call."""
        rest = iter(tensors)
        return self.one.call(
            *(getattr(self, f"p{i}") if o.startswith("=") else next(rest) for i, o in enumerate(self.one.operands))
        )
