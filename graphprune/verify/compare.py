"""Compares a pruned model with its masked reference and says what the figures mean."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphprune.coupling.cut import Cut
from graphprune.errors import VerificationError
from graphprune.graph.model import Array, Graph
from graphprune.graph.run import CannotRun, Runner, random_feeds
from graphprune.graph.sizes import cloned, weight_bytes
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.branches import walk_branches
from graphprune.verify.draws import seeded
from graphprune.verify.exact import exact_scales, quantised
from graphprune.verify.inner import box, exposed, inner_values, present
from graphprune.verify.oracle import masked_reference
from graphprune.verify.randomise import randomised
from graphprune.verify.valid import changed_interface, check_valid
from graphprune.verify.widen import feed_in_float32, in_float32, readings

_TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "double": 1e-8}
_DEFAULT_TOLERANCE = 1e-4
_FLOOR_FACTOR = 2.0
_STEPS = 0.1  # requantised outputs may differ by some steps out of 127; more is another network
_MANY = 16  # samples tried when fewer leave every output silent


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of a verification.

    Attributes:
        passed: Whether the pruned model equals the reference.
        error: Largest relative difference: max|a - b| / max|b| over outputs and inputs.
        tolerance: What was allowed: the tolerance of the dtype, or twice the noise floor where that is higher.
        samples: Number of inputs compared.
        text: One line about it.
    """

    passed: bool
    error: float
    tolerance: float
    samples: int
    text: str

    def raise_if_failed(self) -> None:
        """Raise VerificationError unless passed."""
        if not self.passed:
            raise VerificationError(self.text)


def verify_cut(
    cut: Cut,
    pruned: ir.Model,
    *,
    feeds: Sequence[dict[str, Array]] = (),
    samples: int = 1,
    seed: int = 0,
    lossless: bool = False,
) -> Verdict:
    """Run the pruned model against the masked original, or against the original itself.

    Args:
        cut: The removal.
        pruned: The rewritten model.
        feeds: Inputs given by the user, used beside random ones.
        samples: Random inputs per probed size.
        seed: Seed of the random inputs.
        lossless: Whether the original itself is the reference.

    Returns:
        The verdict; it never raises for a wrong model.
    """
    problem = changed_interface(cut, pruned) or check_valid(pruned, cut.deps.source.origin.source)
    if problem:
        return _failed(f"is not valid: {problem}")
    for count, settings in ((samples, False), (samples, True), (_MANY * samples, False)):
        inputs = [*feeds, *random_feeds(cut.deps.source.origin, count, seed, settings=settings)]
        # A network cut down to dead units is constant whatever goes in; it is still compared, on many inputs.
        verdict = _compare(cut, pruned, inputs, seed, varied=count == samples, lossless=lossless)
        if verdict.samples:
            break  # else the outputs say nothing on these inputs
    if not verdict.passed and verdict.error <= _STEPS and quantised(cut.deps.source):
        again = _compare(cut, pruned, inputs, seed, varied=True, exact=True, lossless=lossless)
        verdict = replace(again, text=f"{again.text}, with scales made powers of two") if again.passed else verdict
    twin = randomised(cut, seed) if verdict.passed else None
    if twin is None:
        return verdict
    again = _compare(twin, rewrite(twin), inputs, seed)
    return again if again.samples or _runs(twin, inputs) else verdict


def _runs(twin: Cut, inputs: Sequence[dict[str, Array]]) -> bool:
    """Whether the masked original runs with random weights: where they are indices, it may not."""
    try:
        reference = Runner(masked_reference(twin))
        for feed in inputs:
            reference(feed)
    except CannotRun:
        return False
    return True


def _compare(
    cut: Cut,
    pruned: ir.Model,
    inputs: Sequence[dict[str, Array]],
    seed: int,
    *,
    varied: bool = False,
    exact: bool = False,
    lossless: bool = False,
) -> Verdict:
    """Run both models on all inputs, value by value; no verdict when every value is silent.

    ``exact`` compares their twins whose scales are powers of two.
    """
    graph = cut.deps.source
    masked = cloned(graph.origin.source) if lossless else masked_reference(cut)
    if exact:
        masked, pruned = exact_scales(masked), exact_scales(pruned)
    hidden = inner_values(graph)
    inner = present([masked, pruned], sorted(set(hidden.values()) - set(graph.outputs)))
    names = [*graph.outputs, *inner]
    # An output behind a softmax or sigmoid is measured on that function's own scale, what feeds it on its own.
    scales = [1.0 if hidden.get(n) in (*inner, *graph.outputs) else 0.0 for n in names]
    masked, pruned = (seeded(exposed(model, graph, inner)) for model in (masked, pruned))
    try:
        bench, pairs = _first_run(cut, masked, pruned, inputs, optimize=not exact)
        forced, ways = walk_branches(graph, bench.masked, bench.pruned, list(zip(bench.inputs, bench.fed, strict=True)))
    except CannotRun as refusal:
        return _failed(f"does not run: {refusal}")
    if all(_silent([np.asarray(wanted[i]) for wanted, _ in pairs], varied=varied) for i in range(len(names))):
        return _failed("gives no finite or only equal values, so nothing is proved; give --input-shape or --data")
    turned = _errors(cut, names, scales, forced)
    errors = np.maximum(_errors(cut, names, scales, pairs), turned)
    allowed = np.full(len(names), _DEFAULT_TOLERANCE if bench.wide else _tolerance(graph))
    if (errors > allowed).any() and quantised(graph) and not exact:
        # The runtime may do in integers for one model what it does in floats for the other: without that, then.
        plain = np.maximum(_errors(cut, names, scales, bench.run(optimize=False)), turned)
        errors = min(errors, plain, key=max)
    if (errors > allowed).any() and not exact:
        allowed = np.maximum(allowed, _FLOOR_FACTOR * _noise_floor(bench.masked, bench.inputs, scales, seed))
    worst = int(np.argmax(errors / allowed))
    passed = bool((errors <= allowed).all())
    relation = "equals" if passed else "differs from"
    error, tolerance = float(errors[worst]), float(allowed[worst])
    against = "the original" if lossless else "the masked original"
    text = f"{relation} {against}: relative error {error:.2g} (allowed {tolerance:.2g}) on {len(inputs)} inputs{ways}"
    return Verdict(passed, error, tolerance, len(inputs), text)


