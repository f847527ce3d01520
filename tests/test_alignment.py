"""Widths that kernels are fast at: sums over groups on one axis, and the alignment that gives way to the target."""

from __future__ import annotations

import pytest

import graphprune as gp
from graphprune.errors import InfeasibleError

torch = pytest.importorskip("torch")


def widened() -> gp.Graph:
    """A network whose second stage has the first's channels in its middle, as a ResNet's padded shortcuts do."""
    nn = torch.nn

    class Widened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 16, 3, padding=1)
            self.inner = nn.Conv2d(16, 48, 3, padding=1)
            self.second = nn.Conv2d(48, 32, 3, padding=1)
            self.last = nn.Conv2d(32, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).relu()
            wide = nn.functional.pad(x, (0, 0, 0, 0, 8, 8))
            return self.last(wide + self.second(self.inner(x).relu()))

    torch.manual_seed(0)
    return gp.trace(Widened(), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("macs", ["30%", "50%", "70%", "90%"])
def test_groups_side_by_side_make_an_aligned_axis(macs: str) -> None:
    deps = gp.analyze(widened())
    result = gp.prune(deps.source, macs=macs, align=16)
    assert result.model.last.weight.shape[1] in (16, 32)
    assert result.model.inner.weight.shape[0] in (16, 32, 48)
    loose = {gp.prune(deps.source, macs=m, align=8).model.last.weight.shape[1] for m in ("60%", "70%", "80%")}
    assert 24 in loose  # what the tie is there to rule out


def test_a_default_alignment_gives_way_to_the_target() -> None:
    plan = gp.plan(widened(), macs="24%")
    coarse = gp.plan(widened(), macs="24%", align=16, max_step=0.25)
    assert plan.recipe["align"] < coarse.recipe["align"] == 16
    reached, before = plan.after["macs"] / plan.before["macs"], coarse.after["macs"] / coarse.before["macs"]
    assert before < 0.97 * 0.24 < reached <= 0.24


def test_a_default_alignment_gives_way_where_nothing_else_reaches_the_target() -> None:
    with pytest.raises(InfeasibleError, match="--align 16"):
        gp.plan(widened(), macs="12%", align=16)
    assert gp.plan(widened(), macs="12%").recipe["align"] < 16


def test_an_alignment_that_was_asked_for_stays() -> None:
    for align in (4, 8, 16):
        assert gp.plan(widened(), macs="26%", align=align).recipe["align"] == align
