"""Labels beside the data: where they come from, what is refused, and what criteria and the accuracy make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch import nn

import graphprune as gp
from graphprune.calibration import Calibration
from graphprune.errors import InputError
from graphprune.graph.run import Runner
from tests.commandline import call, done, listing, refused
from tests.graphs.builder import Builder

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 6)).astype(np.float32)
Y = RNG.integers(0, 5, 60)


def classifier(batch: int | str = "n") -> onnx.ModelProto:
    b = Builder(seed=1)
    x = b.source("x", [batch, 6])
    y = b.op("Relu", b.op("Gemm", x, b.weight(6, 16, fan_in=6), b.weight(16)))
    return b.build(b.op("Gemm", y, b.weight(16, 5, fan_in=16), b.weight(5)))


GRAPH = gp.load(classifier())


def rows(made: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([f["x"] for f in made]), made.labels


def files(folder: Path) -> dict[str, Any]:
    np.savez(folder / "both.npz", x=X, labels=Y, other=Y + 1)
    np.savez_compressed(folder / "packed.npz", x=X, y=Y)
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y.astype(np.uint8))
    np.savez(folder / "one.npz", anything=Y)
    return {
        "name in the archive": (folder / "both.npz", "labels"),
        "usual name": (folder / "packed.npz", True),
        "file": (folder / "x.npy", folder / "y.npy"),
        "file with one array": (str(folder / "x.npy"), str(folder / "one.npz")),
        "array": (X, Y),
        "list": (list(X), list(Y)),
        "mapping and array": ({"x": X}, Y),
        "mapping": ({"x": X, "y": Y}, True),
        "pairs": (list(zip(X, Y, strict=True)), True),
        "batches": ([(X[k : k + 7], Y[k : k + 7]) for k in range(0, 60, 7)], True),
        "mappings": ([{"x": x, "label": y} for x, y in zip(X, Y, strict=True)], True),
        "named": ([{"x": x, "kind": y} for x, y in zip(X, Y, strict=True)], "kind"),
        "generator": (((x, y) for x, y in zip(X, Y, strict=True)), True),
        "loader": (
            torch.utils.data.DataLoader(list(zip(torch.from_numpy(X), torch.from_numpy(Y), strict=True)), batch_size=9),
            True,
        ),
    }


KINDS = (
    *("name in the archive", "usual name", "file", "file with one array", "array", "list", "mapping and array"),
    *("mapping", "pairs", "batches", "mappings", "named", "generator", "loader"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [None, 20])
def test_labels_stay_with_their_samples(tmp_path: Path, kind: str, limit: int | None) -> None:
    source, labels = files(tmp_path)[kind]
    made = gp.samples(source, GRAPH, limit=limit, labels=labels, batch=8)
    assert all(set(feed) == {"x"} for feed in made)
    data, right = rows(made)
    assert len(data) == len(right) == (limit or 60)
    for x, y in zip(data, right, strict=True):
        (place,) = np.flatnonzero((x == X).all(1))
        assert y == Y[place]


def test_without_labels_there_are_none() -> None:
    assert gp.samples([(x, y) for x, y in zip(X, Y, strict=True)], GRAPH).labels is None


def test_a_fixed_batch_keeps_them() -> None:
    graph = gp.load(classifier(batch=4))
    data, right = rows(gp.samples(X, graph, labels=Y, limit=12))
    assert data.shape == (12, 6)
    for x, y in zip(data, right, strict=True):
        assert Y[np.flatnonzero((x == X).all(1))[0]] == y


def test_ones_among_zeros_are_class_numbers() -> None:
    one_hot = np.eye(5, dtype=np.float32)[Y]
    for labels in (one_hot, one_hot.astype(bool), Y[:, None], Y.astype(np.int8)):
        calibration = Calibration(gp.analyze(GRAPH), gp.samples(X, GRAPH, labels=labels))
        assert calibration.labels is not None
        np.testing.assert_array_equal(calibration.labels, Y)


def test_taylor_takes_the_loss_of_the_labels() -> None:
    """Against autograd: squared mean gradient of the cross entropy by a factor on each hidden unit."""
    deps = gp.analyze(GRAPH)
    stored = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in classifier().graph.initializer}
    w1, b1, w2, b2 = stored.values()
    mask = torch.ones(16, requires_grad=True)
    hidden = torch.relu(torch.from_numpy(X[:32]) @ w1 + b1) * mask
    nn.functional.cross_entropy(hidden @ w2 + b2, torch.from_numpy(Y[:32])).backward()
    assert mask.grad is not None
    from graphprune.importance.taylor import taylor

    scores = taylor(deps, Calibration(deps, gp.samples(X[:32], GRAPH, labels=Y[:32])))
    units = deps.types[next(n for n, s in stored.items() if s.shape == (6, 16))][1].units
    assert units is not None
    np.testing.assert_allclose(scores[units[:, 0]], mask.grad.numpy() ** 2, rtol=1e-3, atol=1e-9)
    blind = taylor(deps, Calibration(deps, gp.samples(X[:32], GRAPH)))
    assert not np.allclose(scores, blind)


def accuracy(model: Any) -> float:
    return float((Runner(model)({"x": X})[0].argmax(1) == Y).mean())


def test_accuracy_is_measured_before_and_after(tmp_path: Path) -> None:
    model = classifier()
    result = gp.prune(model, macs="60%", align=1, data=X, labels=Y)
    assert result.quality is not None
    change = result.quality.metric
    assert change is not None
    assert (change.name, change.before) == ("accuracy", accuracy(gp.load(model).source))
    assert change.after == accuracy(result.model)


def test_accuracy_of_a_module() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    result = gp.prune(module, example_inputs=torch.zeros(4, 6), macs="60%", align=1, data=X, labels=Y)
    assert result.quality is not None
    change = result.quality.metric
    assert change is not None
    with torch.no_grad():
        assert change.before == float((module(torch.from_numpy(X)).argmax(1).numpy() == Y).mean())
        assert change.after == float((result.model(torch.from_numpy(X)).argmax(1).numpy() == Y).mean())


def needy(deps: Any, calibration: Any) -> np.ndarray:
    calibration.need_labels()
    return np.zeros(0)


def test_a_criterion_may_need_them() -> None:
    with pytest.raises(InputError, match="needs labels: give them with --labels"):
        gp.prune(classifier(), macs="60%", align=1, data=X, criterion=needy)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    onnx.save(classifier(), "m.onnx")
    return tmp_path


@pytest.mark.parametrize(("data", "labels"), [("both.npz", "labels"), ("x.npy", "y.npy")])
def test_on_the_command_line(folder: Path, data: str, labels: str) -> None:
    flags = ["--macs", "60%", "--align", "1", "--data", data, "--labels", labels, "--criterion", "taylor", "-q"]
    done("m.onnx", "o.onnx", *flags)
    report = json.loads((folder / "o.report.json").read_text())
    assert report["quality"]["metric"]["name"] == "accuracy"
    recipe = yaml.safe_load((folder / "o.recipe.yaml").read_text())
    assert recipe["labels"] == labels
    done("m.onnx", "again.onnx", "--recipe", "o.recipe.yaml", "-q")
    assert (folder / "again.onnx").read_bytes() == (folder / "o.onnx").read_bytes()


def test_labels_change_what_taylor_removes(folder: Path) -> None:
    for name, flags in {"with": ["--labels", "labels"], "without": []}.items():
        data = ["--criterion", "taylor", "--data", "both.npz", "--align", "1"]
        assert call("plan", "m.onnx", f"{name}.json", "--macs", "60%", *data, *flags, "-q").code == 0
    assert (folder / "with.json").read_bytes() != (folder / "without.json").read_bytes()


BAD: dict[str, tuple[Any, str]] = {
    "too few": (Y[:59], "59 labels for the 60 samples"),
    "too many": (np.append(Y, 0), "61 labels for the 60 samples"),
    "one": (np.int64(3), "1 labels for the 60 samples"),
    "empty": (Y[:0], "labels are empty"),
    "too large": (Y + 1, "labels from 1 to 5; .* has 5 classes, 0 to 4"),
    "negative": (Y - 1, "labels from -1 to 3"),
    "floats": (Y + 0.5, "labels are float64; class numbers are integers"),
    "NaN": (np.where(Y == 1, np.nan, Y), "NaN"),
    "no one": (np.zeros((60, 5), np.float32), "not one 1 among zeros"),
    "two": (np.ones((60, 5), np.int64), "not one 1 among zeros"),
    "other shape": (np.zeros((60, 3), np.int64), r"labels have shape \(60, 3\)"),
    "text": (np.array(["cat"] * 60), "labels are <U3"),
    "pickled": (np.array([{}] * 60, object), "pickled objects are refused"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_labels_are_refused(folder: Path, kind: str) -> None:
    array, text = BAD[kind]
    np.save("bad.npy", array)
    before = listing(folder)
    refused(2, text, "m.onnx", "o.onnx", "--macs", "60%", "--data", "x.npy", "--labels", "bad.npy")
    assert listing(folder) == before


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--data", "x.npy", "--metric", "accuracy"], "--metric accuracy needs labels"),
        (["--metric", "accuracy"], "--metric accuracy needs labels"),
        (["--labels", "y.npy"], "labels is given, but no data"),
        (["--data", "both.npz", "--labels", "truth"], "no labels under the name truth; it has x, labels, other"),
        (["--data", "x.npy", "--labels", "labels"], "no labels under the name labels"),
        (["--data", "x.npy", "--labels", "none.npy"], "none.npy: no such file"),
        (["--data", "random", "--labels", "labels"], "random: has no labels"),
        (["--data", "random", "--labels", "y.npy"], "labels in an array of their own go with"),
        (["--data", "x.npy", "--labels", "other.npz"], "which are the labels"),
    ],
)
def test_missing_labels_are_refused(folder: Path, flags: list[str], text: str) -> None:
    np.savez("other.npz", a=Y, b=Y)
    before = listing(folder)
    refused(2, text, "m.onnx", "o.onnx", "--macs", "60%", *flags)
    assert listing(folder) == before


def test_labels_of_a_model_without_classes_are_refused() -> None:
    b = Builder()
    x = b.source("x", ["n", 6])
    model = b.build(b.op("Unsqueeze", b.op("Gemm", b.op("Gemm", x, b.weight(6, 8)), b.weight(8, 3)), b.ints(1)))
    with pytest.raises(InputError, match="no classes"):
        gp.prune(model, macs="60%", align=1, data=X, labels=Y, metric="accuracy")
