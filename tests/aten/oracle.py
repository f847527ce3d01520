"""Runs a traced graph node by node, whole and masked beside cut; knows torch and the schemas of its operators alone.

Every removed position of the whole graph stays alive: it is masked only where a node sums over it. Where a node takes
statistics it runs on what is kept, and random numbers take the place of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from graphprune.coupling.cut import Cut
from graphprune.coupling.groups import DependencyGraph
from graphprune.graph.model import Node
from graphprune.rules.edit import Change

_PLAIN = {"bool": torch.bool, "int64": torch.int64, "int32": torch.int32, "float16": torch.float16}


@dataclass
class Run:
    """Values of both runs by name, the largest relative difference of an output, and whether all are finite."""

    whole: dict[str, torch.Tensor] = field(default_factory=dict)
    cut: dict[str, torch.Tensor] = field(default_factory=dict)
    error: float = 0.0
    finite: bool = True


def random_units(deps: DependencyGraph, rng: np.random.Generator, share: float = 0.4) -> np.ndarray:
    """Units to remove: a random share of each group, so that no axis loses all of its positions."""
    gone = [rng.choice(g.units, rng.integers(0, max(int(g.size * share), 1) + 1), replace=False) for g in deps.groups]
    return _legal(deps, np.concatenate(gone) if gone else np.zeros(0, np.int64))


def any_units(deps: DependencyGraph, rng: np.random.Generator, share: float = 0.4) -> np.ndarray:
    """Units to remove, also such as lie on no weight."""
    axes = [a.units for axes in deps.types.values() for a in axes if a is not None and a.units is not None]
    ids = np.unique(np.concatenate([u.ravel() for u in axes])) if axes else np.zeros(0, np.int64)
    ids = ids[ids > 0]
    return _legal(deps, ids[rng.random(len(ids)) < share])


def _legal(deps: DependencyGraph, units: np.ndarray) -> np.ndarray:
    """Units without those that would empty an axis."""
    axes = {id(a): a for axes in deps.types.values() for a in axes if a is not None and a.units is not None}
    for _ in range(20):
        removed = np.zeros(deps.state.store.count, bool)
        removed[units] = True
        empty = [a for a in axes.values() if removed[a.units].any(axis=1).all()]
        if not empty:
            return units
        units = np.setdiff1d(units, np.concatenate([a.units.ravel() for a in empty]))
    return units[:0]


def run(deps: DependencyGraph, cut: Cut, inputs: Mapping[str, torch.Tensor], seed: int = 0) -> Run:
    """Run the graph whole and masked, and cut, on the same inputs.

    Args:
        deps: The analysed graph of a module.
        cut: What is removed.
        inputs: Content of the graph inputs by name.
        seed: For the numbers that take the place of removed positions.
    """
    graph, out = deps.source, Run()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in graph.weights.items():
        out.whole[name] = torch.from_numpy(np.array(weight.read()))
    out.whole |= {n: torch.from_numpy(np.array(a)) for n, a in graph.constants.items()}
    out.whole |= dict(inputs)
    out.cut = {n: kept(cut, n, t) for n, t in out.whole.items()}
    last = {name: node.name for node in graph.nodes for name in node.inputs}
    for node in graph.nodes:
        if all(o in graph.constants for o in node.outputs if o):
            continue
        change = cut.edit(node) or Change()
        made = call(node, [out.cut[n] for n in node.inputs], change)
        for name, tensor in zip(node.outputs, made, strict=True):
            if name:
                out.cut[name] = tensor
                want = [len(k) if (k := cut.kept(name, a)) is not None else n for a, n in enumerate(_shape(deps, name))]
                assert list(tensor.shape) == want, f"{node.name} {node.key}: {list(tensor.shape)}, not {want}"
        out.whole |= _reference(deps, cut, node, change, out.whole, generator)
        for name in {*node.inputs} - {*graph.outputs}:
            if last[name] == node.name:  # memory
                del out.whole[name], out.cut[name]
    for name in graph.outputs:
        _compare(out, kept(cut, name, out.whole[name]), out.cut[name])
    return out


def _compare(out: Run, mine: torch.Tensor, other: torch.Tensor) -> None:
    """Note the relative difference of an output."""
    assert mine.shape == other.shape
    if not mine.is_floating_point():
        assert torch.equal(mine, other)
        return
    alive = mine.isfinite()
    assert torch.equal(alive, other.isfinite())
    out.finite &= bool(alive.all())
    if alive.any():
        scale = mine[alive].abs().max().clamp_min(1e-6)
        out.error = max(out.error, float((mine - other)[alive].abs().max() / scale))


def _shape(deps: DependencyGraph, name: str) -> Sequence[int]:
    return deps.source.values[name].shape or ()


def kept(cut: Cut, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """What is kept of a tensor."""
    for a in range(tensor.dim()):
        positions = cut.kept(name, a)
        if positions is not None:
            tensor = tensor.index_select(a, torch.from_numpy(positions))
    return tensor


def _reference(
    deps: DependencyGraph,
    cut: Cut,
    node: Node,
    change: Change,
    values: Mapping[str, torch.Tensor],
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """What the whole node makes of masked operands; of what is kept, where it takes statistics."""
    sites = [s for s in deps.sites if s.node == node.name and cut.kept(node.inputs[s.slot], s.axis) is not None]
    operands = [values[n] for n in node.inputs]
    if any(s.mode == "restrict" for s in sites):
        small = call(node, [kept(cut, n, t) for n, t in zip(node.inputs, operands, strict=True)], change)
        return {n: _spread(deps, cut, n, t, generator) for n, t in zip(node.outputs, small, strict=True) if n}
    for site in sites:
        mask = torch.zeros(operands[site.slot].shape[site.axis], dtype=torch.bool)
        mask[torch.from_numpy(cut.kept(node.inputs[site.slot], site.axis))] = True
        shape = [-1 if a == site.axis else 1 for a in range(operands[site.slot].dim())]
        operands[site.slot] = operands[site.slot].masked_fill(~mask.view(shape), 0)
    return {n: t for n, t in zip(node.outputs, call(node, operands, Change()), strict=True) if n}


def _spread(
    deps: DependencyGraph, cut: Cut, name: str, small: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """A tensor of the whole size with random numbers where nothing is kept."""
    out = torch.randn(tuple(_shape(deps, name)), generator=generator).to(small.dtype)
    if not out.dim():
        return small
    index = [torch.from_numpy(k) if (k := cut.kept(name, a)) is not None else torch.arange(n)
             for a, n in enumerate(out.shape)]  # fmt: skip
    out[torch.meshgrid(*index, indexing="ij")] = small
    return out


def call(node: Node, operands: Sequence[torch.Tensor], change: Change) -> list[torch.Tensor]:
    """Run one node with its attributes changed; tensors are never written to."""
    operands = [t.clone() for t in operands]
    for slot, axis, index in change.gathers:
        operands[slot] = operands[slot].index_select(axis, torch.from_numpy(index))
    for slot, array in change.consts.items():
        operands[slot] = torch.from_numpy(np.ascontiguousarray(array))
    attrs: dict[str, Any] = {**node.attrs, **change.attrs}
    op = node.op
    if change.op is not None:
        op = change.op[0]
        first = next(iter(getattr(torch.ops, node.domain).__getattr__(op.split(".")[0]).default._schema.arguments))
        attrs["slots"] = {first.name: change.op[1][0]}
    name, _, overload = op.partition(".")
    target = getattr(getattr(getattr(torch.ops, node.domain), name), overload or "default")
    kwargs = {}
    for argument in target._schema.arguments:
        if argument.name in attrs["slots"]:
            kwargs[argument.name] = _filled(attrs["slots"][argument.name], operands)
        elif argument.name in attrs:
            kwargs[argument.name] = _typed(attrs[argument.name], str(argument.type))
    made = target(**kwargs)
    return list(made) if isinstance(made, list | tuple) else [made]


def _filled(slots: Any, operands: Sequence[torch.Tensor]) -> Any:
    if isinstance(slots, list):
        return [_filled(s, operands) for s in slots]
    return None if slots is None else operands[slots]


def _typed(value: Any, kind: str) -> Any:
    """Names of element types, layouts and the like as torch's own."""
    if isinstance(value, str) and value.split(":")[0] in ("cpu", "meta"):
        return torch.device("cpu")
    if isinstance(value, str) and hasattr(torch, value) and "str" not in kind:
        return getattr(torch, value)
    return value
