"""Constants that exporters share between strangers: one name per use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from graphprune.graph.model import Node, Value, Weight

_COPIED = ("float", "bfloat", "double", "int4", "uint4", "int8", "uint8", "int16", "uint16")  # wider ones are sizes
_VIEWS = {"Slice", "Split"}  # several of them read the parts of one tensor


def clone_shared(
    nodes: list[Node], weights: dict[str, Weight], values: dict[str, Value], outputs: tuple[str, ...]
) -> tuple[list[Node], dict[str, Weight]]:
    """Give every use of a shared small constant its own name, so that it couples no strangers.

    Exporters de-duplicate equal vectors: one zero bias feeds many layers. Tensors of two or more dimensions
    stay shared (tied weights) unless all their elements are equal.
    """
    alias = _aliases(nodes, weights)
    uses = Counter(alias.get(i, i) for n in nodes for i in n.inputs)
    uses.update(alias.get(i, i) for n in nodes for i in n.captures)
    passed = {alias.get(i, i) for n in nodes if n.boundary or n.op in _VIEWS for i in n.inputs}
    shared = {w for w, n in uses.items() if n > 1 and w in weights and w not in passed and _cloneable(weights[w])}
    if not shared:
        return nodes, weights
    out = []
    read_inside = {name for n in nodes for name in n.captures} | set(outputs)
    for node in nodes:
        if alias.get(node.outputs[0]) in shared and node.outputs[0] not in read_inside:
            continue  # every reader gets its own copy of what this Identity passes on
        inputs = list(node.inputs)
        for slot, name in enumerate(inputs):
            real = alias.get(name, name)
            if real not in shared or node.outputs[0] in alias:
                continue
            weight = weights[real]
            use = f"{real}@{node.name}:{slot}"
            weights[use] = Weight(use, weight.source, weight.shape, weight.dtype, weight.origin, weight.read)
            values[use] = values[weight.name]
            inputs[slot] = use
        changed = tuple(inputs) != node.inputs
        out.append(
            Node(**{f: getattr(node, f) for f in Node.__slots__} | {"inputs": tuple(inputs)}) if changed else node
        )
    return out, weights


def _aliases(nodes: list[Node], weights: Mapping[str, Weight]) -> dict[str, str]:
    """Identity outputs of stored tensors, with the tensor they stand for."""
    out: dict[str, str] = {}
    for node in nodes:
        if node.op == "Identity" and not node.domain:
            real = out.get(node.inputs[0], node.inputs[0])
            if real in weights:
                out[node.outputs[0]] = real
    return out


def _cloneable(weight: Weight) -> bool:
    if not weight.dtype.startswith(_COPIED) or len(weight.shape) == 0:
        return False
    if len(weight.shape) == 1:
        return True
    array = weight.read()
    return bool(array.size) and bool((array == array.flat[0]).all())
