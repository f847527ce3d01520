"""Which allocation loses least once the model is recovered: the solver's, or the same share of every group.

The curves that the solver goes by are measured one group at a time; how losses of several groups go together is only
seen when they are all cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphprune.algebra.axis import Ids
from graphprune.budget.pace import Pace, aimed
from graphprune.budget.planner import Planner
from graphprune.calibration import Calibration
from graphprune.cost.latency import NAME as LATENCY
from graphprune.data.parts import Feed, Feeds, first
from graphprune.errors import InfeasibleError, NothingToPruneError
from graphprune.recover.steps import SLOW, recover
from graphprune.rewrite.onnx import rewrite

AUTO, CONTENDERS = "auto", ("solver", "uniform")
_SAMPLES, _LEAST = 128, 32
_TRIES, _USED = 8, 0.96  # of limits on MACs, and the share of the time that one has to use
_WORK = 2e11  # multiply-accumulates of one look at all samples


def few(calibration: Calibration, macs: int) -> list[Feed]:
    """The first samples, to compare models on; fewer for large models.

    Args:
        calibration: All samples.
        macs: Multiply-accumulates of the model, per sample.
    """
    wanted = int(np.clip(_WORK / max(macs, 1), _LEAST, _SAMPLES))
    return first(calibration.samples, wanted, least=2)


def lost(planner: Planner, units: Ids, samples: Feeds, steps: Sequence[str]) -> float:
    """Error of the outputs without some units after some steps of recovery, relative to their variance.

    Args:
        planner: Plans the widths of an ONNX model.
        units: What to remove.
        samples: Calibration data.
        steps: Names of steps; distillation is left out, it takes too long.
    """
    cut = planner.folding.folded(planner.deps.cut(units))
    names = [n for n in steps if n != SLOW]
    return recover(cut, rewrite(cut), samples, names, needed=False)[1].error


def limit_work(planner: Planner, pace: Pace, better: Callable[[Ids], bool]) -> None:
    """Limit the MACs too where the widths that MACs alone call for are as fast, by prediction, and lose less.

    Times of small models are predicted within some percent, and their losses are steep in the time.

    Args:
        planner: Plans under a latency limit.
        pace: That limit; where it helps it gets a limit on MACs.
        better: Whether units to remove lose less than what the planner removes now.
    """
    limits = planner.limits
    if "macs" in limits:
        return
    macs = planner.cost.costs(planner.deps.cut(planner.units()).removed).macs
    tried: list[tuple[float, float]] = []
    try:
        for _ in range(_TRIES):
            planner.limits = {k: v for k, v in limits.items() if k != LATENCY} | {"macs": macs}
            units = planner.units()
            took = pace.predicted(planner.deps.cut(units).removed)
            if _USED * pace.limit <= took <= pace.limit:
                pace.work = macs if better(units) else None
                break
            tried.append((macs, took))
            macs = int(aimed(tried, (1 + _USED) / 2 * pace.limit))
    except (InfeasibleError, NothingToPruneError):
        pass  # then time alone decides
    planner.limits = limits | pace.limits
    if pace.work is not None:
        planner.notes.append("the MACs are limited, too: with the same predicted time that lost less")


def settle(planner: Planner, steps: Sequence[str], progress: Callable[[str], None] = lambda _: None) -> None:
    """Let a planner that may choose take the same share of every group where that loses less, and say so.

    Args:
        planner: The planner; its allocation is changed. Without curves, limits or data it stays as it is.
        steps: Steps of recovery that the result will go through.
        progress: Called with the name of each allocation.
    """
    data, files = planner.calibration, isinstance(planner.deps.source.source, ir.Model)
    if planner.allocation != AUTO or planner.curves is None or not planner.limits or data is None or not files:
        return
    samples, found, elastic = few(data, planner.dense.macs), dict[str, float](), planner.elastic
    for name in CONTENDERS:
        progress(f"{name} allocation")
        planner.allocation = name
        planner.elastic = elastic and name == CONTENDERS[0]  # both in the widths that the solver needs
        try:
            found[name] = lost(planner, planner.units(), samples, steps)
        except (InfeasibleError, NothingToPruneError):
            continue  # whoever carries the plan out will tell
    planner.allocation, planner.elastic = AUTO, elastic
    if len(found) == len(CONTENDERS) and found["uniform"] < found["solver"]:
        planner.allocation = planner.recipe["allocation"] = "uniform"
        planner.notes.append(
            f"all groups lose the same share: {found['uniform']:.3g} of the outputs is lost by that, "
            f"{found['solver']:.3g} by what the solver chose"
        )
    elif planner.pace is not None and "solver" in found:
        progress("allocation by MACs")
        limit_work(planner, planner.pace, lambda units: lost(planner, units, samples, steps) < found["solver"])
