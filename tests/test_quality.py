"""What a run says of quality: agreement with the original, and metrics of the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml
from onnx import TensorProto

import graphprune as gp
from graphprune.api import analyze, load
from graphprune.data import samples
from graphprune.errors import InputError
from graphprune.graph.model import Graph
from graphprune.verify.agreement import MOST, agreement, class_axis
from tests.commandline import FASHION, done, listing, refused
from tests.graphs import Builder

CALIBRATION = FASHION.with_name("calibration.npz")
IMAGES = np.load(CALIBRATION)["image"]


def asked(path: Path, images: Any) -> Any:
    """Logits of a file, from onnxruntime itself."""
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]


# -- agreement -------------------------------------------------------------------------------------------


def test_figures_are_those_of_the_runtime(tmp_path: Path) -> None:
    output = tmp_path / "small.onnx"
    result = gp.prune(FASHION, output, macs="70%", data=IMAGES[:100], criterion="l2", recover="none")
    (found,) = result.quality.agreement
    a, b = (asked(path, IMAGES[:100]).astype(np.float64) for path in (FASHION, output))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert result.quality.samples == 100
    assert found.output == "logits"
    assert found.cosine == pytest.approx(cosines.mean(), abs=1e-5)
    assert found.relative_l2 == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-4)
    assert found.top1 == pytest.approx((a.argmax(1) == b.argmax(1)).mean(), abs=0.011)
    assert 0.1 < found.cosine < 0.99


def test_a_lossless_cut_agrees_in_everything() -> None:
    model = onnx.load(FASHION)
    for tensor in model.graph.initializer:
        if tensor.name in ("body.0.first.0.weight", "body.0.first.0.bias"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[:3] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    result = gp.prune(model, lossless=True, data=IMAGES[:40])
    (found,) = result.quality.agreement
    assert (found.top1, round(found.cosine, 6)) == (1.0, 1.0)
    assert found.relative_l2 < 1e-5


def compared(graph: Graph, first: Any, second: Any, feeds: Any) -> Any:
    """Agreement of two made-up models."""
    deps = analyze(graph)
    cut = deps.cut(np.zeros(0, np.int32))
    return agreement(graph, cut, lambda f: [np.asarray(first(f))], lambda f: [np.asarray(second(f))], feeds)


def test_figures_of_outputs_of_every_kind() -> None:
    b = Builder("any")
    graph = load(b.build(b.op("MatMul", b.source("x", ["n", 4]), b.weight(4, 4))))
    data = np.eye(4, dtype=np.float32)
    feeds = samples(data, graph, batch=3)

    def figures(second: Any) -> Any:
        (found,), used = compared(graph, lambda f: f["x"], second, feeds)
        assert used == 4
        return [None if v is None else round(v, 6) for v in (found.cosine, found.relative_l2, found.top1)]

    assert figures(lambda f: f["x"]) == [1, 0, 1]
    assert figures(lambda f: 2 * f["x"]) == [1, 1, 1]
    assert figures(lambda f: -f["x"]) == [-1, 2, 0]
    assert figures(lambda f: 0 * f["x"]) == [0, 1, 0.25]
    assert figures(lambda f: f["x"][:, :2]) == [0, 1, 0]
    assert figures(lambda f: np.roll(f["x"], 1, axis=1)) == [0, round(2**0.5, 6), 0]
    (found,), _ = compared(graph, lambda f: f["x"].argmax(1), lambda f: np.zeros(len(f["x"]), int), feeds)
    assert (found.cosine, found.relative_l2, found.top1) == (None, None, 0.25)


def test_infinities_in_the_same_places_do_not_count() -> None:
    b = Builder("any")
    graph = load(b.build(b.op("MatMul", b.source("x", ["n", 4]), b.weight(4, 4))))
    feeds = samples(np.eye(4, dtype=np.float32), graph)
    (found,), _ = compared(graph, *[lambda f: np.where(f["x"] > 0, f["x"], -np.inf)] * 2, feeds)
    assert (found.cosine, found.relative_l2, found.top1) == (1, 0, 1)


def test_many_samples_are_thinned_out() -> None:
    b = Builder("any")
    graph = load(b.build(b.op("MatMul", b.source("x", ["n", 4]), b.weight(4, 4))))
    feeds = samples(np.ones((5000, 4), np.float32), graph, batch=16)
    _, used = compared(graph, lambda f: f["x"], lambda f: f["x"], feeds)
    assert MOST / 2 < used <= MOST + 16


def test_which_outputs_hold_scores() -> None:
    b = Builder("heads")
    x = b.source("x", ["n", 6, 8])
    image = b.source("y", ["n", 3, 5, 5])
    made = {
        "logits": b.op("MatMul", x, b.weight(8, 5)),
        "biased": b.op("Add", b.op("MatMul", x, b.weight(8, 5)), b.weight(5)),
        "hidden": b.op("LayerNormalization", x, b.weight(8)),
        "mask": b.op("Softmax", b.op("Conv", image, b.weight(4, 3, 1, 1)), axis=1),
        "map": b.op("Conv", image, b.weight(4, 3, 1, 1)),
        "pooled": b.op("ReduceMean", x, b.ints(1), keepdims=0),
        "scalar": b.op("ReduceMean", x, b.ints(1, 2), keepdims=0),
        "one": b.op("MatMul", b.op("ReduceMean", x, b.ints(1), keepdims=0), b.weight(8, 1)),
    }
    graph = load(b.build(*made.values()))
    axes = [class_axis(graph, name) for name in graph.outputs]
    assert axes == [2, 2, None, 1, None, 1, None, None]


def test_outputs_that_shrink_are_compared_where_they_still_are(tmp_path: Path) -> None:
    result = gp.prune(FASHION, tmp_path / "o.onnx", ratio=0.3, align=1, allow_io=["logits"], data=IMAGES[:20])
    assert result.plan.io
    assert 0 < result.quality.agreement[0].cosine <= 1


def test_modules() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    data = torch.randn(20, 6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data, torch.zeros(20)), batch_size=5)
    seen = []

    def norm(model: torch.nn.Module) -> torch.Tensor:
        seen.append(model.training)
        return model(data).square().mean()

    result = gp.prune(module, example_inputs=data[:5], ratio=0.4, align=1, data=loader, metric=norm)
    quality = result.quality
    with torch.no_grad():
        a, b = module(data), result.model(data)
    assert quality.samples == 4
    assert quality.agreement[0].relative_l2 == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-4)
    assert (quality.metric.before, quality.metric.after) == pytest.approx(
        (float(a.square().mean()), float(b.square().mean())), rel=1e-5
    )
    assert seen == [False, False]
    assert module.training
    assert result.verdict.samples == 4  # the example, a random one, two from the data


def test_modules_with_inputs_by_keyword() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Linear(6, 16), torch.nn.Linear(16, 4)

        def forward(self, x: torch.Tensor, *, scale: torch.Tensor, twice: bool = False) -> torch.Tensor:
            return self.second(self.first(x).relu()) * scale * (2 if twice else 1)

    example = {"x": torch.randn(5, 6), "scale": torch.ones(5, 1), "twice": True}
    feeds = [{"x": np.ones((5, 6), np.float32), "scale": np.full((5, 1), 3, np.float32)}]
    result = gp.prune(Net(), example_inputs=example, ratio=0.4, align=1, data=feeds)
    assert result.quality.samples == 1
    assert -1 <= result.quality.agreement[0].cosine < 1


# -- metrics ---------------------------------------------------------------------------------------------

METRIC = f"""
import numpy as np
images = np.load({str(CALIBRATION)!r})["image"][:50]

