"""One sample, or the same one again and again, serves every criterion and step; of a module as well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.importance.base import MEASURED
from graphprune.recover.steps import STEPS
from graphprune.report.models import PruneReport
from tests.commandline import done, refused
from tests.graphs import Builder

ONE = np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    b = Builder(seed=2)
    x = b.conv_relu(b.source("x", ["n", 3, 6, 6]), 3, 8, name="first")
    y = b.op("Flatten", b.op("GlobalAveragePool", b.conv_relu(x, 8, 8, name="second")))
    onnx.save(b.build(b.op("Gemm", y, b.weight(8, 4, fan_in=8), b.weight(4))), "m.onnx")
    np.save("one.npy", ONE)
    np.save("same.npy", np.repeat(ONE, 70, axis=0))
    np.save("zero.npy", np.zeros((70, 3, 6, 6), np.float32))
    np.save("class.npy", np.array([2]))
    return tmp_path


def finite(path: str) -> None:
    for tensor in onnx.load(path).graph.initializer:
        assert np.isfinite(onnx.numpy_helper.to_array(tensor).astype(np.float64)).all()


@pytest.mark.parametrize("data", ["one.npy", "same.npy", "zero.npy"])
@pytest.mark.parametrize("criterion", ["auto", *MEASURED])
def test_criteria(folder: Path, criterion: str, data: str) -> None:
    extra = ["--recover", "none"] if criterion != "auto" else []
    done("m.onnx", "o.onnx", "--macs", "60%", "--align", "1", "--data", data, "--criterion", criterion, "-q", *extra)
    report = PruneReport.model_validate_json((folder / "o.report.json").read_text())
    assert report.after.macs <= 0.6 * report.before.macs
    finite("o.onnx")


@pytest.mark.parametrize("step", [s for s in STEPS if s != "distill"])
def test_steps(folder: Path, step: str) -> None:
    flags = ["--macs", "60%", "--align", "1", "--criterion", "l2", "--data", "one.npy", "--recover", step, "-q"]
    done("m.onnx", "o.onnx", *flags)
    recovery = json.loads((folder / "o.report.json").read_text())["recovery"]
    assert recovery["error"] <= recovery["cut"]
    finite("o.onnx")


def test_labels_of_one_sample(folder: Path) -> None:
    flags = ["--macs", "60%", "--align", "1", "--data", "one.npy", "--labels", "class.npy", "--criterion", "taylor"]
    done("m.onnx", "o.onnx", *flags, "-q")
    assert json.loads((folder / "o.report.json").read_text())["quality"]["metric"]["before"] in (0, 1)


def test_a_fixed_batch_needs_as_many(folder: Path) -> None:
    b = Builder()
    x = b.conv_relu(b.source("x", [4, 3, 6, 6]), 3, 8, name="first")
    onnx.save(b.build(b.conv(x, 8, 4)), "four.onnx")
    text = "one.npy: x has 1 samples, the model's batch is fixed at 4"
    refused(2, text, "four.onnx", "o.onnx", "--macs", "60%", "--align", "1", "--data", "one.npy")
    assert not (folder / "o.onnx").exists()


def test_a_module() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()
    result = gp.prune(module, example_inputs=torch.zeros(1, 3, 6, 6), macs="60%", align=1, data=ONE)
    assert result.plan.recipe["criterion"] == "obs"
    assert all(bool(t.isfinite().all()) for t in result.model.state_dict().values())
