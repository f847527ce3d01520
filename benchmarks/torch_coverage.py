"""Prunes every network of torchvision and the zoo's transformers to half their MACs, without hints of any kind.

Usage: python -m benchmarks.torch_coverage [PATTERN] [--timeout 300] [--fresh] [--failed] [--own] [--write]

For each, in a process of its own: capture, analysis and rewriting are timed, the pruned module is verified, runs
forward and backward in evaluation and in training mode and gives outputs of the same shape. Beside it Torch-Pruning:
its graph and one step with half the channels, and whether the network runs afterwards.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common import Row, cached_job, emit, fingerprint, header, table, write_results

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS = ("graphprune", "torch-pruning")
_RUN = {"graphprune": lambda job: prune(job["path"]), "torch-pruning": lambda job: peer(job["path"])}


class _Clock:
    """Seconds per phase; every phase is told to the parent, so that a row says where it ended."""

    def __init__(self) -> None:
        self.row: Row = {"sources": fingerprint()}

    def run(self, phase: str, work: Any) -> Any:
        """Time one phase."""
        emit({**self.row, "phase": phase})
        start = time.perf_counter()
        out = work()
        self.row[phase] = round(time.perf_counter() - start, 2)
        return out


def prune(name: str) -> Row:
    """What graphprune makes of one network."""
    import torch

    import graphprune as gp
    from benchmarks.torch_models import made
    from graphprune.rewrite.torch import note
    from graphprune.search import search

    torch.set_num_threads(1)
    clock = _Clock()
    row = clock.row
    model, inputs = clock.run("build", lambda: made(name))
    shapes = _shapes(model(*inputs))
    graph = clock.run("capture", lambda: gp.trace(model, inputs, name=name))
    deps = clock.run("analysis", lambda: gp.analyze(graph))
    row["opaque"] = sorted(set(deps.state.opaque.values()))
    steps: list[tuple[str, float]] = []
    result = clock.run(
        "search",
        lambda: search(deps, {"macs": "50%"}, check=True, feeds=(), samples=1, progress=_stamped(steps)),
    )
    steps.append(("end", time.perf_counter()))
    for (step, start), (_, end) in pairwise(steps):
        row[step] = round(row.get(step, 0) + end - start, 2)
    small, made_note = result.model, note(result.model)
    row |= {
        "kind": made_note.kind,
        "why": made_note.why,
        "same": type(small) is type(model),
        "macs": round(100 * result.after.macs / result.before.macs, 1),
        "params": round(100 * result.after.params / result.before.params, 1),
        "error": result.verdict.error if result.verdict else None,
        "frozen": list(result.frozen),
    }
    row["shape"] = clock.run("forward", lambda: _shapes(small(*inputs))) == shapes
    for mode in ("eval", "train"):
        try:
            clock.run(f"{mode} backward", lambda mode=mode: _backward(small.train(mode == "train"), inputs))
            row[f"{mode} runs"] = True
        except Exception as error:
            row[f"{mode} runs"] = f"{type(error).__name__}: {str(error)[:200]}"
    return row


def _stamped(steps: list[tuple[str, float]]) -> Any:
    return lambda step: steps.append((step, time.perf_counter()))


def peer(name: str) -> Row:
    """Torch-Pruning on one network, without hints."""
    import torch
    import torch_pruning as tp

    from benchmarks.torch_models import made

    torch.set_num_threads(1)
    clock = _Clock()
    row = clock.row
    model, inputs = clock.run("build", lambda: made(name))
    shapes = _shapes(model(*inputs))
    before, _ = tp.utils.count_ops_and_params(model, inputs)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = clock.run("graph", lambda: tp.pruner.BasePruner(model, inputs, importance=importance, pruning_ratio=0.5))
    clock.run("step", pruner.step)
    row["shape"] = clock.run("forward", lambda: _shapes(model(*inputs))) == shapes
    row["runs"] = True
    after, _ = tp.utils.count_ops_and_params(model, inputs)
    row["macs"] = round(100 * after / before, 1)
    return row


def _shapes(out: Any) -> list[tuple[int, ...]]:
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    return [tuple(t.shape) for t in tree_leaves(out) if isinstance(t, Tensor)]


def _backward(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """One step of a loss over all outputs; some parameter has to get a gradient."""
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    model.zero_grad()
    out = [t for t in tree_leaves(model(*inputs)) if isinstance(t, Tensor) and t.is_floating_point()]
    sum(t.square().mean() for t in out).backward()  # type: ignore[union-attr]
    assert any(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def good(row: Row) -> bool:
    """Whether a row of graphprune is a full success."""
    done = row.get("error") is not None and not row.get("broken")
    return bool(done and row["shape"] and row["eval runs"] is True and row["train runs"] is True)


def report(rows: dict[str, dict[str, Row]]) -> str:
    """The table and the counts."""
    lines = []
    for name, pair in rows.items():
        ours, theirs = pair["graphprune"], pair["torch-pruning"]
        state = ours.get("kind") or ours.get("broken", "")[:90]
        seconds = [ours.get(k, "-") for k in ("capture", "analysis", "plan", "rewrite", "verify")]
        peer_state = ("runs" if theirs.get("shape") else "runs, other output") if theirs.get("runs") else "fails"
        total = sum(ours.get(k, 0) for k in ("capture", "analysis", "rewrite"))
        peer_time = round(theirs["graph"] + theirs["step"], 2) if "step" in theirs else "-"
        error = f"{ours['error']:.0e}" if ours.get("error") is not None else "-"
        runs = "".join("✓" if ours.get(f"{m} runs") is True else "✗" for m in ("eval", "train"))
        lines.append(
            (name, state, runs, ours.get("macs", "-"), error, *seconds, round(total, 2), peer_state, peer_time)
        )
    names = ("network", "result", "runs", "MACs %", "error", "capture", "analysis", "plan", "rewrite", "verify")
    shown = table(lines, (*names, "ours s", "Torch-Pruning", "its s"))
    states = len({r["graphprune"].get("sources") for r in rows.values()})
    note = f"Pairs were measured one after the other, all rows with {states} states of graphprune's sources."
    return f"{shown}\n\n{_counts(rows)}\n\n{_speed(rows)}\n\n{note}"


def _speed(rows: dict[str, dict[str, Row]]) -> str:
    """Seconds beside Torch-Pruning's, on the networks that both prune."""
    steps = ("capture", "analysis", "rewrite")
    both = [
        (sum(a[k] for k in steps), a["plan"], b["graph"] + b["step"])
        for a, b in ((pair["graphprune"], pair["torch-pruning"]) for pair in rows.values())
        if all(k in a for k in (*steps, "plan")) and b.get("runs")
    ]
    all_ours = [sum(r["graphprune"][k] for k in steps) for r in rows.values() if "rewrite" in r["graphprune"]]
    if not both:
        return ""
    ours, plans, theirs = zip(*both, strict=True)
    ratio = median(a / t for a, t in zip(ours, theirs, strict=True))
    whole = median((a + p) / t for a, p, t in both)
    return (
        f"On the {len(both)} networks that run after both, seconds (median): capture + analysis + rewrite"
        f" {median(ours):.2f}, the plan {median(plans):.2f}, Torch-Pruning's graph + step {median(theirs):.2f}; median"
        f" ratio {ratio:.2f}, with the plan {whole:.2f}. Over all {len(all_ours)} networks ours take"
        f" {median(all_ours):.2f} s (median) and {max(all_ours):.1f} s at most; of it {_parts(rows, steps)}."
    )