def share(run):
    (logits,) = run({{"image": images}})
    return (logits.argmax(1) == 3).mean()

def alone(run): return run(images)[0].argmax(1).mean()
def text(run): return "good"
def nan(run): return np.float32("nan")
def fails(run): return run({{"picture": images}})
def crashes(run): raise KeyError("labels")
def wrong(run): return run({{"image": images.astype("f8")}})[0].mean()
value = 0.5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.py").write_text(METRIC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_metric_is_measured_before_and_after(folder: Path) -> None:
    out = done(FASHION, "o.onnx", "--macs", "60%", "--metric", "m.py:share")
    report = json.loads((folder / "o.report.json").read_text())
    before, after = ((asked(p, IMAGES[:50]).argmax(1) == 3).mean() for p in (FASHION, folder / "o.onnx"))
    assert report["quality"]["metric"] == {
        "name": "share",
        "before": pytest.approx(before),
        "after": pytest.approx(after),
    }
    assert report["quality"]["agreement"] == []
    assert f"{before:.5g}" in out
    assert "agreement" not in out


def test_metric_and_data_in_a_recipe(folder: Path) -> None:
    (folder / "here").mkdir()
    np.save(folder / "here" / "d.npy", IMAGES[:30])
    (folder / "here" / "r.yaml").write_text("data: d.npy\nsamples: 20\nmetric: ../m.py:alone\nmacs: 60%\n")
    (folder / "out").mkdir()
    out = done(FASHION, "out/o.onnx", "--recipe", "here/r.yaml")
    assert "agreement with the original on 20 samples" in out
    effective = yaml.safe_load((folder / "out" / "o.recipe.yaml").read_text())
    assert {k: effective[k] for k in ("data", "samples", "metric")} == {
        "data": "../here/d.npy",
        "samples": 20,
        "metric": "../m.py:alone",
    }
    done(FASHION, "out/again.onnx", "--recipe", "out/o.recipe.yaml", "-q")
    first, second = (json.loads((folder / "out" / f"{n}.report.json").read_text()) for n in ("o", "again"))
    assert first["quality"] == second["quality"]
    assert (folder / "out" / "o.onnx").read_bytes() == (folder / "out" / "again.onnx").read_bytes()


