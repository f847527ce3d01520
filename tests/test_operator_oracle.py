"""Every rule against its operator as a black box: no dependency is found that the rule denies."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.errors import InputError
from graphprune.graph.run import CannotRun, Runner, random_feeds
from graphprune.verify.valid import check_valid
from tests.cuts import pruned_and_checked, random_cut, summary
from tests.operators import CASES, Case
from tests.operators.blackbox import Probe, Refused, removals
from tests.operators.case import Built
from tests.operators.variation import varied

VARIED = 3


def hunt(one: Case, seed: int) -> None:
    """Raise when some removal in this case moves what it should not."""
    probe = Probe(Built(one, seed))
    for k, units in enumerate(removals(probe, np.random.default_rng(seed), 4)):
        assert not (found := probe.denied(units, 100 * seed + k)), found


def runs(probe: Probe, seed: int) -> bool:
    """Whether the whole model is one that can be verified at all."""
    graph = probe.deps.source
    if check_valid(graph.source):
        return False
    try:
        runner = Runner(graph.source)
        for feed in random_feeds(graph, 1, seed):
            runner(feed)
    except CannotRun:
        return False
    return True


def check_varied(one: Case, seed: int) -> str:
    """A case with other sizes and attributes: no denied dependency, and a removal verifies; how far it came."""
    other = varied(one, np.random.default_rng([seed, *one.label.encode()]))
    try:
        hunt(other, seed)
    except (Refused, InputError):
        return "refused"
    probe = Probe(Built(other, seed))
    if not runs(probe, seed):
        return "refused"
    cut = random_cut(probe.deps, seed)
    if cut is None:
        return "nothing to remove"
    _, verdict = pruned_and_checked(cut, seed)
    if verdict.samples == 0 and "nothing is proved" in verdict.text:
        return "silent"
    assert verdict.passed, f"{other}: {summary(cut)}: {verdict.text}"
    return "removed"


@pytest.mark.parametrize("one", CASES, ids=lambda c: c.label)
def test_no_dependency_is_denied(one: Case) -> None:
    for seed in range(2):
        hunt(one, seed)


@pytest.mark.parametrize("one", CASES, ids=lambda c: c.label)
def test_with_other_sizes_and_attributes(one: Case) -> None:
    if {check_varied(one, seed) for seed in range(VARIED)} == {"refused"}:
        pytest.skip(f"no runtime here takes any of {VARIED} draws of sizes and attributes")


@pytest.mark.long
@pytest.mark.parametrize("one", CASES, ids=lambda c: c.label)
def test_with_many_sizes_and_attributes(one: Case) -> None:
    if {check_varied(one, seed) for seed in range(VARIED, 60)} == {"refused"}:
        pytest.skip("no runtime here takes any draw of sizes and attributes")
