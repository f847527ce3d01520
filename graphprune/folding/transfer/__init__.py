"""Bounds through operators, one family per file; an operator without a function here gives no bounds.

Operators that jump (Round, Sign, comparisons, casts to integers) are left out on purpose: a constant that the
runtime rounds differently would come out as another number.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
