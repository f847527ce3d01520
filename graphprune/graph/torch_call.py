"""Running one operator of PyTorch's by what a neutral node says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from graphprune.graph.blackbox import CannotProbe
from graphprune.graph.model import Array, Node
from graphprune.graph.torch_types import array_of


def operator_named(domain: str, op: str) -> Any:
    """The operator behind a node's domain and type: ("aten", "conv2d.default")."""
    name, _, overload = op.partition(".")
    return getattr(getattr(getattr(torch.ops, domain), name), overload or "default")


def call(domain: str, op: str, attrs: Mapping[str, Any], operands: Sequence[torch.Tensor]) -> list[Any]:
    """Results of an operator.

    Args:
        domain: Its namespace.
        op: Its name with overload.
        attrs: Arguments by name, those that are tensors under "slots".
        operands: Tensors by slot.
    """
    target = operator_named(domain, op)
    slots = attrs["slots"]
    kwargs = {
        a.name: _tensors(slots[a.name], operands) if a.name in slots else _setting(attrs[a.name], str(a.type))
        for a in target._schema.arguments
        if a.name in slots or a.name in attrs
    }
    made = target(**kwargs)
    return list(made) if isinstance(made, list | tuple) else [made]


def _tensors(slots: Any, operands: Sequence[torch.Tensor]) -> Any:
    if isinstance(slots, list):
        return [_tensors(s, operands) for s in slots]
    return None if slots is None else operands[slots]


def _setting(value: Any, kind: str) -> Any:
    """Names of element types, devices and layouts as torch's own."""
    if not isinstance(value, str) or kind.startswith(("str", "Optional[str")):
        return value
    return getattr(torch, value) if hasattr(torch, value) else torch.device("cpu")


class TorchBox:
    """Runs one node on any inputs; see :class:`graphprune.graph.blackbox.BlackBox`."""

    def __init__(self, node: Node) -> None:
        self.domain, self.op, self.attrs = node.domain, node.op, dict(node.attrs)
        self.outputs = [bool(o) for o in node.outputs]

    def __call__(self, inputs: Sequence[Array | None]) -> list[Array | None]:
        """Outputs by slot, None for those not wanted.

        Raises:
            CannotProbe: It does not run.
        """
        try:
            with torch.no_grad():
                operands = [torch.from_numpy(np.array(a)) for a in inputs if a is not None]
                made = call(self.domain, self.op, self.attrs, operands)
        except Exception as error:
            raise CannotProbe(" ".join(str(error).split())[:300]) from None
        return [array_of(t) if used else None for t, used in zip(made, self.outputs, strict=True)]
