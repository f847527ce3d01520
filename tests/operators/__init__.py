"""One line per operator: how it is called, which axes may lose positions, what that means."""

from tests.operators import compute, indices, layout, pointwise, quantized, special
from tests.operators.case import Case

CASES: tuple[Case, ...] = (
    *pointwise.CASES, *compute.CASES, *layout.CASES, *indices.CASES, *special.CASES, *quantized.CASES
)  # fmt: skip

__all__ = ["CASES", "Case"]
