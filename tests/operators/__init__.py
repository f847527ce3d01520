"""One line per operator: how it is called, which axes may lose positions, what that means."""

from tests.operators import attention, compute, layout, pointwise
from tests.operators.case import Case

CASES: tuple[Case, ...] = (*pointwise.CASES, *compute.CASES, *layout.CASES, *attention.CASES)

__all__ = ["CASES", "Case"]
