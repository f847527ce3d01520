"""Which allocation loses least once the model is recovered: the solver's, or the same share of every group.

The curves that the solver goes by are measured one group at a time; how losses of several groups go together is only
seen when they are all cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphprune.algebra.axis import Ids
from graphprune.budget.planner import Planner
from graphprune.calibration import Calibration
from graphprune.data.parts import Feed, Feeds, first
from graphprune.errors import InfeasibleError, NothingToPruneError
from graphprune.recover.steps import SLOW, recover
from graphprune.rewrite.onnx import rewrite

AUTO, CONTENDERS = "auto", ("solver", "uniform")
_SAMPLES, _LEAST = 128, 32
WORK = 2e11  # multiply-accumulates of one look at all samples


def few(calibration: Calibration, macs: int) -> list[Feed]:
    """The first samples, to compare models on; fewer for large models.

    Args:
        calibration: All samples.
        macs: Multiply-accumulates of the model, per sample.
    """
    wanted = int(np.clip(WORK / max(macs, 1), _LEAST, _SAMPLES))
    return first(calibration.samples, wanted, least=2)


def lost(planner: Planner, units: Ids, samples: Feeds, steps: Sequence[str], *, judges: Feeds | None = None) -> float:
    """Error of the outputs without some units after some steps of recovery, relative to their variance.

    Args:
        planner: Plans the widths of an ONNX model.
        units: What to remove.
        samples: Calibration data.
        steps: Names of steps; distillation is left out, it takes too long.
        judges: Feeds that judge instead of some of the samples.
    """
    cut = planner.folding.folded(planner.deps.cut(units))
    names = [n for n in steps if n != SLOW]
    return recover(cut, rewrite(cut), samples, names, judges=judges, needed=False)[1].error


def free(planner: Planner) -> bool:
    """Whether a planner of a file may choose among allocations, and knows enough to."""
    files = isinstance(planner.deps.source.source, ir.Model)
    return planner.allocation == AUTO and planner.curves is not None and bool(planner.limits) and files


def settle(planner: Planner, steps: Sequence[str], progress: Callable[[str], None] = lambda _: None) -> None:
    """Let a planner that may choose take the same share of every group where that loses less, and say so.

    Args:
        planner: The planner; its allocation is changed. Without curves, limits or data it stays as it is.
        steps: Steps of recovery that the result will go through.
        progress: Called with the name of each allocation.
    """
    data = planner.calibration
    if data is None or not free(planner):
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
