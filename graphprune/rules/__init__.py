"""Rules: what each operator says about its axes. Importing this package fills the registry."""

from importlib import import_module
from pkgutil import iter_modules

from graphprune.rules.registry import Rule, all_rules, find, has_rule, rule

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Rule", "all_rules", "find", "has_rule", "rule"]
