"""One line per operator: how it is called, which axes may lose positions, what that means."""

from tests.operators import attention, compute, indices, layout, pointwise, quantized, special
from tests.operators.case import Case

_TABLES = (pointwise, compute, layout, indices, special, attention, quantized)
CASES: tuple[Case, ...] = tuple(one for table in _TABLES for one in table.CASES)

__all__ = ["CASES", "Case"]
