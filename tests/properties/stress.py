"""Random graphs over the whole rule set: generate, prune, verify, count. Nothing may fail and nothing may crash.

python -m tests.properties.stress --count 2000 --minutes 30 --seed 0
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import ModelProto

from graphprune import api
from graphprune.coupling.cut import Cut
from graphprune.errors import InfeasibleError, InputError, NothingToPruneError
from graphprune.folding.analysis import Folding
from graphprune.graph.onnx import load
from graphprune.graph.run import CannotRun, Runner, random_feeds
from graphprune.rewrite.onnx import rewrite
from graphprune.rules import all_rules
from graphprune.search import folded_cut
from graphprune.verify.compare import verify_cut
from graphprune.verify.valid import check_valid
from tests.cuts import random_cut, random_fibres, summary
from tests.graphs.builder import Builder
from tests.properties import graph_kinds
from tests.properties.state import Seeded

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "stress.md"
FAILED = Path(__file__).parents[2] / "stress-failures"
STEPS = {  # a rounding error in front of these may turn into a difference that no tolerance covers
    "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Equal",
    "Floor", "Greater", "GreaterOrEqual", "Hardmax", "IsInf", "Less", "LessOrEqual", "Mod", "NonZero", "QuantizeLinear",
    "Round", "Shrink", "Sign", "TopK", "ThresholdedRelu", "Compress", "OneHot", "DynamicQuantizeLinear",
}  # fmt: skip


@dataclass
class Tally:
    """What a run has seen."""

    graphs: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    cut_ops: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    units: int = 0
    removed: int = 0


def drawn(seed: int, index: int) -> tuple[str, random.Random]:
    """The kind of graph number ``index`` of a seed, and what the rest is drawn from."""
    rng = random.Random(f"{seed}/{index}")
    return rng.choices(list(graph_kinds.KINDS), [k.weight for k in graph_kinds.KINDS.values()])[0], rng


def made(seed: int, index: int) -> tuple[str, ModelProto]:
    """Graph number ``index`` of a seed, and its kind."""
    kind, rng = drawn(seed, index)
    b = Builder("stress", seed=rng.randrange(2**31))
    s = Seeded(None, b, False, rng.random() < 0.7, rng.random() < 0.7, rng=rng)  # type: ignore[arg-type]
    return kind, graph_kinds.KINDS[kind].make(s)


def key_of(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def tried(tally: Tally, seed: int, index: int) -> str:
    """Make, prune and verify one graph; what came of it."""
    start = time.perf_counter()
    kind, model = made(seed, index)
    tally.graphs[kind] += 1
    before = model.SerializeToString()
    try:
        graph = load(model)
        problem = check_valid(graph.source)
        if problem and "No Op registered for Simplified" not in problem:  # an operator of onnxruntime alone
            return f"not valid: {problem}"
        runner = Runner(graph.source, threads=1)
        for feed in random_feeds(graph, 1, index):
            runner(feed)
    except (InputError, CannotRun) as error:
        return f"does not run: {str(error)[:200]}"
    finally:
        tally.seconds["make"] += time.perf_counter() - start
    tally.ops.update({key_of(n) for n in model.graph.node} | {n.key for n in graph.nodes})
    start = time.perf_counter()
    deps = api.analyze(graph)
    tally.seconds["analyze"] += time.perf_counter() - start
    tally.units += deps.units
    try:
        ordered = random_fibres(deps, index) if index % 4 == 1 else deps
        cut = _by_budget(deps, index) if index % 4 == 0 else random_cut(ordered, index)
    except (InfeasibleError, NothingToPruneError):
        cut = None
    if cut is None:
        return "nothing to remove"
    if index % 2:
        cut = Folding(cut.deps).folded(cut)
    tally.removed += int(cut.removed.sum())
    touched = [n for n in graph.nodes if any(cut.touched(v) for v in (*n.inputs, *n.outputs) if v)]
    tally.cut_ops.update({n.key for n in touched})
    outcome = _verified(tally, cut, model, index)
    assert model.SerializeToString() == before, "the original was changed"
    return outcome


def _by_budget(deps: api.DependencyGraph, index: int) -> Cut:
    """A removal as ``prune --macs`` plans it."""
    share = f"{random.Random(index).randint(30, 90)}%"
    plan = api.plan(deps, macs=share, align=random.Random(index).choice([1, 2, 8]), criterion="l2")
    return folded_cut(deps, plan)


def _verified(tally: Tally, cut: Cut, model: ModelProto, index: int) -> str:
    start = time.perf_counter()
    pruned = rewrite(cut)
    tally.seconds["rewrite"] += time.perf_counter() - start
    start = time.perf_counter()
    verdict = verify_cut(cut, pruned, seed=index, samples=1)
    tally.seconds["verify"] += time.perf_counter() - start
    if verdict.passed:
        return "verified"
    if "nothing is proved" in verdict.text:
        return "silent"
    stepped = {n.op_type for n in model.graph.node} & STEPS
    if stepped and verdict.samples and any(verify_cut(cut, pruned, seed=index + k).passed for k in (1, 2, 3)):
        return "verified with other inputs"
    raise AssertionError(f"{summary(cut)}: {verdict.text}")


def run(seed: int, indices: Sequence[int], minutes: float, *, verbose: bool = False) -> Tally:
    """Try graphs until they or the time run out."""
    tally, end = Tally(), time.monotonic() + 60 * minutes
    for index in indices:
        if time.monotonic() > end:
            break
        try:
            outcome = tried(tally, seed, index)
        except Exception as error:
            outcome = "failed"
            text = traceback.format_exc() if verbose else f"{type(error).__name__}: {error}"
            tally.failures.append(f"--seed {seed} --only {index}: {text[:3000]}")
            print(tally.failures[-1], file=sys.stderr, flush=True)
        tally.outcomes[outcome.split(":")[0]] += 1
        if verbose or outcome.startswith(("not valid", "does not run")):
            print(index, outcome, file=sys.stderr, flush=True)
    return tally


def rules_of_onnx() -> set[str]:
    """Operators of ONNX files that have a rule; rules of PyTorch's may have been loaded beside them."""
    return {r.op for r in all_rules() if not r.op.startswith("aten.")}


