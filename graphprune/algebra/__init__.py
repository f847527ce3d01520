"""The unit-label algebra: which positions of which axes must be removed together.

Knows no operator and no file format. A *unit* is a boolean "remove me"; an :class:`Axis` gives every position of a
tensor axis a set of units with OR meaning; the relations state what must hold between axes. Each relation replaces
its equation by a sufficient one and only ever merges, binds or freezes units, so any removal of the free units that
remain gives a consistent box for every tensor.
"""

from graphprune.algebra.axis import Axis
from graphprune.algebra.equality import eq
from graphprune.algebra.relations import concat, index, merge, product
from graphprune.algebra.splitting import split
from graphprune.algebra.units import Reason, Units

__all__ = ["Axis", "Reason", "Units", "concat", "eq", "index", "merge", "product", "split"]
