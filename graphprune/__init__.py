"""Structural pruning of exported networks: smaller dense models, with proof that nothing else changed.

import graphprune as gp
result = gp.prune("model.onnx", "small.onnx", macs="50%")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphprune.api import Result, analyze, apply, load, plan, prune, save, verify
    from graphprune.errors import GraphPruneError
    from graphprune.plan import Plan

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(("Result", "analyze", "apply", "load", "plan", "prune", "save", "verify"), "graphprune.api"),
    "GraphPruneError": "graphprune.errors",
    "Plan": "graphprune.plan",
}
__all__ = ["GraphPruneError", "Plan", "Result", "analyze", "apply", "load", "plan", "prune", "save", "verify"]


def __getattr__(name: str) -> Any:
    """Import a verb's module when it is first used, so that importing the package stays fast."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'graphprune' has no attribute {name!r}")
