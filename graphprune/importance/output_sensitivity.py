"""How much an error in the output of a layer matters at the end of the network.

The squared error of a channel, summed over its positions and weighed with its sensitivity, adds up over layers to the
expected loss: a Gauss-Newton diagonal on activations, as in K-FAC's second factor (Martens and Grosse, "Optimizing
Neural Networks with Kronecker-factored Approximate Curvature", ICML 2015).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from graphprune.calibration.points import Point, Wanted, outer_nodes
from graphprune.coupling.groups import DependencyGraph
from graphprune.folding.linear import linear
from graphprune.importance.gradient_runs import Calibrated, measured

Sensitivity = dict[tuple[str, int], NDArray[np.float64]]


def sensitivity(
    deps: DependencyGraph,
    calibration: Calibrated,
    *,
    loss: str = "feature",
    alike: bool = False,
    probes: int = 1,
    limit: int | None = None,
) -> Sensitivity:
    """Mean squared gradient of a label-free loss by the outputs of every layer with a stored weight.

    Args:
        deps: The dependency graph of an ONNX model.
        calibration: Samples and seed.
        loss: "feature" (relative squared error of the outputs) or "fisher" (divergence of the prediction).
        alike: Whether errors of a channel are alike at all positions of a sample, as those of a removed channel with
            a large mean are, instead of independent. Pooling averages independent errors out, but not these.
        probes: Random seeds per sample.
        limit: Samples to use at most.

    Returns:
        Per (node name, slot of the data) a float64 array over the positions of the output axis along which the
        layer's outputs lie (axis 1 of a Conv): the mean over samples and positions of the squared gradient, or with
        ``alike`` that of the squared sum over positions divided by their number. An error e of the output raises the
        loss by half the sum of sensitivity · e² over all its channels and positions, on average over samples.
        Recurrent layers and layers inside control flow are not there.

    Raises:
        InputError: An operator has no gradient.
    """
    keys, wanted = [], []
    for point, slot, axis in _layers(deps):
        keys.append((point.node, slot))
        wanted.append(Wanted(point, (axis,), "squared_sum" if alike else "mean_square"))
    totals: list[NDArray[np.float64]] = []
    draws = 0
    for found in measured(deps, calibration, wanted, loss, probes=probes, limit=limit):
        totals = [t + f for t, f in zip(totals, found, strict=True)] if totals else found
        draws += 1
    return {key: total / max(draws, 1) for key, total in zip(keys, totals, strict=True)}


def _layers(deps: DependencyGraph) -> Iterator[tuple[Point, int, int]]:
    """Output of every layer with a stored weight, the slot of its data, and the axis along which its outputs lie."""
    graph = deps.source
    reachable = outer_nodes(graph)
    made = {node.outputs[0] for node in graph.nodes if node.key == "DequantizeLinear"}
    for node in graph.nodes:
        for slot in (0, 1) if node.name in reachable else ():
            if slot >= len(node.inputs) or not node.inputs[slot] or node.inputs[slot] in graph.weights:
                continue
            found = linear(graph, node, slot)
            if found is None or found.labels[0] != node.outputs[0]:
                continue
            weight = node.inputs[found.weight]
            if weight in graph.weights or weight in made:
                yield Point(node.name, -1), slot, found.labels[1]
