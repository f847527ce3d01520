"""Latency as a cost: what predicts it, what corrects it, tables from elsewhere. No test looks at a real time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphprune import api
from graphprune.budget.pace import Pace, parse_latency
from graphprune.cost import CostModel
from graphprune.cost.latency import latency
from graphprune.cost.operators import operators
from graphprune.cost.stopwatch import SessionStopwatch, Shape, Times, shape_of
from graphprune.cost.table import load_table, table_latency
from graphprune.cost.times import TimesFile
from graphprune.errors import InputError
from graphprune.graph.pairing import Paired
from graphprune.graph.timing import Machine, NodeTime, Setting, node_times
from tests.commandline import FASHION, done
from tests.cuts import random_cut
from tests.graphs import GRAPHS, Builder

HERE = Machine("Test CPU", "1.0", "CPUExecutionProvider", 1)


def network() -> onnx.ModelProto:
    """Two convolutions of 64 channels and a classifier."""
    b = Builder()
    x = b.source("x", (1, 3, 16, 16))
    a = b.op("Relu", b.conv(x, 3, 64, 3))
    a = b.op("Relu", b.conv(a, 64, 96, 3))
    return b.build(b.conv(a, 96, 32, 1))


def known(seconds: float = 0.01) -> tuple[Any, CostModel, Any]:
    """A model whose operators take a time in proportion to their work, in blocks of 16."""
    deps = api.analyze(network())
    cost = CostModel(deps)
    found = operators(deps, cost.lengths, Setting())

    def stopwatch(shape: Shape, at: Sequence[tuple[int, ...]]) -> Times:
        rounded = {w: np.prod([-(-n // 16) * 16 for n in w], dtype=np.float64) for w in at}
        return {w: shape.operator.seconds * float(r / np.prod(shape.steps)) for w, r in rounded.items()}

    return (
        deps,
        cost,
        latency(
            deps, cost.lengths, Setting(), total=lambda: seconds, stopwatch=stopwatch, found=found, times=_nothing()
        ),
    )


def _nothing() -> TimesFile:
    return TimesFile(HERE, Path(tempfile.mkdtemp(prefix="graphprune-")))


# -- operators -------------------------------------------------------------------------------------------


def test_operators_are_those_that_the_runtime_runs_with_the_axes_of_the_model() -> None:
    deps = api.analyze(network())
    cost = CostModel(deps)
    found = [o for o in operators(deps, cost.lengths, Setting()) if o.op in ("Conv", "FusedConv")]
    assert len(found) == 3  # activations went into them
    sizes = []
    for operator in found:
        shape = shape_of(operator, lambda axes: int(np.prod([cost.lengths.axes[a].n for a in axes])))
        assert shape is not None
        assert not shape.joint
        sizes.append(sorted(shape.sizes))
    assert sizes == [[64], [64, 96], [96]]


@pytest.mark.parametrize(
    "name",
    [
        "resnet_stage",
        "inverted_residual",
        "grouped_conv",
        "conv_transpose",
        "vit_fused_qkv",
        "lstm",
        "unet",
        "if_branches",
    ],
)
def test_any_operator_can_be_timed_at_other_widths(name: str) -> None:
    deps = api.analyze(GRAPHS[name]())
    cost = CostModel(deps)
    watch = SessionStopwatch(Setting(), _one_run)
    timed = 0
    for operator in operators(deps, cost.lengths, Setting()):
        shape = shape_of(operator, lambda axes: int(np.prod([cost.lengths.axes[a].n for a in axes])))
        if shape is not None:
            half = tuple(max(1, n // 2) for n in shape.steps)
            times = watch(shape, [shape.steps, half])
            timed += set(times) == {shape.steps, half}
    assert timed > 0


def _one_run(model: bytes, feed: Mapping[str, Any], setting: Setting, _: int) -> list[NodeTime]:
    return node_times(model, feed, setting, 1)


# -- prediction ------------------------------------------------------------------------------------------


def test_the_whole_takes_the_measured_time() -> None:
    deps, cost, found = known(0.0123)
    none = np.zeros(deps.state.store.count, bool)
    assert found.measure.total(cost.kept(none)) == pytest.approx(0.0123e9, rel=1e-4)


def test_the_prediction_is_the_sum_over_operators() -> None:
    """Each operator's share in the model times the stopwatch's law at the kept widths."""
    deps, cost, found = known()
    for seed in range(4):
        cut = random_cut(deps, seed)
        if cut is None:
            continue
        kept = cost.kept(cut.removed)
        whole = sum(p.seconds for p in found.pieces)
        wanted = found.overhead
        for p in found.pieces:
            wide = [np.prod([kept[a] for a in axes]) for axes in p.axes]
            rounded = [min(-(-w // 16) * 16, n) if p.curve else w for w, n in zip(wide, p.sizes, strict=True)]
            share = np.prod([w / n for w, n in zip(rounded, p.sizes, strict=True)])
            wanted += p.seconds * float(share) * (found.seconds - found.overhead) / whole
        assert found.measure.total(kept) == pytest.approx(wanted * 1e9, rel=0.05)


def test_equal_shapes_are_timed_once_and_never_again(tmp_path: Path) -> None:
    b = Builder()
    x = b.source("x", (1, 3, 8, 8))
    a = b.conv(x, 3, 32, 3)
    for _ in range(3):
        a = b.op("Relu", b.conv(a, 32, 32, 3))
    deps = api.analyze(b.build(a))
    cost = CostModel(deps)
    found = operators(deps, cost.lengths, Setting())
    asked: list[str] = []

    def stopwatch(shape: Shape, at: Sequence[tuple[int, ...]]) -> Times:
        asked.append(shape.key)
        return {w: 1e-6 * float(np.prod(w)) for w in at}

    for _ in range(2):
        times = TimesFile(HERE, tmp_path)
        latency(deps, cost.lengths, Setting(), total=lambda: 1e-3, stopwatch=stopwatch, found=found, times=times)
    assert len(set(asked)) < 4
    assert set(asked) == set(json.loads(times.path.read_text())["times"])


# -- the loop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [lambda p: p, lambda p: p**0.7, lambda p: 0.2 + 0.8 * p, lambda p: min(1, p * 1.3)])
def test_a_prediction_that_is_off_is_corrected_by_measuring(bias: Any) -> None:
    """The stand-in for a race answers what the bias makes of the prediction; widths may take any value."""
    deps, cost, found = known()
    state = {"share": 1.0}
    pace = Pace(deps, cost, "60%", Setting(), known=found, race=lambda _a, _b: _pair(bias(state["share"])))
    whole = pace.limit / 0.6
    for _ in range(4):
        state["share"] = pace.limit / whole
        pace.predicted = lambda _: state["share"] * whole  # type: ignore[method-assign]
        if pace.measure(None, None, np.zeros(1, bool)):
            break
    assert pace.best.measured == pytest.approx(0.6, rel=0.05)
    assert pace.best.met


def test_measuring_stops_where_another_limit_binds() -> None:
    deps, cost, found = known()
    pace = Pace(deps, cost, "60%", Setting(), known=found, race=lambda _a, _b: _pair(0.3))
    whole = pace.limit / 0.6
    pace.predicted = lambda _: 0.31 * whole  # type: ignore[method-assign]
    assert pace.measure(None, None, np.zeros(1, bool))
    assert not pace.best.missed


def test_the_best_candidate_counts() -> None:
    deps, cost, found = known()
    answers = iter([0.7, 0.5, 0.62, 0.8])
    pace = Pace(deps, cost, "58%", Setting(), known=found, race=lambda _a, _b: _pair(next(answers)))
    kept = []
    while not pace.measure(None, None, np.zeros(deps.state.store.count, bool)):
        kept.append(pace.leads)
    assert pace.best.measured in (0.5, 0.62)
    assert pace.best.rounds == pace.timing.rounds


@pytest.mark.parametrize(("rival", "held"), [(0.6, True), (0.609, True), (0.62, False), (0.5, False)])
def test_a_rival_has_to_keep_to_the_target(rival: float, held: bool) -> None:
    deps, cost, found = known()
    answers = iter([0.59, rival, rival])
    pace = Pace(deps, cost, "60%", Setting(), known=found, race=lambda _a, _b: _pair(next(answers)))
    none = np.zeros(deps.state.store.count, bool)
    assert pace.measure(None, None, none)
    assert pace.admits(None, None, none) == held
    assert pace.best.measured == (rival if held else 0.59)
    assert pace.best.rounds == (1 if rival > 0.612 else 2)


def _pair(ratio: float) -> Paired:
    return Paired(np.ones(3), np.full(3, ratio))


@pytest.mark.parametrize(
    ("text", "value"), [("60%", (0.6, True)), ("8ms", (0.008, False)), ("500 us", (5e-4, False)), ("1S", (1.0, False))]
)
def test_latencies_are_read(text: str, value: tuple[float, bool]) -> None:
    assert parse_latency(text) == (pytest.approx(value[0]), value[1])


def test_a_pruned_file_is_measured_and_reported(tmp_path: Path) -> None:
    done(FASHION, tmp_path / "o.onnx", "--latency", "70%", "--align", "4", "-q")
    report = json.loads((tmp_path / "o.report.json").read_text())["latency"]
    assert report["provider"] == "CPUExecutionProvider"
    assert report["threads"] == 1
    assert report["target"] == pytest.approx(0.7 * report["before"])
    assert report["measured"] == pytest.approx(report["ratio"] * report["before"])
    assert report["rounds"] >= 1
    recipe = (tmp_path / "o.recipe.yaml").read_text()
    assert "latency: 70%" in recipe


# -- tables ----------------------------------------------------------------------------------------------


def _table(tmp_path: Path, rows: Sequence[tuple[str, str, float]]) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("operator,shapes,time\n" + "".join(f'{op},"{shapes}",{t}\n' for op, shapes, t in rows))
    return path


def rows() -> list[tuple[str, str, float]]:
    """All convolutions of the network at two widths each, times in ms by a law of their own."""
    out = []
    for a in (64, 32):
        out.append(("Conv", f"1x3x16x16;{a}x3x3x3;{a}", 0.01 * a))
        out += [("Conv", f"1x{a}x16x16;{b}x{a}x3x3;{b}", 1e-4 * a * b + 0.1) for b in (96, 48)]
    return out + [("Conv", f"1x{b}x16x16;32x{b}x1x1;32", 0.002 * b) for b in (96, 48)]


def test_a_table_is_met_where_it_has_rows_and_read_between_them(tmp_path: Path) -> None:
    deps = api.analyze(network())
    cost = CostModel(deps)
    found = table_latency(deps, cost.lengths, load_table(_table(tmp_path, rows())))
    none = np.zeros(deps.state.store.count, bool)
    kept = cost.kept(none)
    assert found.measure.total(kept) == pytest.approx((0.64 + 0.7144 + 0.192) * 1e6, rel=1e-5)
    for a, b in ((32, 48), (48, 96), (64, 72)):
        kept[[i for i, axis in enumerate(cost.lengths.axes) if axis.n == 64]] = a
        kept[[i for i, axis in enumerate(cost.lengths.axes) if axis.n == 96]] = b
        wanted = 0.01 * a + 1e-4 * a * b + 0.1 + 0.002 * b
        assert found.measure.total(kept) == pytest.approx(wanted * 1e6, rel=1e-4)


def test_json_csv_and_functions_say_the_same(tmp_path: Path) -> None:
    deps = api.analyze(network())
    cost = CostModel(deps)
    entries = [
        {"operator": op, "shapes": [[int(n) for n in s.split("x")] for s in shapes.split(";")], "time": t}
        for op, shapes, t in rows()
    ]
    (tmp_path / "t.json").write_text(json.dumps(entries))
    (tmp_path / "t.py").write_text(
        "def t(operator, shapes, attributes):\n"
        "    if operator != 'Conv':\n"
        "        return None\n"
        "    a, b = shapes[0][1], shapes[1][0]\n"
        "    return {3: 0.01 * b, 32: 0.002 * a}.get(a if a == 3 else b, 1e-4 * a * b + 0.1)\n"
    )
    found = [
        table_latency(deps, cost.lengths, load_table(source))
        for source in (_table(tmp_path, rows()), tmp_path / "t.json", f"{tmp_path / 't.py'}:t")
    ]
    kept = cost.kept(np.zeros(deps.state.store.count, bool))
    assert len({f.measure.total(kept) for f in found}) == 1


def test_a_table_with_holes_names_them(tmp_path: Path) -> None:
    deps = api.analyze(network())
    path = _table(tmp_path, [r for r in rows() if "96" not in r[1] or ";32x" in r[1]])
    with pytest.raises(InputError, match=r"no time for Conv 1x64x16x16;96x64x3x3"):
        table_latency(deps, CostModel(deps).lengths, load_table(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has none"),
        ("operator,time\nConv,1\n", "row 1: has no shapes"),
        ("operator,shapes,time\nConv,1x3;axb,1\n", "row 1: cannot be read"),
        ("operator,shapes,time\nConv,1x3,-1\n", "row 1: the time must be a number"),
        ("operator,shapes,time\nConv,1x3,nan\n", "row 1: the time must be a number"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_table(tmp_path / "t.csv")


def test_a_plan_by_a_table_is_not_measured(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(network(), model)
    done(model, tmp_path / "o.onnx", "--latency", "60%", "--latency-table", _table(tmp_path, rows()), "-q")
    report = json.loads((tmp_path / "o.report.json").read_text())["latency"]
    assert report["measured"] is None
    assert report["predicted"] <= 0.6 * report["before"] * 1.001
    assert report["before"] == pytest.approx(0.64 + 0.7144 + 0.192, rel=1e-4)


def test_a_module_is_not_timed() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    with pytest.raises(InputError, match="latency is measured in onnxruntime; export the model to ONNX"):
        api.plan(module, example_inputs=torch.zeros(2, 8), latency="60%", align=8)
