"""The pruned network as a module made of its exported graph, with the sizes in it rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from graphprune.coupling.cut import Cut
from graphprune.errors import InputError
from graphprune.graph.model import Node
from graphprune.graph.torch_program import named_tensors, unlifted
from graphprune.rewrite.torch_slices import Boxes, take
from graphprune.rules.edit import COMPUTED, Change

_MODES = {"batch_norm": "training", "dropout": "train", "dropout_": "train", "feature_dropout": "train",
          "alpha_dropout": "train", "feature_alpha_dropout": "train", "instance_norm": "use_input_stats",
          "lstm": "train", "gru": "train", "rnn_tanh": "train", "rnn_relu": "train", "rrelu": "training"}  # fmt: skip


class PrunedGraph(fx.GraphModule):
    """An exported graph that can be trained: dropout and batch norms follow ``train()`` and ``eval()``."""

    def train(self, mode: bool = True) -> PrunedGraph:  # noqa: FBT001, FBT002 - the signature of nn.Module
        """Switch between training and evaluation."""
        super().train(mode)
        changed = False
        for node in self.graph.nodes:
            flag = _MODES.get(getattr(node.target, "_opname", "")) if node.op == "call_function" else None
            if flag is not None and _frozen_in_training(node) is False:
                changed |= set_argument(node, flag, mode)
        if changed:
            self.recompile()
        return self


def _frozen_in_training(node: fx.Node) -> bool:
    """Whether a node has its mode for good, as an instance norm has that keeps no running statistics."""
    return node.target._opname == "instance_norm" and argument(node, "running_mean") is None  # type: ignore[union-attr]


def argument(node: fx.Node, name: str) -> Any:
    """An argument of an operator by the name in its schema."""
    for i, found in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if found.name == name:
            return node.args[i] if i < len(node.args) else node.kwargs.get(name, found.default_value)
    raise KeyError(name)


def set_argument(node: fx.Node, name: str, value: Any) -> bool:
    """Set an argument of an operator by the name in its schema; whether that changed it."""
    if argument(node, name) == value:
        return False
    names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
    place = names.index(name)
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)
    return True


def pruned_graph(cut: Cut, boxes: Boxes) -> PrunedGraph:
    """The exported graph with sliced tensors and rewritten sizes; its tensors are its own.

    Args:
        cut: The removal; ``cut.deps.source.source`` is a ``Traced``.
        boxes: What is kept of the stored tensors.
    """
    traced = cut.deps.source.source
    whole = unlifted(traced.program)
    _slice(whole, boxes, traced.tied)
    module = PrunedGraph(whole, whole.graph, class_name=f"Pruned{type(traced.module).__name__}")
    places = {node.name: node for node in module.graph.nodes}
    for node in cut.deps.source.nodes:
        change = cut.edit(node)
        if change is not None:
            _apply(module, places[node.name], node, change)
    _trainable(module.graph)
    module.graph.lint()
    module.recompile()
    module.training = False
    return module


def _trainable(graph: fx.Graph) -> None:
    """Copies that have no gradient, as what they give: the source in the type and size of the target."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.copy.default):
        target, source = node.args[:2]
        with graph.inserting_before(node):
            cast = graph.call_function(torch.ops.aten.type_as.default, (source, target))
            wide = graph.call_function(torch.ops.aten.expand_as.default, (cast, target))
        node.replace_all_uses_with(wide)
        graph.erase_node(node)


def _slice(module: nn.Module, boxes: Boxes, tied: Mapping[str, str]) -> None:
    """Give a fresh module tensors of its own, cut where there is a box."""
    made: dict[int, Tensor] = {}
    for name, tensor in list(named_tensors(module)):
        if id(tensor) not in made:
            box = boxes.get(tied.get(name, name))
            small = take(tensor.detach(), box) if box else tensor.detach().clone()
            made[id(tensor)] = nn.Parameter(small, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else small
        path, _, last = name.rpartition(".")
        owner = module.get_submodule(path)
        store: dict[str, Any] = owner._parameters if last in owner._parameters else owner._buffers
        store[last] = made[id(tensor)]


def _apply(module: fx.GraphModule, target: fx.Node, node: Node, change: Change) -> None:
    """Carry out a rule's change on the node in the graph."""
    if change.fixed or change.regrown:
        raise InputError(f"{node.name}: this change of {node.key} is not known to graphs of PyTorch")
    change_node(target, change)
    tensors = tensor_nodes(target)
    for slot, array in change.consts.items():
        if (array == COMPUTED).any():
            raise InputError(f"{node.name}: sizes computed in the graph cannot be overridden")
        name = _free(module, f"{target.name}_kept{slot}")
        module.register_buffer(name, torch.from_numpy(array))
        with module.graph.inserting_before(target):
            target.replace_input_with(tensors[slot], module.graph.get_attr(name))
    for slot, axis, index in change.gathers:
        name = _free(module, f"{target.name}_index{slot}")
        module.register_buffer(name, torch.from_numpy(index))
        with module.graph.inserting_before(target):
            held = module.graph.get_attr(name)
            picked = module.graph.call_function(torch.ops.aten.index_select.default, (tensors[slot], axis, held))
            target.replace_input_with(tensors[slot], picked)


def tensor_nodes(target: fx.Node) -> list[fx.Node]:
    """What a node reads, by slot: tensor arguments in the order of its schema."""
    names = [a.name for a in target.target._schema.arguments]  # type: ignore[union-attr]
    given = [*target.args, *(target.kwargs[k] for k in sorted(target.kwargs, key=names.index))]
    read = [n for n in tree_leaves(given) if isinstance(n, fx.Node)]
    return [n for n in read if isinstance(n.meta.get("val"), Tensor) or n.op in ("get_attr", "placeholder")]


def change_node(target: fx.Node, change: Change) -> None:
    """Carry out what a change says of a node itself: its operator and its settings."""
    if change.op is not None:
        _become(target, *change.op)
    for name, value in change.attrs.items():
        if value is not None:
            set_argument(target, name, _merged(argument(target, name), value))


def _merged(old: Any, new: Any) -> Any:
    """New sizes, where sizes that the graph computes are left to it."""
    if not isinstance(old, list | tuple) or not isinstance(new, list | tuple) or len(old) != len(new):
        return new
    return [a if isinstance(a, fx.Node) else b for a, b in zip(old, new, strict=True)]


def _become(target: fx.Node, op: str, slots: tuple[int, ...]) -> None:
    """Make a node another operator of aten that reads some of the tensors; its settings come after."""
    name, _, overload = op.partition(".")
    target.args, target.kwargs = tuple(tensor_nodes(target)[s] for s in slots), {}
    target.target = getattr(getattr(torch.ops.aten, name), overload or "default")


def _free(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name += "_"
    return name
