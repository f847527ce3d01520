"""Peak activation memory: what is predicted is what a walk over the written file finds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphprune import api
from graphprune.cost import CostModel
from graphprune.errors import InfeasibleError, InputError
from graphprune.graph.run import random_feeds
from graphprune.rewrite.onnx import rewrite
from tests.cuts import random_cut
from tests.graphs import GRAPHS, Builder
from tests.liveness import peak, sizes
from tests.test_budget import FASHION

BODIES = {"If", "Loop", "Scan"}


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_the_peak_is_that_of_the_written_file(name: str) -> None:
    model = GRAPHS[name]()
    if any(node.op_type in BODIES for node in model.graph.node):
        pytest.skip("the walk in this test follows no bodies")
    deps = api.analyze(model)
    cost, feeds = CostModel(deps), random_feeds(deps.source, 1, 0)[0]
    cuts = [deps.cut(np.zeros(0, np.int32)), *(random_cut(deps, seed) for seed in range(2))]
    for cut in cuts:
        if cut is not None:
            written = ir.to_proto(rewrite(cut))
            assert cost.costs(cut.removed).memory == peak(written, sizes(written, feeds))


def test_the_peak_of_a_residual_by_hand() -> None:
    """At the Add three tensors of 4 x 2 x 2 floats are alive: both operands and the sum; at the convolutions two."""
    b = Builder()
    x = b.source("x", (1, 3, 2, 2))
    a = b.conv(x, 3, 4, 1)
    y = b.op("Add", a, b.op("Relu", a))
    deps = api.analyze(b.build(b.conv(y, 4, 2, 1)))
    assert CostModel(deps).costs(np.zeros(deps.state.store.count, bool)).memory == 3 * 4 * 2 * 2 * 4


def test_a_memory_target_holds() -> None:
    plan = api.plan(FASHION, memory="70%", align=1)
    share = plan.after["memory"] / plan.before["memory"]
    assert 0.6 < share <= 0.7


def test_a_memory_target_in_bytes_and_one_out_of_reach() -> None:
    before = api.plan(FASHION, ratio=0.5).before["memory"]
    plan = api.plan(FASHION, memory=f"{before * 0.8 / 1024:.3f}KiB", align=1)
    assert plan.after["memory"] <= 0.8 * before
    with pytest.raises(InputError, match="met already"):
        api.plan(FASHION, memory=before)
    with pytest.raises(InfeasibleError, match=r"peak activation memory .* is out of reach: the best reachable is"):
        api.plan(FASHION, memory="1%")
