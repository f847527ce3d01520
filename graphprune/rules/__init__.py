"""Rules: what each operator says about its axes. Importing this package fills the registry."""

from graphprune.rules import concat_slice, conv, extent, gather, matmul, norm, pointwise, recurrent, reduce, reshape
from graphprune.rules.registry import Rule, all_rules, find, rule

__all__ = [
    "Rule",
    "all_rules",
    "concat_slice",
    "conv",
    "extent",
    "find",
    "gather",
    "matmul",
    "norm",
    "pointwise",
    "recurrent",
    "reduce",
    "reshape",
    "rule",
]
