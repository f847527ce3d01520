"""Streamed statistics against the same ones of all values at once, and against what layers really compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphprune as gp
from graphprune.calibration import Calibration, cache, passes
from graphprune.calibration.grams import GramSums
from graphprune.calibration.values import HIDDEN, OnnxValues, values_of
from graphprune.errors import InputError
from graphprune.folding.linear import linear
from graphprune.graph.run import Runner, random_feeds
from tests.graphs import GRAPHS, Builder, run

rng = np.random.default_rng(0)


def feeds_of(deps: Any, count: int = 5) -> list[dict[str, np.ndarray]]:
    return [f for s in range(count) for f in random_feeds(deps.source, 1, s)[:1]]


def layers(deps: Any) -> list[tuple[str, int]]:
    nodes = {n.name: n for n in deps.source.nodes}
    return [(s.node, s.slot) for s in deps.sites if s.slot == 0 and nodes[s.node].op in ("Conv", "Gemm", "MatMul")]


def all_values(deps: Any, names: list[str], feeds: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Values of all feeds stacked on axis 0, in double precision."""
    read = values_of(deps.source, 1).reader(names)
    found = [read(f) for f in feeds]
    return {n: np.concatenate([f[n] for f in found]).astype(np.float64) for n in names}


# -- moments -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("chunk", [1 << 19, 100])
def test_moments_are_those_of_all_values_at_once(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.calibration.moments._CHUNK", chunk)
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    feeds = feeds_of(deps)
    nodes = {n.name: n for n in deps.source.nodes}
    wanted: list[Any] = [(nodes[n].inputs[0], 1) for n, _ in layers(deps)]
    wanted += [(wanted[1][0], (1, 3)), (wanted[1][0], (3, 1)), (wanted[1][0], 0)]
    found = Calibration(deps, feeds).moments(wanted)
    values = all_values(deps, [n for n, _ in wanted], feeds)
    for (name, axes), moments in found.items():
        kept = axes if isinstance(axes, tuple) else (axes,)
        x = values[name]
        if kept == (0,):  # the batch of every feed is one axis: positions are those within a feed
            x = x.reshape(len(feeds), -1, *x.shape[1:]).swapaxes(0, 1)
        x = np.moveaxis(x, kept, range(len(kept)))
        x = x.reshape(*x.shape[: len(kept)], -1)
        assert moments.count == x.shape[-1]
        np.testing.assert_allclose(moments.mean, x.mean(-1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.mean_abs, np.abs(x).mean(-1), rtol=1e-9)
        np.testing.assert_allclose(moments.mean_square, (x**2).mean(-1), rtol=1e-9)
        np.testing.assert_allclose(moments.variance, x.var(-1), rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(moments.zero, (x == 0).mean(-1))
        np.testing.assert_allclose(moments.positive, (x > 0).mean(-1))
        np.testing.assert_allclose(moments.max_abs, np.abs(x).max(-1))


def test_a_small_variance_on_a_large_mean_survives() -> None:
    from graphprune.calibration.moments import MomentSums

    x = 1e6 + rng.standard_normal((4, 3, 500))
    sums = MomentSums((1,))
    for part in x:
        sums.add(part[None])
    np.testing.assert_allclose(sums.result().variance, x.var(axis=(0, 2)), rtol=1e-9)


# -- Gram matrices -----------------------------------------------------------------------------------------
def single(op: str, data: tuple[int, ...], weight: tuple[int, ...], *, left: bool = False, **attrs: Any) -> Any:
    """A model of one layer without a bias."""
    w = numpy_helper.from_array(rng.standard_normal(weight).astype("f4"), "w")
    node = helper.make_node(op, ["w", "x"] if left else ["x", "w"], ["y"], name="n", **attrs)
    y = onnx.ValueInfoProto(name="y")
    y.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, data)], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# As many outputs per group as columns, so that the outputs' products determine the whole Gram matrix.
SINGLE: dict[str, Any] = {
    "plain": single("Conv", (2, 3, 7, 6), (27, 3, 3, 3)),
    "strided": single("Conv", (2, 3, 9, 8), (18, 3, 3, 2), strides=[2, 3], pads=[1, 0, 2, 1]),
    "dilated groups": single("Conv", (1, 4, 9, 9), (36, 2, 3, 3), dilations=[2, 1], group=2, pads=[2, 1, 2, 1]),
    "depthwise": single("Conv", (2, 5, 6, 6), (45, 1, 3, 3), group=5, strides=[2, 2]),
    "same": single("Conv", (1, 2, 8, 7), (32, 2, 4, 4), auto_pad="SAME_LOWER", strides=[2, 2]),
    "one dimension": single("Conv", (2, 3, 11), (15, 3, 5), strides=[2], pads=[2, 1]),
    "transposed": single("ConvTranspose", (2, 3, 4, 5), (3, 27, 3, 3), strides=[2, 1], pads=[1, 0, 1, 2]),
    "transposed groups": single("ConvTranspose", (1, 4, 4, 4), (4, 16, 2, 4), group=2, strides=[2, 3]),
    "gemm": single("Gemm", (5, 3), (4, 3), transB=1),
    "gemm turned": single("Gemm", (3, 5), (3, 4), transA=1),
    "product": single("MatMul", (2, 5, 3), (3, 4)),
    "weight on the left": single("MatMul", (2, 3, 5), (4, 3), left=True),
}


@pytest.mark.parametrize("chunk", [1 << 24, 40])
@pytest.mark.parametrize("name", SINGLE)
def test_products_of_outputs_follow_from_the_gram_matrix(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With outputs y = W x at every position, the sums of y yᵀ and of y are W G Wᵀ and W s."""
    monkeypatch.setattr("graphprune.calibration.sources._CHUNK", chunk)
    model = SINGLE[name]
    deps = gp.analyze(model)
    slot = int(name == "weight on the left")
    feeds = feeds_of(deps, 3)
    gram = Calibration(deps, feeds).grams([("n", slot)])["n", slot]
    node = deps.source.nodes[0]
    found = linear(deps.source, node, slot)
    assert found is not None
    weight = found.canonical(deps.source.weights["w"].read()).astype(np.float64)
    groups, inputs, outs, taps = weight.shape
    matrix = weight.transpose(0, 2, 1, 3).reshape(groups, outs, inputs * taps)
    made = np.stack([run(model, f)[0] for f in feeds]).astype(np.float64)
    rows = np.moveaxis(made, found.out_axis, -1).reshape(-1, groups, outs).transpose(1, 0, 2)
    assert gram.count == rows.shape[1]
    energy = np.abs(matrix @ gram.matrix @ matrix.transpose(0, 2, 1) - rows.transpose(0, 2, 1) @ rows).max()
    assert energy < 1e-5 * np.abs(rows.transpose(0, 2, 1) @ rows).max()
    np.testing.assert_allclose(
        np.einsum("gof,gf->go", matrix, gram.sums), rows.sum(axis=1), rtol=1e-4, atol=1e-4 * np.abs(rows).max()
    )


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("cut_short", [False, True])
def test_states_of_recurrent_layers_step_by_step(op: str, direction: str, cut_short: bool) -> None:
    """What R reads at each step, found by running one step after the other."""
    gates, both = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 1 + (direction == "bidirectional")
    time, batch, width, hidden = 5, 3, 4, 6
    w = rng.standard_normal((both, gates * hidden, width)).astype("f4")
    r = (rng.standard_normal((both, gates * hidden, hidden)) / 2).astype("f4")
    start = rng.standard_normal((both, batch, hidden)).astype("f4")
    ends = np.array([5, 2, 4] if cut_short else [5, 5, 5], np.int32)
    stored = {"w": w, "r": r, "start": start, "ends": ends}
    weights = [numpy_helper.from_array(a, n) for n, a in stored.items()]
    inputs = ["x", "w", "r", "", "ends" if cut_short else "", "start"]
    node = helper.make_node(op, inputs, ["", "last"], name="n", hidden_size=hidden, direction=direction)
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", (time, batch, width)), ("last", (both, batch, hidden)))
    ]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    deps = gp.analyze(model)
    feeds = feeds_of(deps, 2)
    found = Calibration(deps, feeds).grams([("n", 0), ("n", 2)])
    assert found["n", 2].matrix.shape == (both, hidden, hidden)
    read: list[list[np.ndarray]] = [[] for _ in range(both)]
    given: list[np.ndarray] = []
    for feed in feeds:
        for place in range(both):
            backwards = direction == "reverse" or place == 1
            for lane in range(batch):
                states = [start[place, lane], np.zeros(hidden, "f4")]
                steps = list(range(ends[lane]))
                for t in steps[::-1] if backwards else steps:
                    read[place].append(states[0])
                    if place == 0:
                        given.append(feed["x"][t, lane])
                    states = one_step(op, w[place], r[place], feed["x"][t, lane], states)
    for place in range(both):
        rows = np.stack(read[place]).astype(np.float64)
        np.testing.assert_allclose(found["n", 2].matrix[place], rows.T @ rows, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["n", 2].sums[place], rows.sum(axis=0), rtol=1e-4, atol=1e-4)
    rows = np.stack(given).astype(np.float64)
    assert found["n", 0].count == found["n", 2].count == len(rows)
    np.testing.assert_allclose(found["n", 0].matrix[0], rows.T @ rows, rtol=1e-4, atol=1e-4)


def one_step(op: str, w: np.ndarray, r: np.ndarray, x: np.ndarray, states: list[np.ndarray]) -> list[np.ndarray]:
    """One step of a layer in onnxruntime."""
    hidden, lstm = len(states[0]), op == "LSTM"
    names = ["x", "w", "r", "", "", "h", *(["c"] if lstm else [])]
    node = helper.make_node(op, names, ["", "y", *(["z"] if lstm else [])], hidden_size=hidden)
    arrays = {"x": x[None, None], "w": w[None], "r": r[None], "h": states[0][None, None]}
    arrays |= {"c": states[1][None, None]} if lstm else {}
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in arrays.items()]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 1, hidden)) for n in ("y", "z")[: 1 + lstm]]
    graph = helper.make_graph([node], "g", inputs, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    made = [a[0, 0] for a in run(model, arrays)]
    return [*made, states[1]][:2]


def test_channels_against_each_other() -> None:
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    feeds = feeds_of(deps)
    name = next(n.inputs[0] for n in deps.source.nodes if n.name == "Conv_7")
    gram = Calibration(deps, feeds).channel_grams([(name, 1)])[name, 1]
    x = np.moveaxis(all_values(deps, [name], feeds)[name], 1, 0)
    wanted = np.cov(x.reshape(len(x), -1), bias=True)
    np.testing.assert_allclose(gram.covariance()[0], wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_positions_are_drawn_evenly_and_by_the_seed() -> None:
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    feeds, (place, *_) = feeds_of(deps), layers(deps)
    whole = Calibration(deps, feeds).grams([place])[place]
    some = [Calibration(deps, feeds, positions=200, seed=s).grams([place])[place] for s in (0, 0, 1)]
    assert [s.count for s in some] == [200, 200, 200]
    assert np.array_equal(some[0].matrix, some[1].matrix)
    assert not np.array_equal(some[0].matrix, some[2].matrix)
    assert abs(np.trace(some[0].matrix[0]) / 200 / (np.trace(whole.matrix[0]) / whole.count) - 1) < 0.2
    many = Calibration(deps, feeds, positions=10**6).grams([place])[place]
    assert np.array_equal(many.matrix, whole.matrix)


# -- passes ------------------------------------------------------------------------------------------------
class Counted(list[dict[str, np.ndarray]]):
    """Feeds that count how often they are gone through, and may break off."""

    passes = 0
    stop = 10**9

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        self.passes += 1
        for place, feed in enumerate(super().__iter__()):
            if place == self.stop:
                raise KeyboardInterrupt
            yield feed


def test_what_does_not_fit_is_summed_in_further_passes() -> None:
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    feeds = Counted(feeds_of(deps))
    seen: list[tuple[int, int]] = []
    once = Calibration(deps, feeds_of(deps)).grams(layers(deps))
    several = Calibration(deps, feeds, memory=600_000, progress=lambda *n: seen.append(n)).grams(layers(deps))
    count = feeds.passes - 1  # one for the sizes of the first feed
    assert 1 < count < len(once)
    assert seen == [(n + 1, 5 * count) for n in range(5 * count)]
    for place, gram in once.items():
        assert np.array_equal(several[place].matrix, gram.matrix)
    assert any(isinstance(g.matrix, np.memmap) for g in several.values())
    held = sum(g.matrix.nbytes for g in several.values() if not isinstance(g.matrix, np.memmap))
    assert held <= 300_000


def test_results_are_shared_while_somebody_has_them() -> None:
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    feeds = Counted(feeds_of(deps))
    calibration = Calibration(deps, feeds)
    first = calibration.grams(layers(deps))
    before = feeds.passes
    again = calibration.grams(layers(deps))
    assert feeds.passes == before
    assert all(again[p] is first[p] for p in first)


@pytest.mark.parametrize("kind", ["moments", "grams"])
def test_an_interrupted_calibration_goes_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.Checkpoint, "due", lambda self: True)
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    nodes = {n.name: n for n in deps.source.nodes}
    wanted: list[Any] = layers(deps) if kind == "grams" else [(nodes[n].inputs[0], 1) for n, _ in layers(deps)]
    whole = getattr(Calibration(deps, feeds_of(deps)), kind)(wanted)
    broken = Counted(feeds_of(deps))
    broken.stop = 3
    with pytest.raises(KeyboardInterrupt):
        getattr(Calibration(deps, broken, cache=tmp_path), kind)(wanted)
    runs = counted_runs(monkeypatch)
    again = getattr(Calibration(deps, feeds_of(deps), cache=tmp_path), kind)(wanted)
    assert len(runs) == 2
    for place, result in whole.items():
        for name in ("matrix", "sums") if kind == "grams" else ("mean", "variance", "max_abs"):
            assert np.array_equal(getattr(again[place], name), getattr(result, name))
    getattr(Calibration(deps, feeds_of(deps), cache=tmp_path), kind)(wanted)
    assert len(runs) == 2
    assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]


def counted_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs: list[int] = []
    plain = Runner.__call__

    def counting(self: Runner, feed: Any) -> list[Any]:
        runs.append(1)
        return plain(self, feed)

    monkeypatch.setattr(Runner, "__call__", counting)
    return runs


def test_other_data_or_another_model_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    feeds = feeds_of(deps)
    Calibration(deps, feeds, cache=tmp_path).grams(layers(deps))
    other = [*feeds[:3], *(dict(f) for f in feeds[3:])]
    other[3] = {n: a + 1 for n, a in other[3].items()}
    plain = Calibration(deps, other).grams(layers(deps))
    cached = Calibration(deps, other, cache=tmp_path).grams(layers(deps))
    assert all(np.array_equal(cached[p].matrix, plain[p].matrix) for p in plain)
    model = GRAPHS["resnet_stage"]()
    tensor = next(t for t in model.graph.initializer if t.name == "block1.conv1.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    runs = counted_runs(monkeypatch)
    Calibration(gp.analyze(model), feeds, cache=tmp_path).grams(layers(deps))
    assert len(runs) == 5


def test_a_damaged_cache_is_not_read(tmp_path: Path) -> None:
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    place = layers(deps)[0]
    wanted = Calibration(deps, feeds_of(deps), cache=tmp_path).grams([place])[place]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    again = Calibration(deps, feeds_of(deps), cache=tmp_path).grams([place])[place]
    assert np.array_equal(again.matrix, wanted.matrix)


def test_passes_take_no_more_than_they_may() -> None:
    jobs = [passes.GramJob(str(n), _sized(n), 0, None) for n in (10, 20, 30, 1000, 5)]
    dealt = list(passes.dealt(jobs, lambda name: 100, memory=12 * 30**2 + 12 * 20**2 + 250))
    assert [[j.source.width for j in p] for p in dealt] == [[10, 20], [30], [1000], [5]]


def _sized(width: int) -> Any:
    from graphprune.calibration.grams import Source

    return Source((f"v{width}",), 1, width, lambda values, rng, limit: iter(()))


# -- what is refused ---------------------------------------------------------------------------------------
def test_what_cannot_be_measured_is_said() -> None:
    deps = gp.analyze(GRAPHS["resnet_stage"]())
    with pytest.raises(InputError, match="there are no samples to calibrate with"):
        Calibration(deps, [])
    calibration = Calibration(deps, feeds_of(deps))
    with pytest.raises(InputError, match="there is no node 'nothing'"):
        calibration.grams([("nothing", 0)])
    with pytest.raises(InputError, match="there is no Gram matrix for input 0"):
        calibration.grams([(next(n.name for n in deps.source.nodes if n.op == "Relu"), 0)])
    with pytest.raises(InputError, match="value 'nothing' cannot be read"):
        calibration.moments([("nothing", 0)])
    with pytest.raises(InputError, match="does not run on the calibration data"):
        bad = [{n: a[..., :5] for n, a in f.items()} for f in feeds_of(deps)]
        Calibration(deps, bad).grams(layers(deps))


def test_values_inside_control_flow_are_not_readable() -> None:
    deps = gp.analyze(GRAPHS["if_own_weights"]())
    values = OnnxValues(deps.source, 1)
    inner = {v.name for node in deps.source.source.graph.all_nodes() for v in node.outputs}
    top = {v.name for node in deps.source.source.graph for v in node.outputs}
    assert inner - top
    assert not any(values.has(n) for n in inner - top)
    assert all(values.has(n) for n in top - set(deps.source.weights))
    assert HIDDEN not in "".join(inner)


def test_half_precision_is_summed_in_full() -> None:
    b = Builder("half")
    x = b.source("x", (2, 3, 8, 8))
    model = b.build(b.conv(b.op("Relu", b.conv(x, 3, 8)), 8, 4))
    deps = gp.analyze(model)
    name = deps.source.nodes[1].outputs[0]
    from graphprune.calibration.moments import MomentSums

    value = all_values(deps, [name], feeds_of(deps))[name].astype(np.float16)
    sums = MomentSums((1,))
    sums.add(value)
    np.testing.assert_allclose(sums.result().mean, value.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-12)


def test_positions_that_are_alike_count_as_few() -> None:
    rng = np.random.default_rng(0)
    alone, alike = GramSums(1, 8), GramSums(1, 8)
    for _ in range(40):
        rows = rng.standard_normal((1, 10, 8))
        alone.add(np.repeat(rows, 25, axis=1)[:, rng.permutation(250)])
        alike.add(rng.standard_normal((1, 250, 8)))
    assert 300 < alone.result().independent < 530  # each of 400 is there 25 times
    assert alike.result().independent > 8000
