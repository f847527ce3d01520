"""The unit-label algebra: which positions of which axes must be removed together.

Knows no operator and no file format. A *unit* is a boolean "remove me"; an :class:`Axis` gives every
position of a tensor axis a set of units with OR meaning; :mod:`relations` states what must hold between axes.
"""

from graphprune.algebra.axis import Axis
from graphprune.algebra.relations import concat, eq, index, merge, product, split
from graphprune.algebra.units import Reason, Units

__all__ = ["Axis", "Reason", "Units", "concat", "eq", "index", "merge", "product", "split"]
