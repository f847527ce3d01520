"""Random removals, and what must hold for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphprune import api
from graphprune.cost.model import CostModel
from graphprune.coupling.fibres import Chosen, fibred
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import Verdict, check_valid, verify_cut

if TYPE_CHECKING:
    from onnx import ModelProto

    from graphprune.coupling.groups import Cut, DependencyGraph


def random_cut(deps: DependencyGraph, seed: int) -> Cut | None:
    """A removal of some units of some groups that empties no axis; None when nothing can be removed.

    Half of the removals are drawn unit by unit, the others keep as little as one unit per group.
    """
    rng = np.random.default_rng(seed)
    removed = np.zeros(deps.state.store.count, bool)
    share, touched = rng.uniform(0.1, 0.9), rng.choice([0.4, 1.0])
    for group in deps.groups:
        if rng.random() < touched:
            count = group.size - 1 if rng.random() < 0.2 else rng.binomial(group.size, share)
            removed[rng.permutation(group.units)[:count]] = True
    cost = CostModel(deps)
    while emptied := cost.emptied(removed):
        for axis in emptied:
            assert axis.units is not None
            removed[rng.choice(axis.units[rng.integers(axis.n)])] = False  # may take several rounds
            removed[axis.units[rng.integers(axis.n)]] = False
    if not removed.any():
        free = np.concatenate([g.units for g in deps.groups]) if deps.groups else np.zeros(0, np.int32)
        for unit in rng.permutation(free):
            removed[unit] = True
            if not cost.emptied(removed):
                break
            removed[unit] = False
    return deps.cut(np.flatnonzero(removed).astype(np.int32)) if removed.any() else None


def random_fibres(deps: DependencyGraph, seed: int) -> DependencyGraph:
    """The dependency graph with a random order of the offsets in every block that may have its own."""
    rng = np.random.default_rng(seed)
    draw = [(f, rng.permuted(np.tile(np.arange(f.size), (f.number, 1)), axis=1)) for f in deps.fibres.factors]
    return fibred(deps, [Chosen(factor, ranks) for factor, ranks in draw])


def pruned_and_checked(cut: Cut, seed: int = 0) -> tuple[ir.Model, Verdict]:
    """The rewritten model, which must be valid and equal to the masked original."""
    model = rewrite(cut)
    problem = check_valid(model, cut.deps.source.source)
    assert not problem, f"{summary(cut)}: {problem}"
    return model, verify_cut(cut, model, seed=seed, samples=1)


def assert_random_removals_verify(model: ModelProto, seeds: range) -> int:
    """Every removal drawn from ``seeds`` must verify; returns how many removed something."""
    deps = api.analyze(model)
    before = model.SerializeToString()
    done = 0
    for seed in seeds:
        cut = random_cut(deps, seed)
        if cut is None:
            continue
        done += 1
        _, verdict = pruned_and_checked(cut, seed)
        assert verdict.passed, f"seed {seed}, {summary(cut)}: {verdict.text}"
    assert model.SerializeToString() == before, "the original was changed"
    return done


def summary(cut: Cut) -> str:
    """Which groups lose how much, for messages."""
    groups = [(g.name, int(cut.removed[g.units].sum()), g.size) for g in cut.deps.groups]
    return ", ".join(f"{name} {gone}/{size}" for name, gone, size in groups if gone)
