"""What differs between the kinds of models: how they are rewritten, verified, marked and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import onnx_ir as ir

from graphprune.coupling.cut import Cut
from graphprune.graph.model import Graph
from graphprune.graph.sizes import file_bytes
from graphprune.plan import Plan
from graphprune.rewrite.files import stamp
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import Verdict
from graphprune.verify.fitted import verify_file


class Stamp(Protocol):
    """Notes a plan in a pruned model."""

    def __call__(self, model: Any, plan: Plan, *, verified: bool) -> None:
        """Note the plan and whether the model was proved right."""


@dataclass(frozen=True)
class Dialect:
    """One kind of model.

    Attributes:
        rewrite: Makes the pruned model of a cut.
        verify: Compares a cut's pruned model with the masked original; keywords feeds, samples, seed, lossless.
        stamp: Notes a plan in a model.
        file_bytes: Bytes that a model takes when written.
    """

    rewrite: Callable[[Cut], Any]
    verify: Callable[..., Verdict]
    stamp: Stamp
    file_bytes: Callable[[Any], int]


def dialect_of(graph: Graph) -> Dialect:
    """The kind of model that a graph was read from."""
    if isinstance(graph.source, ir.Model):
        return Dialect(rewrite, verify_file, stamp, file_bytes)
    from graphprune.rewrite import torch as rewriter
    from graphprune.verify.torch import verify_module

    return Dialect(rewriter.rewrite, verify_module, rewriter.stamp, rewriter.stored_bytes)
