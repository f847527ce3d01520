"""A twin of a model whose constant-filled weights are random, so that a comparison on it cannot be vacuous.

Where all elements of a weight are equal, cutting the wrong rows goes unseen. Graphs saved without their weights
(ConstantOfShape in their place) are made of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import onnx_ir as ir

from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array, Graph, Weight
from graphprune.graph.scopes import all_values

_GLANCE = 64


def randomised(cut: Cut, seed: int) -> Cut | None:
    """The same cut of the twin; None when no cut weight is constant-filled."""
    graph = cut.deps.source
    flat = {w.source: w for n, w in graph.weights.items() if cut.touched(n) and _flat(w)}
    if not flat:
        return None
    rng = np.random.default_rng(seed)
    content = {n: np.asarray(_random(rng, w.shape), w.read().dtype) for n, w in flat.items()}
    twin = _refilled(graph, flat, content)
    if graph.whole_graph is not None:
        twin = replace(twin, whole_graph=_refilled(graph.whole_graph, flat, content))
    deps = replace(cut.deps, source=twin, state=replace(cut.deps.state, graph=twin))
    return Cut(deps, cut.removed)


def _refilled(graph: Graph, flat: Mapping[str, Weight], content: Mapping[str, Array]) -> Graph:
    """The graph with other content in some stored tensors."""
    model: ir.Model = graph.source.clone()
    made = {v.name or "": v for v in all_values(model)}
    for name, weight in flat.items():
        _replace(model, weight, ir.Tensor(content[name], name=name), made[name])
    weights = {n: _swapped(w, content.get(w.source)) for n, w in graph.weights.items()}
    return replace(graph, source=model, weights=weights)


def _flat(weight: Weight) -> bool:
    """Whether a float tensor of two or more axes (or any fill) holds one value only."""
    if not weight.dtype.startswith(("float", "bfloat", "double")):
        return False
    if weight.origin == "fill":
        return True
    if len(weight.shape) < 2:
        return False
    array = weight.read().ravel()
    return bool(array.size and (array[:_GLANCE] == array[0]).all() and (array == array[0]).all())


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Centred and scaled by fan-in; vectors stay positive, one of them may be a variance."""
    if sum(n > 1 for n in shape) <= 1:
        return rng.uniform(0.5, 1.5, shape)
    return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))


def _swapped(weight: Weight, array: Array | None) -> Weight:
    if array is None:
        return weight
    origin = "initializer" if weight.origin == "fill" else weight.origin
    return replace(weight, origin=origin, read=partial(np.asarray, array))


def _replace(model: ir.Model, weight: Weight, tensor: ir.Tensor[Array], value: ir.Value) -> None:
    """Put a tensor in the place of a stored one."""
    node = value.producer()
    if node is None:
        value.const_value = tensor
    elif weight.origin == "constant":
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", tensor)
    else:
        name = value.name
        value.name = f"{name}_fill"
        new = ir.Value(name=name, shape=ir.Shape(weight.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        model.graph.register_initializer(new)
        value.replace_all_uses_with(new)