def test_images_by_a_recipe(folder: Path) -> None:
    from PIL import Image

    (folder / "photos").mkdir()
    for k, image in enumerate(IMAGES[:6]):
        Image.fromarray(np.rint(image[0] * 255).clip(0, 255).astype(np.uint8)).save(folder / "photos" / f"{k}.png")
    block = {"scale": "1/255", "mean": 0.1}
    (folder / "r.yaml").write_text(yaml.safe_dump({"data": "photos", "preprocess": block, "macs": "60%"}))
    done(FASHION, "o.onnx", "--recipe", "r.yaml", "-q")
    assert yaml.safe_load((folder / "o.recipe.yaml").read_text())["preprocess"] == block
    assert json.loads((folder / "o.report.json").read_text())["quality"]["samples"] == 6


def test_random_data_when_asked_for(folder: Path) -> None:
    done(FASHION, "o.onnx", "--macs", "60%", "--data", "random", "--samples", "10", "-q")
    assert json.loads((folder / "o.report.json").read_text())["quality"]["samples"] == 10
    assert yaml.safe_load((folder / "o.recipe.yaml").read_text())["data"] == "random"


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        (["--metric", "m.py"], "m.py: names no function of a Python file"),
        (["--metric", "m.py:nothing"], "has no function nothing; it has alone, crashes, fails"),
        (["--metric", "m.py:value"], "has no function value"),
        (["--metric", "n.py:share"], "n.py: no such file"),
        (["--metric", "share"], "names no function"),
        (["--metric", "m.py:text"], "metric text: gives a str, no number"),
        (["--metric", "m.py:nan"], "metric nan: gives nan, no number"),
        (["--metric", "m.py:fails"], "metric: no array for input image; it has picture"),
        (["--metric", "m.py:crashes"], "metric crashes: KeyError: 'labels'"),
        (["--metric", "m.py:wrong"], "metric: image is float64, the model's input is float32"),
        (["--samples", "5"], "samples is given, but no data"),
        (["--data", "random", "--samples", "0"], "0 samples: there must be at least one"),
        (["--data", "m.py:share"], "m.py:share: TypeError: share"),
        (["--data", "m.py:value"], "has no function value"),
        (["--data", "rndom"], "rndom: no such file"),
        (["--data", "nothing"], "the folder has no .npz or .npy files, no images"),
        (["--recipe", "r.yaml"], "preprocess is given, but no data"),
        (["--recipe", "r.yaml", "--data", "random"], "preprocess is for folders of images"),
        (["--data", "one.npy"], r"one\.npy: image has shape"),
        (["--data", "random", "--seed", "-1"], "must be 0 or more"),
    ],
)
def test_bad_data_and_metrics_write_nothing(folder: Path, flags: list[str], pattern: str) -> None:
    (folder / "r.yaml").write_text("preprocess: {resize: 32}\n")
    np.save(folder / "one.npy", IMAGES[0, :, :14])
    (folder / "nothing").mkdir()
    before = listing(folder)
    refused(2, pattern, FASHION, "o.onnx", "--macs", "60%", *flags)
    assert listing(folder) == before


def test_a_metric_of_python() -> None:
    with pytest.raises(InputError, match=r"3 is neither a function nor FILE\.py:FUNCTION"):
        gp.prune(FASHION, macs="60%", metric=3)
    calls = []

    def count(run: Any) -> int:
        calls.append(run(IMAGES[0]))
        return len(calls)

    quality = gp.prune(FASHION, macs="60%", metric=count).quality
    assert (quality.metric.name, quality.metric.before, quality.metric.after) == ("count", 1, 2)
    assert [o.shape for call in calls for o in call] == [(1, 10), (1, 10)]


def test_half_precision_is_measured_too() -> None:
    b = Builder("half")
    x = b.source("x", ["n", 6], TensorProto.BFLOAT16)
    up, down = (b.op("Cast", b.weight(*s), to=TensorProto.BFLOAT16) for s in ((6, 16), (16, 4)))
    half = b.build(b.op("MatMul", b.op("Relu", b.op("MatMul", x, up)), down))
    values = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    quality = gp.prune(half, ratio=0.4, align=1, data=values).quality
    assert quality.samples == 6
    assert 0 < quality.agreement[0].relative_l2 < 2
