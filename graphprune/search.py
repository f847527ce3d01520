"""Plans, rewrites and verifies until a result is proved, or gives up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphprune.budget.pace import Timing
from graphprune.budget.planner import Planner
from graphprune.budget.translate import translated
from graphprune.candidates import rewritten
from graphprune.cost.model import CostModel, Costs, whole_costs
from graphprune.coupling.cut import Cut
from graphprune.coupling.groups import DependencyGraph, analyze
from graphprune.data import Samples
from graphprune.depth.choice import deepened
from graphprune.depth.option import read_depth
from graphprune.dialect import dialect_of
from graphprune.errors import InfeasibleError, InputError, NothingToPruneError, VerificationError
from graphprune.folding.analysis import Folding
from graphprune.graph.bypass import bypassed
from graphprune.graph.model import Graph
from graphprune.graph.run import CannotRun
from graphprune.plan import Plan, is_lossless, planned_cut
from graphprune.recover.contest import settle
from graphprune.recover.judge import judged
from graphprune.recover.steps import AUTO, Recovery, recover, step_names
from graphprune.sweep.curves import Sensitivity
from graphprune.sweep.measure import asked, drive
from graphprune.verify.bisect import culprits
from graphprune.verify.compare import Verdict
from graphprune.verify.fitted import mark
from graphprune.verify.metric import Quality

Progress = Callable[[str], None]
_ROUNDS = 5


@dataclass(frozen=True)
class Result:
    """What a prune gave.

    Attributes:
        model: The pruned ``onnx_ir.Model`` or module.
        plan: What was removed.
        deps: The dependency graph of the original.
        before: Costs of the original.
        after: Costs of the pruned model.
        verdict: The proof, None when verification was switched off.
        frozen: Groups that were given up because they did not verify.
        folded: Constants of removed channels that the layers reading them took over.
        quality: The user's metric and agreement with the original; None where nothing was measured.
        recovery: What was done for its accuracy after the cut was proved, None when nothing was.
        notes: What else to know, such as groups that the criterion could not judge.
        timing: What became of a latency target; None without one.
    """

    model: Any
    plan: Plan
    deps: DependencyGraph
    before: Costs
    after: Costs
    verdict: Verdict | None
    frozen: tuple[str, ...] = ()
    folded: int = 0
    quality: Quality | None = None
    notes: tuple[str, ...] = ()
    recovery: Recovery | None = None
    timing: Timing | None = None


def fitted(source: Graph | DependencyGraph, ready: Plan) -> tuple[DependencyGraph, Plan]:
    """What a plan is carried out on, and the plan in the names used there.

    A plan made on a file need not keep sizes equal that a module says with one number.

    Raises:
        InputError: The plan was made on another form of the model and cannot be told here.
    """
    if isinstance(source, DependencyGraph) and ready.bypassed != source.source.bypassed:
        source = source.source.origin
    if isinstance(source, Graph):
        source = analyze(replace(bypassed(source, ready.bypassed), equal=()), ready.allow_io)
    return source, translated(source, ready)


def folded_cut(deps: DependencyGraph, ready: Plan) -> Cut:
    """What a plan removes, with the constants that can be folded."""
    return Folding(deps).folded(planned_cut(deps, ready))


def replay(
    deps: DependencyGraph,
    ready: Plan,
    check: bool,  # noqa: FBT001 - passed on
    feeds: Sequence[Any],
    samples: int,
    progress: Progress,
) -> Result:
    """Carry out a plan.

    Raises:
        InputError: The plan does not fit the model.
        VerificationError: The result does not equal the reference.
    """
    cut, dialect = folded_cut(deps, ready), dialect_of(deps.source)
    progress("rewrite")
    model = dialect.rewrite(cut)
    dialect.stamp(model, ready, verified=check)
    before, after = whole_costs(deps), CostModel(deps).costs(cut.removed)
    progress("verify")
    against = is_lossless(ready)
    verdict = dialect.verify(cut, model, feeds=feeds, samples=samples, lossless=against) if check else None
    if verdict is not None and not verdict.passed:
        raise VerificationError(f"{deps.source.name}: the pruned model {verdict.text}; nothing was written")
    return Result(model, ready, cut.deps, before, after, verdict, folded=cut.folded)


def prepared(deps: DependencyGraph, options: Mapping[str, Any], progress: Progress = lambda _: None) -> Planner:
    """A planner that knows what every group costs in quality, as far as its criterion measures that.

    It takes uniform widths where these lose less than the solver's. With the option "depth" it plans on the model
    without the branches that are better left out. "recover" says what the result will go through.

    Raises:
        InputError: An option is unknown or cannot be read.
        InfeasibleError: The target cannot be met with any branches left out.
        NothingToPruneError: There is nothing to leave out.
    """
    rest = {k: v for k, v in options.items() if k not in ("depth", "recover")}
    depth = read_depth(options.get("depth"))
    steps = step_names(options.get("recover", AUTO))
    if depth is None:
        planner = _prepared(deps, rest, progress)
        settle(planner, steps, progress)
        return planner
    base = _prepared(deps, rest, progress) if depth.widths else Planner.from_options(deps, rest)
    base.recipe["depth"] = options["depth"]
    return deepened(base, rest, depth, progress, steps)


def _prepared(deps: DependencyGraph, options: Mapping[str, Any], progress: Progress = lambda _: None) -> Planner:
    """A planner of widths."""
    options = dict(options)
    how = options.pop("sensitivity", None)
    given, options = (None, options) if how is None else asked(how, options)
    planner = Planner.from_options(deps, options)
    if how is not None:
        progress("calibrate")
        drive(planner, given, AUTO if isinstance(how, Sensitivity) else str(how), progress)
    elif planner.by_curves and planner.calibration is not None:
        progress("calibrate")
        try:
            planner.curves = judged(planner.deps, planner.calibration, planner.scores, progress)
        except (InputError, CannotRun) as error:
            if options.get("criterion", AUTO) not in (AUTO, None):
                raise InputError(str(error)) from None
            planner.recipe["criterion"] = "l2"
            planner.notes.append(f"channels are ranked by l2, the data could not be used: {error}")
    return planner


def recovered(
    result: Result, samples: Samples | None, how: str | Sequence[str], progress: Progress, *, seed: int = 0
) -> Result:
    """A result whose weights were fitted to data, as far as that brings its outputs closer to the original's.

    Raises:
        InputError: There is no such step, or a step is asked for by name and there is no data.
    """
    names = step_names(how)
    if samples is None or not names:
        if names and how != AUTO:
            raise InputError(f"--recover {', '.join(names)} learns from samples: give some with --data")
        return result
    if is_lossless(result.plan):
        return result
    progress("recover")
    cut = folded_cut(result.deps, result.plan)
    try:
        model, report = recover(cut, result.model, samples, names, needed=how != AUTO, seed=seed, progress=progress)
    except (InputError, CannotRun) as error:
        if how != AUTO:
            raise InputError(str(error)) from None
        return replace(result, notes=(*result.notes, f"not recovered: {error}"))
    mark(model, ",".join(s.name for s in report.steps if s.kept))
    return replace(result, model=model, recovery=report)


def search(
    deps: DependencyGraph,
    options: Mapping[str, Any],
    check: bool,  # noqa: FBT001 - passed on
    feeds: Sequence[Any],
    samples: int,
    progress: Progress,
    planner: Planner | None = None,
) -> Result:
    """Plan, rewrite, verify; give up culprits and plan again. A planner that is given has read its options already.

    Raises:
        InputError: An option is unknown or cannot be read.
        InfeasibleError: The target cannot be met.
        NothingToPruneError: No unit can be removed.
        VerificationError: The result could not be proved right.
    """
    planner, dialect = planner or prepared(deps, options, progress), dialect_of(deps.source)
    deps, steps = planner.deps, step_names(options.get("recover", AUTO))
    frozen: list[str] = []
    verdict: Verdict | None = None
    for _ in range(_ROUNDS):
        progress("plan")
        try:
            units = planner.units()
        except (InfeasibleError, NothingToPruneError) as error:
            if verdict is None:
                raise
            failed = f"{verdict.text}; without {', '.join(frozen)}: {error}"
            raise VerificationError(f"{deps.source.name}: the pruned model {failed}; nothing was written") from None
        _, ready, cut, model = rewritten(planner, units, steps, progress, check=check)
        after = planner.cost.costs(cut.removed)
        if not check:
            return Result(model, ready, deps, planner.dense, after, None, folded=cut.folded, **_told(planner))
        progress("verify")

        def passes(part: Cut, model: Any = None) -> Verdict:
            part = part if model is not None else planner.part(part)
            made = model if model is not None else dialect.rewrite(part)
            return dialect.verify(part, made, feeds=feeds, samples=samples, lossless=planner.lossless)

        verdict = passes(cut, model)
        if verdict.passed:
            found = model, ready, deps, planner.dense, after, verdict, tuple(frozen), cut.folded
            return Result(*found, **_told(planner))
        progress("bisect")
        bad = culprits(deps, cut, lambda c: passes(c).passed)
        if not bad or len(bad) == len(ready.groups):
            break  # not the fault of single groups
        planner.give_up(bad)
        frozen.extend(group.name for group in bad)
    text = verdict.text if verdict is not None else ""
    raise VerificationError(
        f"{deps.source.name}: the pruned model {text}; given up: {', '.join(frozen) or 'no single group is to blame'};"
        " nothing was written"
    )


def _told(planner: Planner) -> dict[str, Any]:
    """What a planner has to say beside its plan."""
    timing = planner.pace.best if planner.pace is not None else None
    notes = list(planner.notes)
    if timing is not None and timing.measured is not None and timing.missed:
        notes.append(f"latency: measured at {timing.measured:.1%}, not at the {timing.share:.1%} asked for")
    return {"notes": tuple(notes), "timing": timing}