def _parts(rows: dict[str, dict[str, Row]], steps: Sequence[str]) -> str:
    found = [r["graphprune"] for r in rows.values() if "rewrite" in r["graphprune"]]
    return ", ".join(f"{step} {median(r[step] for r in found):.2f} s" for step in steps)


def _counts(rows: dict[str, dict[str, Row]]) -> str:
    text = []
    for family in dict.fromkeys(name.partition("/")[0] for name in rows):
        part = [r for name, r in rows.items() if name.startswith(f"{family}/")]
        ours, theirs = [r["graphprune"] for r in part], [r["torch-pruning"] for r in part]
        fine = [r for r in ours if good(r)]
        same = sum(r["kind"] == "same class" for r in fine)
        text.append(
            f"- {family}, {len(part)} networks: {len(fine)} verified, run forward and backward in both modes and keep"
            f" their output shape ({same} of the same class, {len(fine) - same} as a graph module);"
            f" Torch-Pruning: {sum(bool(r.get('runs')) for r in theirs)} run,"
            f" {sum(bool(r.get('runs') and r.get('shape')) for r in theirs)} with the output shape kept."
        )
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--failed", action="store_true", help="measure again what did not succeed in its own class")
    parser.add_argument("--own", action="store_true", help="with --fresh: keep the rows of Torch-Pruning")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/torch-coverage")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        job = json.loads(args.worker)
        emit(_RUN[job["kind"]](job))
        return
    from benchmarks.torch_models import names

    rows: dict[str, dict[str, Row]] = {}
    for name in (n for n in names() if re.search(args.pattern, n)):
        rows[name] = {}
        for kind in KINDS:
            again = args.failed and kind == "graphprune"
            row = cached_job(
                "benchmarks.torch_coverage",
                {"path": name, "kind": kind, "family": name.partition("/")[0]},
                args.timeout,
                fresh=args.fresh and (kind == "graphprune" or not args.own),
                redo=lambda row, again=again: again and not (good(row) and row["kind"] == "same class"),
            )
            rows[name][kind] = row
            print(name, kind, row.get("kind", ""), row.get("macs", ""), row.get("error", ""), row.get("broken", ""),
                  row.get("train runs", ""), row["total_seconds"], flush=True)  # fmt: skip
    text = report(rows)
    print(text)
    if args.write:
        write_results("torch-coverage", f"{header('Coverage and speed on PyTorch modules')}\n{text}", rows)


if __name__ == "__main__":
    main()
