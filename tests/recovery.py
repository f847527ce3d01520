"""Small nets that lose known channels, and their values in the original and after the cut."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphprune as gp
from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array, Graph
from graphprune.graph.onnx import load
from graphprune.graph.run import Runner
from graphprune.rewrite.onnx import rewrite
from tests.graphs import Builder

Feeds = list[dict[str, Array]]


def without(model: Any, weight: str, positions: list[int], axis: int = 0) -> tuple[Cut, Graph]:
    """The cut that takes positions of a stored tensor's axis with all that is coupled, and the pruned model."""
    deps = gp.analyze(model)
    found = deps.types[weight][axis]
    assert found.units is not None
    cut = deps.cut(np.unique(found.units[positions]).astype(np.int32))
    return cut, load(rewrite(cut))


def feeds(count: int, *shape: int, name: str = "x", seed: int = 0) -> Feeds:
    """Normal numbers with a mean that differs along axis 1."""
    rng = np.random.default_rng(seed)
    lean = np.linspace(-0.5, 0.8, shape[1]).reshape(1, -1, *([1] * (len(shape) - 2)))
    return [{name: (rng.standard_normal(shape) + lean).astype(np.float32)} for _ in range(count)]


def run_all(source: Any, data: Feeds) -> Array:
    """The first output over all feeds, float64."""
    runner = Runner(source, threads=1)
    return np.concatenate([np.asarray(runner(f)[0], np.float64) for f in data])


def changed_weight(b: Builder, name: str, array: Array) -> None:
    """Give an initializer of a net that is being built another content."""
    del b.initializers[name]
    b.const(np.asarray(array, np.float32), name)


def stored(b: Builder, name: str) -> Array:
    """A copy of an initializer of a net that is being built."""
    from onnx import numpy_helper

    return np.array(numpy_helper.to_array(b.initializers[name]))
