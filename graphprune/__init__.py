"""Structural pruning of exported networks: smaller dense models, with proof that nothing else changed.

import graphprune as gp
result = gp.prune("model.onnx", "small.onnx", macs="50%")
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphprune.api import Result, analyze, apply, load, plan, prune, save, slice_optimizer, trace, verify
    from graphprune.calibration import samples
    from graphprune.checkpoints import channel_map, restore, scatter
    from graphprune.errors import GraphPruneError
    from graphprune.family import family
    from graphprune.graph.custom import custom_ops
    from graphprune.plan import Plan
    from graphprune.report.profile import profile
    from graphprune.rules.custom import register
    from graphprune.space import Space

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(("Result", "analyze", "apply", "load", "plan", "prune", "save", "verify"), "graphprune.api"),
    **dict.fromkeys(("slice_optimizer", "trace"), "graphprune.api_torch"),
    **dict.fromkeys(("channel_map", "restore", "scatter"), "graphprune.checkpoints"),
    "Space": "graphprune.space",
    "family": "graphprune.family",
    "GraphPruneError": "graphprune.errors",
    "Plan": "graphprune.plan",
    "custom_ops": "graphprune.graph.custom",
    "profile": "graphprune.report.profile",
    "register": "graphprune.rules.custom",
    "samples": "graphprune.calibration",
}
__all__ = [
    "GraphPruneError",
    "Plan",
    "Result",
    "Space",
    "analyze",
    "apply",
    "channel_map",
    "custom_ops",
    "family",
    "load",
    "plan",
    "profile",
    "prune",
    "register",
    "restore",
    "samples",
    "save",
    "scatter",
    "slice_optimizer",
    "trace",
    "verify",
]


class _Package(ModuleType):
    """Keeps the verbs ``plan`` and ``verify`` from being hidden by the modules of the same names."""

    def __setattr__(self, name: str, value: Any) -> None:
        """The import system sets submodules as attributes; those named like a verb are left out."""
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Import a verb's module when it is first used, so that importing the package stays fast."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'graphprune' has no attribute {name!r}")
