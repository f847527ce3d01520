"""Modules as something to ask: feeds by placeholder name go in, arrays come out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array
from graphprune.graph.run import CannotRun
from graphprune.graph.torch import Traced
from graphprune.graph.torch_feed import Call
from graphprune.graph.torch_types import array_of
from graphprune.verify.answers import Answers
from graphprune.verify.inner import box
from graphprune.verify.torch import evaluated
from graphprune.verify.torch_reference import tensors


def module_answers(traced: Traced, module: nn.Module | None, cut: Cut | None) -> Answers:
    """The outputs of a module for any feed of the original; see :func:`graphprune.verify.answers.answers`."""
    call, asked = Call(traced), traced.module if module is None else module

    def run(feed: Mapping[str, Array]) -> list[Array]:
        args, kwargs = call(feed if cut is None else {k: box(cut, k, v) for k, v in feed.items()})
        try:
            with torch.no_grad(), evaluated(asked):
                return [array_of(t) for t in tensors(asked(*args, **kwargs))]
        except Exception as error:  # whatever a forward may raise
            raise CannotRun(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error

    return run
