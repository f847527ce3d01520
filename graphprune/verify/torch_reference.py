"""The masked reference of a module: its captured graph, which ignores removed positions without losing them.

In front of every node that sums over an axis its removed positions are set to zero, and nodes that take statistics run
on the kept positions, their results being spread out again. Everything else stays as it was, at full width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from graphprune.coupling.box import Box
from graphprune.coupling.cut import Cut
from graphprune.graph.model import Node
from graphprune.graph.torch_program import flat_inputs, unlifted
from graphprune.graph.torch_slots import given_tensors, put_back
from graphprune.rewrite.torch_graph import change_node
from graphprune.rewrite.torch_slices import take
from graphprune.rules.context import Site


class MaskedReference(fx.Interpreter):
    """Runs the captured graph without what is removed."""

    def __init__(self, cut: Cut, state: Mapping[str, Tensor]) -> None:
        self.cut, self.traced, self.state = cut, cut.deps.source.source, state
        self.whole = unlifted(self.traced.program)
        super().__init__(self.whole)
        self.neutral = {node.name: node for node in cut.deps.source.nodes}
        self.sites: dict[str, list[Site]] = {}
        for site in cut.deps.sites:
            if cut.kept(self.neutral[site.node].inputs[site.slot], site.axis) is not None:
                self.sites.setdefault(site.node, []).append(site)
        self._boxes: dict[str, Box] = {}

    def __call__(self, args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
        """All tensors that the module returns, at full width."""
        with torch.no_grad():
            return tensors(self.run(*flat_inputs(self.whole, args, kwargs), enable_io_processing=False))

    def fetch_attr(self, target: str) -> Any:
        """A stored tensor, from the state where that has it."""
        name = self.traced.tied.get(target, target)
        found = self.state.get(name)
        return super().fetch_attr(target) if found is None else found.clone()

    def run_node(self, n: fx.Node) -> Any:
        """Run a node as it would run were the removed positions not there."""
        sites = self.sites.get(n.name, ())
        if not sites:
            return super().run_node(n)
        node = self.neutral[n.name]
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        given = given_tensors(n, args, kwargs)
        if any(s.mode == "restrict" for s in sites):
            return self._restricted(n, node, given)
        changed = {slot: self._masked(node, given[slot], [s for s in sites if s.slot == slot]) for slot in given}
        args, kwargs = put_back(n, args, kwargs, changed)
        return n.target(*args, **kwargs)  # type: ignore[operator]

    def box(self, name: str, rank: int) -> Box:
        """What is kept of a value."""
        if name not in self._boxes:
            self._boxes[name] = self.cut.box(name, rank)
        return self._boxes[name]

    def _masked(self, node: Node, value: Tensor, sites: Sequence[Site]) -> Tensor:
        """An operand with zeros at the removed positions of the axes that are summed over."""
        box = self.box(node.inputs[sites[0].slot], value.ndim) if sites else Box({})
        for axis in {s.axis for s in sites}:
            mask = _kept_mask(box, axis, value)
            value = torch.where(mask, value, torch.zeros((), dtype=value.dtype, device=value.device))
        return value

    def _restricted(self, n: fx.Node, node: Node, given: Mapping[int, Tensor]) -> Any:
        """The results of a node on kept positions, spread out to full width; what lands on others is noise."""
        small = {slot: take(value, self.box(node.inputs[slot], value.ndim)) for slot, value in given.items()}
        change = self.cut.edit(node)
        graph = fx.Graph()
        copy = graph.node_copy(n, lambda old: graph.placeholder(old.name))
        if change is not None:
            change_node(copy, change)
        args, kwargs = put_back(copy, *self._settings(n, copy), small)
        made = copy.target(*args, **kwargs)  # type: ignore[operator]
        outputs = made if isinstance(made, tuple | list) else [made]
        wide = [
            spread(value, self.box(name, value.ndim), self.cut.deps.source.values[name].shape or ())
            if name and isinstance(value, Tensor)
            else value
            for name, value in zip(node.outputs, outputs, strict=False)
        ]
        return type(made)(wide) if isinstance(made, tuple | list) else wide[0]

    def _settings(self, n: fx.Node, copy: fx.Node) -> tuple[Any, Any]:
        """Arguments of the edited node, with what the original one reads."""
        values = {c: self.env[o] for c, o in zip(copy.all_input_nodes, n.all_input_nodes, strict=True)}
        return fx.map_arg((copy.args, dict(copy.kwargs)), lambda m: values[m])


def _kept_mask(box: Box, axis: int, value: Tensor) -> Tensor:
    """True at kept positions of an axis, broadcastable to the value."""
    size, shape = value.shape[axis], [1] * value.ndim
    if axis in box.ragged:
        block, lists = box.ragged[axis]
        rows = lists[np.arange(value.shape[block]) % len(lists)]
        table = np.zeros((len(rows), size), np.bool_)
        np.put_along_axis(table, rows, values=True, axis=1)
        shape[block], shape[axis] = table.shape
        return (
            torch.from_numpy(table if block < axis else np.ascontiguousarray(table.T)).reshape(shape).to(value.device)
        )
    mask = np.zeros(size, np.bool_)
    mask[box.axes[axis]] = True
    shape[axis] = size
    return torch.from_numpy(mask).reshape(shape).to(value.device)


def spread(value: Tensor, box: Box, shape: Sequence[int]) -> Tensor:
    """Kept elements back in their places in a tensor of the full shape."""
    for axis, kept in box.axes.items():
        if axis in box.ragged:
            continue
        index = np.zeros(shape[axis], np.int64)
        index[kept] = np.arange(len(kept))
        value = value.index_select(axis, torch.from_numpy(index).to(value.device))
    for axis, (block, lists) in box.ragged.items():
        index = np.zeros((len(lists), shape[axis]), np.int64)
        np.put_along_axis(index, lists, np.arange(lists.shape[1])[None], axis=1)
        value = take(value, Box({axis: index[0]}, {axis: (block, index)}))
    return value


def tensors(value: Any) -> list[Tensor]:
    """The tensors in an output."""
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]
