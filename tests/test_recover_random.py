"""Recovery from drawn inputs alone, judged on inputs of another kind that it never saw."""

from __future__ import annotations

import numpy as np
import pytest

import graphprune as gp
from graphprune.graph.onnx import load
from graphprune.graph.run import random_feeds
from graphprune.recover.steps import recover
from graphprune.rewrite.onnx import rewrite
from tests.graphs import GRAPHS
from tests.recovery import run_all


@pytest.mark.parametrize("steps", [["mean"], ["moments"], ["refit"], ["merge", "refit"]])
@pytest.mark.parametrize("name", ["resnet_stage", "resnet_downsample", "inverted_residual"])
def test_inputs_that_were_never_seen_lose_less_than_by_the_cut_alone(name: str, steps: list[str]) -> None:
    deps = gp.analyze(GRAPHS[name]())
    rng = np.random.default_rng(0)
    units = [rng.choice(g.units, g.size // 4, replace=False) for g in deps.groups]
    cut = deps.cut(np.concatenate(units).astype(np.int32))
    drawn = [random_feeds(deps.source, 1, seed)[0] for seed in range(24)]
    pruned = rewrite(cut)
    made, report = recover(cut, pruned, drawn, steps)
    others = [
        {n: (0.5 * np.cumsum(a, axis=-1) + 0.3).astype(np.float32) for n, a in feed.items()}
        for feed in (random_feeds(deps.source, 1, seed)[0] for seed in range(100, 112))
    ]
    wanted = run_all(deps.source.source, others)
    plainly, found = (((run_all(load(m).source, others) - wanted) ** 2).sum() for m in (pruned, made))
    assert report.error <= report.cut
    assert found <= plainly
