"""What choices per block are worth: the importance kept and the outputs, against offsets shared by all blocks.

    python -m benchmarks.fibres [--only REGEX] [--macs 80%,50%]

Both plans keep the same share of MACs with `align=1`. "kept" is the share of the squared weights that stays, "in
blocks" the same over the weights that hold offsets of blocks. "same widths" takes the number of units per group from
the shared plan, so that nothing but the choice per block differs. "error" is |y - y0| / |y0| over the outputs,
"agreement" the share of inputs with the same class. Nothing is fine-tuned. Needs `python -m benchmarks.zoo.export`
for the networks of the zoo (random weights), `python -m tests.assets` for real files, and Fashion-MNIST for the
trained network of grouped convolutions. Writes `benchmarks/results/fibres.md` and `.json`.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from benchmarks.common import Row, header, table, write_results
from benchmarks.zoo.export import zoo_dir
from graphprune import api
from graphprune.budget.planner import Planner
from graphprune.coupling.cut import Cut
from graphprune.graph.model import Array
from graphprune.graph.run import Runner, random_feeds
from graphprune.rewrite.onnx import rewrite
from graphprune.verify.compare import verify_cut
from tests.assets import fetch

SAMPLES = 8


@dataclass(frozen=True)
class Model:
    """A file to measure.

    Attributes:
        weights: Where its weights come from: "trained" or "random".
        classes: Whether its first output holds one score per class.
        data: Whether it reads Fashion-MNIST.
    """

    weights: str
    classes: bool = False
    data: bool = False


MODELS = {
    "grouped_fashion": Model("trained", classes=True, data=True),
    "minilm_l6_int8": Model("trained"),
    "ppocr4_rec": Model("trained", classes=True),
    "resnext50_32x4d.script": Model("random", classes=True),
    "regnet_x_400mf.script": Model("random", classes=True),
    "vit_b_16.dynamo": Model("random", classes=True),
    "swin_t.script": Model("random", classes=True),
}
REAL = {"minilm_l6_int8", "ppocr4_rec"}


def path_of(name: str) -> Path:
    """The file, made or fetched on first use where that is possible."""
    if name == "grouped_fashion":
        from benchmarks.grouped_net import grouped_fashion

        return grouped_fashion()
    return fetch(name) if name in REAL else zoo_dir() / f"{name}.onnx"


def kept_shares(cut: Cut) -> Row:
    """Share of the squared weights that stays: over all matrices and kernels, and over those with blocks."""
    deps = cut.deps.shared or cut.deps
    blocks = {p.tensor for f in deps.fibres.factors for p in f.places}
    whole, kept = np.zeros(2), np.zeros(2)
    for name, weight in deps.source.weights.items():
        if len(weight.shape) > 1 and weight.dtype.startswith("float") and name in deps.types:
            array = weight.read().astype(np.float64)
            counts = np.array([1.0, float(name in blocks)])
            whole += counts * (array**2).sum()
            kept += counts * (cut.box(name, array.ndim).take(array) ** 2).sum()
    return {"kept": round(float(kept[0] / whole[0]), 4), "in_blocks": round(float(kept[1] / whole[1]), 4)}


def same_widths(planner: Planner, cut: Cut) -> Cut:
    """The planner's least important units, as many of each group as another cut removes."""
    units = [
        g.units[np.argsort(planner.scores[g.units], kind="stable")[: int(cut.removed[g.units].sum())]]
        for g in planner.deps.groups
    ]
    return planner.deps.cut(np.concatenate(units))


class Judge:
    """Compares outputs with those of the original."""

    def __init__(self, source: api.Graph, model: Model) -> None:
        self.model = model
        self.labels: Array | None = None
        self.feeds: list[Mapping[str, Array]]
        if model.data:
            from benchmarks.grouped_net import images

            x, self.labels = images("t10k")
            self.feeds = [{source.inputs[0]: batch} for batch in np.split(x, 20)]
        else:
            self.feeds = list(random_feeds(source, SAMPLES, 0))
        self.wanted = self._run(source.source)

    def _run(self, model: ir.Model) -> list[Array]:
        runner = Runner(model)
        return [np.asarray(runner(feed)[0], np.float64) for feed in self.feeds]

    def __call__(self, model: ir.Model) -> Row:
        """Error, agreement and, with labels, accuracy."""
        got = self._run(model)
        pairs = list(zip(self.wanted, got, strict=True))
        error = np.sqrt(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((a**2).sum() for a in self.wanted))
        row: Row = {"error": round(float(error), 4)}
        if self.model.classes:
            same = np.concatenate([(a.argmax(-1) == b.argmax(-1)).ravel() for a, b in pairs])
            row["agreement"] = round(float(same.mean()), 4)
        if self.labels is not None:
            row["accuracy"] = round(float((np.concatenate(got).argmax(1) == self.labels).mean()), 4)
        return row


def measure(name: str, macs: str) -> Row:
    """Both plans of one file, and the fibres at the widths of the shared one."""
    graph = api.load(path_of(name))
    deps = api.analyze(graph)
    began = time.perf_counter()
    found = deps.fibres
    row: Row = {
        "model": name,
        "macs": macs,
        "weights": MODELS[name].weights,
        "seconds": round(time.perf_counter() - began, 3),
        "units": sum(f.size for f in found.factors),
        "choices": sum(f.size * f.number for f in found.factors),
    }
    judge = Judge(graph, MODELS[name])
    row["original"] = judge(graph.source)
    options = {"macs": macs, "align": 1}
    shared = Planner.from_options(deps, {**options, "shared_offsets": True})
    fibres = Planner.from_options(deps, options)
    one = shared.deps.cut(shared.units())
    cuts = {"shared": one, "same widths": same_widths(fibres, one), "fibres": fibres.deps.cut(fibres.units())}
    for kind, cut in cuts.items():
        model = rewrite(cut)
        after = shared.cost.costs(cut.removed).macs / shared.dense.macs
        verdict = verify_cut(cut, model)
        if not verdict.passed:
            raise RuntimeError(f"{name}, {kind}: {verdict.text}")
        row[kind] = {"macs": round(after, 4), **kept_shares(cut), **judge(model)}
    return row


def report(rows: list[Row]) -> str:
    """The rows as a markdown table."""
    kinds = ("shared", "same widths", "fibres")
    lines = []
    for row in rows:
        for kind in kinds:
            found = row[kind]
            share = "accuracy" if "accuracy" in found else "agreement"
            classes = f"{share} {found[share]:.1%}" if share in found else "-"
            units, error = f"{row['units']} / {row['choices']}", f"{found['error']:.3f}"
            shares = [f"{found[k]:.1%}" for k in ("macs", "kept", "in_blocks")]
            lines.append([row["model"], row["weights"], row["macs"], units, kind, *shares, error, classes])
    names = (
        "model",
        "weights",
        "target",
        "units / choices",
        "offsets",
        "MACs",
        "kept",
        "in blocks",
        "error",
        "classes",
    )
    return table(lines, names)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fibres", description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--macs", default="80%,50%", help="targets, comma-separated")
    options = parser.parse_args()
    rows = []
    for name in MODELS:
        for macs in options.macs.split(","):
            if re.search(options.only, name):
                rows.append(measure(name, macs))
                print(rows[-1], flush=True)
    text = report(rows)
    print(text)
    write_results("fibres", f"{header('Choices per block')}\n{text}", rows)


if __name__ == "__main__":
    main()