def report(tally: Tally, seed: int, elapsed: float) -> str:
    """The outcome as Markdown."""
    total = sum(tally.graphs.values())
    known = rules_of_onnx()
    lines = [
        "# Random graphs",
        "",
        f"`python -m tests.properties.stress --count {total} --seed {seed}`: random graphs over the whole rule set, "
        "pruned at random (one in four to a MACs budget, one in four with its own offsets in every block that may have "
        "them) and compared with the masked original.",
        "",
        "| | |",
        "|---|---|",
        f"| graphs | {total} |",
        *(f"| of which {kind} | {count} |" for kind, count in sorted(tally.graphs.items())),
        *(f"| {name} | {count} |" for name, count in sorted(tally.outcomes.items())),
        f"| **failures and crashes** | **{len(tally.failures)}** |",
        f"| units found, removed | {tally.units}, {tally.removed} |",
        f"| rules exercised (with something removed beside them) | {len(known & set(tally.ops))} "
        f"({len(known & set(tally.cut_ops))}) of {len(known)} |",
        f"| seconds per graph: {', '.join(tally.seconds)} | "
        f"{', '.join(f'{t / max(total, 1):.3f}' for t in tally.seconds.values())} |",
        f"| minutes | {elapsed / 60:.1f} |",
        "",
        f"Never exercised: {', '.join(sorted(known - set(tally.ops))) or 'none'}.",
        "",
        "Graphs per operator: " + ", ".join(f"{op} {n}" for op, n in tally.ops.most_common()) + ".",
        "",
    ]
    if tally.failures:
        lines += ["## Failures", "", *(f"- `{f.splitlines()[0]}`" for f in tally.failures), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of single graphs, shown in full")
    parser.add_argument("--out", type=Path, default=None, help=f"where the report goes, such as {RESULTS}")
    given = parser.parse_args()
    start = time.monotonic()
    tally = run(given.seed, given.only or range(given.count), given.minutes, verbose=bool(given.only))
    if given.only:
        for index in given.only:  # beside the text, for a closer look
            onnx.save(made(given.seed, index)[1], f"stress-{given.seed}-{index}.onnx")
    text = report(tally, given.seed, time.monotonic() - start)
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
    return bool(tally.failures)


if __name__ == "__main__":
    raise SystemExit(main())
