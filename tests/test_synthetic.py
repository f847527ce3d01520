"""Samples made for a model without data, against the statistics that onnxruntime and PyTorch see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto
from torch import Tensor, nn

import graphprune as gp
from graphprune import recipe_values
from graphprune.data import sources
from graphprune.errors import InputError
from graphprune.graph.run import Runner
from tests.commandline import done, refused
from tests.graphs.builder import Builder


def net(batch: int | str = "n", *, seed: int = 0, foreign: bool = False) -> onnx.ModelProto:
    """Two convolutions with BatchNormalizations that have seen smooth pictures, not white noise."""
    b = Builder(seed=seed)
    x = b.source("x", [batch, 3, 12, 12])
    y = b.op("Conv", x, b.weight(8, 3, 3, 3, fan_in=27), pads=[1, 1, 1, 1])
    y = b.op("QuickGelu", y, domain="com.microsoft") if foreign else y
    y = b.op("Relu", norm(b, y, 8, "first"))
    y = b.op("Conv", y, b.weight(8, 8, 3, 3, fan_in=72), pads=[1, 1, 1, 1])
    y = b.op("GlobalAveragePool", b.op("Relu", norm(b, y, 8, "second")))
    b.op("Gemm", b.op("Flatten", y), b.weight(8, 4, fan_in=8))
    return with_statistics(b.build(b.nodes[-1].output[0]))


def norm(b: Builder, x: str, channels: int, name: str) -> str:
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    scale, bias = b.const(ones, f"{name}_scale"), b.const(zeros, f"{name}_bias")
    return b.op("BatchNormalization", x, scale, bias, b.const(zeros, f"{name}_mean"), b.const(ones, f"{name}_var"))


def pictures(count: int) -> np.ndarray:
    """Steps of brightness: neighbours are alike, and channels have different means."""
    rng = np.random.default_rng(9)
    coarse = np.repeat(np.repeat(rng.standard_normal((count, 3, 3, 3)), 4, 2), 4, 3)
    return (2 * coarse + np.array([1.5, 0, -1]).reshape(1, 3, 1, 1)).astype(np.float32)


def with_statistics(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the statistics of pictures, layer after layer."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    data = pictures(256) if not batch else pictures(batch)
    stored = {i.name: i for i in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "BatchNormalization"]:
        seen = read(model, node.input[0], data)
        for name, array in zip(node.input[3:5], (seen.mean((0, 2, 3)), seen.var((0, 2, 3))), strict=True):
            stored[name].CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return model


def read(model: onnx.ModelProto, name: str, data: np.ndarray) -> np.ndarray:
    clone = onnx.ModelProto.FromString(model.SerializeToString())
    del clone.graph.output[:]
    clone.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    (made,) = Runner(gp.load(clone).source)({"x": data})
    return np.asarray(made, np.float64)


def misfit(model: onnx.ModelProto, data: np.ndarray) -> float:
    """Mean squared error of means and deviations over all BatchNormalizations, in units of the deviation."""
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    off = []
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            seen = read(model, node.input[0], data)
            mean, deviation = stored[node.input[3]], np.sqrt(stored[node.input[4]])
            off.append((((seen.mean((0, 2, 3)) - mean) / deviation) ** 2).mean())
            off.append(((seen.std((0, 2, 3)) / deviation - 1) ** 2).mean())
    return float(np.mean(off))


def whole(made: Any) -> np.ndarray:
    return np.concatenate([f["x"] for f in made])


def test_activations_get_the_statistics_of_the_model() -> None:
    model = net()
    made = gp.samples("synthetic", gp.load(model), limit=64)
    data = whole(made)
    assert data.shape == (64, 3, 12, 12)
    assert data.dtype == np.float32
    white = misfit(model, whole(gp.samples("random", gp.load(model), limit=64)))
    assert misfit(model, data) < 0.02 < 0.2 < white
    assert abs(data.mean((0, 2, 3)) - [1.5, 0, -1]).max() < 0.6  # told by the first layer, as far as it sees them


def test_samples_are_the_same_in_every_pass_and_for_every_reader() -> None:
    graph = gp.load(net())
    made = gp.samples("synthetic", graph, limit=70)
    assert [len(f["x"]) for f in made] == [32, 32, 6]
    first = whole(made)
    np.testing.assert_array_equal(first, whole(made))
    np.testing.assert_array_equal(first, whole(gp.samples("synthetic", graph, limit=70)))
    again = gp.samples("synthetic", graph, limit=70)
    np.testing.assert_array_equal(first[:8], again.head(1, batch=8)[0]["x"])
    np.testing.assert_array_equal(first, whole(again))
    assert not np.array_equal(first[:8], gp.samples("synthetic", graph, limit=8, seed=1).head(1)[0]["x"])


def test_feeds_of_a_fixed_size_have_the_statistics_together() -> None:
    model = net(batch=4)
    made = gp.samples("synthetic", gp.load(model), limit=16)
    assert [f["x"].shape for f in made] == [(4, 3, 12, 12)] * 4
    white = np.mean([misfit(model, f["x"]) for f in gp.samples("random", gp.load(model), limit=16)])
    assert np.mean([misfit(model, f["x"]) for f in made]) < white / 2


def test_a_module_gets_samples_like_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(600, 3))
    module.train()
    for _ in range(60):
        module(torch.from_numpy(pictures(32)))
    module.eval()
    graph = gp.trace(module, torch.zeros(16, 3, 12, 12))
    (made,) = gp.samples("synthetic", graph, limit=16)
    seen: list[Tensor] = []
    module[0].register_forward_hook(lambda _m, _i, out: seen.append(out))
    module(torch.from_numpy(made[graph.inputs[0]]))
    norm = module[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = norm.running_var.sqrt()
    assert float(((seen[0].mean((0, 2, 3)) - norm.running_mean) / deviation).abs().mean().detach()) < 0.1
    assert float((seen[0].std((0, 2, 3)) / deviation - 1).abs().mean().detach()) < 0.1


def test_integers_and_models_without_statistics_are_drawn() -> None:
    b = Builder()
    ids = b.source("ids", ["n", 6], TensorProto.INT64)
    y = b.op("Gather", b.weight(11, 8), ids)
    graph = gp.load(b.build(b.op("MatMul", y, b.weight(8, 3, fan_in=8))))
    (feed,) = gp.samples("synthetic", graph, limit=20)
    assert feed["ids"].shape == (20, 6)
    assert feed["ids"].dtype == np.int64
    assert (feed["ids"].min(), feed["ids"].max()) == (0, 10)


def test_pictures_that_no_statistics_speak_of_are_smooth() -> None:
    b = Builder()
    x = b.source("x", ["n", 3, 16, 16])
    graph = gp.load(b.build(b.op("Relu", b.op("Conv", x, b.weight(4, 3, 3, 3)))))
    (feed,) = gp.samples("synthetic", graph, limit=32)
    for axis in (2, 3):
        step = np.diff(feed["x"], axis=axis)
        assert step.var() < feed["x"].var()  # twice as much for white noise
    assert feed["x"].std() == pytest.approx(1, abs=0.05)


def test_unmade_samples_can_be_pickled() -> None:
    made = gp.samples("synthetic", gp.load(net()), limit=4)
    assert made.count == 4
    state = made._records.__getstate__()  # type: ignore[attr-defined]
    assert not {"_fit", "_spool", "_place"} & set(state)


def test_an_operator_without_a_gradient_is_named() -> None:
    graph = gp.load(net(foreign=True))
    with pytest.raises(InputError, match="QuickGelu"):
        list(gp.samples("synthetic", graph, limit=4))


def test_synthetic_samples_recover_a_cut(tmp_path: Path) -> None:
    model, data = net(seed=3), {"x": pictures(64)}
    truth = Runner(gp.load(model).source)(data)[0]
    off = {}
    for source in ("random", "synthetic"):
        result = gp.prune(model, macs="70%", align=1, criterion="l2", data=source, samples=128)
        off[source] = float(np.square(Runner(result.model)(data)[0] - truth).mean())
    assert off["synthetic"] < off["random"]


def test_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(net(), path)
    out = tmp_path / "o.onnx"
    done(path, out, "--macs", "60%", "--align", "1", "--data", "synthetic", "--samples", "40", "-q")
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert report["quality"]["samples"] == 40
    assert yaml.safe_load((tmp_path / "o.recipe.yaml").read_text())["data"] == "synthetic"
    onnx.save(net(foreign=True), path)
    refused(2, "QuickGelu", path, tmp_path / "p.onnx", "--macs", "60%", "--data", "synthetic")
    assert not (tmp_path / "p.onnx").exists()


def test_words_for_data_that_is_made_are_the_same_everywhere() -> None:
    assert set(recipe_values.MADE) == set(sources.MADE)