Pairs = Sequence[tuple[Sequence[Array], Sequence[Array]]]


@dataclass(frozen=True, slots=True)
class _Bench:
    """Two models and what each is fed: inputs that may shrink are cut for the pruned one.

    ``wide`` when both are read in float32.
    """

    masked: ir.Model
    pruned: ir.Model
    inputs: Sequence[dict[str, Array]]
    fed: Sequence[dict[str, Array]]
    wide: bool = False

    def run(self, *, optimize: bool = True) -> Pairs:
        """Values of both models for every input.

        Raises:
            CannotRun: The runtime refuses one of them.
        """
        reference, candidate = Runner(self.masked, optimize=optimize), Runner(self.pruned, optimize=optimize)
        return [(reference(a), candidate(b)) for a, b in zip(self.inputs, self.fed, strict=True)]

    def widened(self) -> _Bench:
        """The same in float32."""
        feeds, fed = ([feed_in_float32(feed) for feed in each] for each in (self.inputs, self.fed))
        return _Bench(in_float32(self.masked), in_float32(self.pruned), feeds, fed, wide=True)


def _first_run(
    cut: Cut, masked: ir.Model, pruned: ir.Model, inputs: Sequence[dict[str, Array]], *, optimize: bool
) -> tuple[_Bench, Pairs]:
    """Values of both models in the best float type that the runtime has kernels for.

    Raises:
        CannotRun: There is none.
    """
    fed = [{k: box(cut, k, v) for k, v in feed.items()} for feed in inputs]
    given = _Bench(masked, pruned, inputs, fed)
    *better, last = readings(cut.deps.source.origin, weight_bytes(masked))
    for wide in better:
        bench = given.widened() if wide else given
        with suppress(CannotRun):
            return bench, bench.run(optimize=optimize)
    bench = given.widened() if last else given
    return bench, bench.run(optimize=optimize)


def _errors(cut: Cut, names: Sequence[str], scales: Sequence[float], pairs: Pairs) -> NDArray[np.float64]:
    """Per value, the largest difference over all inputs."""
    errors = np.zeros(len(names))
    for wanted, got in pairs:
        boxed = [box(cut, n, np.asarray(a)) for n, a in zip(names, wanted, strict=True)]
        errors = np.maximum(errors, [_difference(a, b, s) for a, b, s in zip(boxed, got, scales, strict=True)])
    return errors


def _silent(values: Sequence[Array], *, varied: bool) -> bool:
    """Whether a value says nothing: nowhere finite or, if it has to be varied, one number throughout all inputs."""
    flat = np.concatenate([v.ravel().astype(np.float64) for v in values if v.dtype.kind in "fViub"] or [np.zeros(0)])
    flat = flat[np.isfinite(flat)]
    return not flat.size or (varied and flat.size > 1 and bool((flat == flat[0]).all()))


def _failed(text: str) -> Verdict:
    """The verdict on a model that could not even be compared."""
    return Verdict(passed=False, error=float("inf"), tolerance=0.0, samples=0, text=text)


def _difference(wanted: Array, got: Array, least_scale: float) -> float:
    """max|a - b| / max|a|, infinite for other shapes or non-finite values in other places."""
    wanted, got = np.asarray(wanted), np.asarray(got)
    if wanted.shape != got.shape:
        return float("inf")
    if wanted.dtype.kind not in "fV":
        return 0.0 if np.array_equal(wanted, got) else float("inf")
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    scale = max(float(np.abs(a[finite]).max(initial=0.0)), least_scale)
    worst = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return worst / scale if scale > 0 else worst


def _tolerance(graph: Graph) -> float:
    """What the least precise float type in the graph allows."""
    floats = {v.dtype for v in graph.values.values() if v.dtype.startswith(("float", "bfloat", "double"))}
    return max((_TOLERANCE.get(d, _DEFAULT_TOLERANCE) for d in floats), default=_DEFAULT_TOLERANCE)


def _noise_floor(
    masked: ir.Model, inputs: Sequence[dict[str, Array]], scales: Sequence[float], seed: int
) -> NDArray[np.float64]:
    """Per value, how far the reference is from itself: without runtime optimisation, inputs changed by 3e-7."""
    rng = np.random.default_rng(seed)
    plain, other = Runner(masked), Runner(masked, optimize=False)
    worst = np.zeros(len(scales))
    for feed in inputs:
        moved = {
            k: np.asarray(v * (1 + 3e-7 * rng.standard_normal(v.shape)), v.dtype) if v.dtype.kind == "f" else v
            for k, v in feed.items()
        }
        first = plain(feed)
        for again in (other(feed), plain(moved)):
            found = np.array([_difference(a, b, s) for a, b, s in zip(first, again, scales, strict=True)])
            worst = np.maximum(worst, np.where(np.isfinite(found), found, 0.0))
    return worst
