"""Pruning a module and exporting it equals exporting it and pruning the file, for plans made on either side."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import graphprune as gp
from graphprune.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tests.test_torch_prune import Attention, Encoder, Residual  # noqa: E402

torch.set_num_threads(1)


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.grouped, self.groups = nn.Conv2d(32, 32, 3, groups=4, padding=1), nn.GroupNorm(4, 32)
        self.up, self.head = nn.ConvTranspose2d(32, 24, 2, 2), nn.Linear(24, 5)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.groups(self.grouped(F.relu(self.norm(self.conv(x))))))
        return self.head(F.relu(self.up(x)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, layers: int = 1, *, both: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 16)
        self.lstm = nn.LSTM(16, 16, layers, batch_first=True, bidirectional=both)
        self.head = nn.Linear(32 if both else 16, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(F.relu(self.inner(x)))[0][:, -1])


class Tied(nn.Module):
    """Weights that exporters leave as they are, but for the transposed one of the tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(11, 24), nn.Embedding(32, 24)
        self.up, self.down = nn.Parameter(torch.randn(24, 48)), nn.Parameter(torch.randn(48, 24))
        self.head = nn.Linear(24, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("ids", torch.arange(32)[None])

    def forward(self, x: Any) -> Any:
        x = self.embed(x) + self.positions(self.ids[:, : x.shape[1]])
        return self.head(x + F.relu(x @ self.up) @ self.down)


IMAGES, TOKENS, STEPS = torch.randn(2, 3, 8, 8), torch.randint(0, 11, (2, 7)), torch.randn(2, 7, 6)
NETWORKS = {
    "residual": (Residual, IMAGES),
    "grouped": (Grouped, IMAGES),
    "attention layer": (Encoder, TOKENS),
    "own attention": (lambda: Encoder(Attention), TOKENS),
    "tied": (Tied, TOKENS),
    "lstm": (Recurrent, STEPS),
    "two lstm layers": (lambda: Recurrent(2, both=False), STEPS),
}


def made(name: str) -> tuple[nn.Module, Any]:
    """A network with no two channels alike, in evaluation mode."""
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    module = build().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            for parameter in part.parameters():
                nn.init.uniform_(parameter, 0.5, 1.5)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module, inputs


def exported(module: nn.Module, inputs: Any, path: Path, *, dynamo: bool) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"verbose": False} if dynamo else {"opset_version": 17}
        torch.onnx.export(module.eval(), (inputs,), str(path), dynamo=dynamo, **options)
    return onnx.load(path)


def outputs(model: Any, inputs: Any) -> Any:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    session = ort.InferenceSession(proto.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


@pytest.mark.parametrize("side", ["module", "file"])
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "older exporter"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_of_either_side_gives_the_same_on_both(name: str, dynamo: bool, side: str, tmp_path: Path) -> None:
    module, inputs = made(name)
    file = exported(module, inputs, tmp_path / "full.onnx", dynamo=dynamo)
    graph = gp.trace(module, inputs)
    if name == "two lstm layers" and side == "file":  # in a file every layer has a width of its own
        with pytest.raises(InputError, match="does not fit this model's couplings"):
            gp.apply(graph, gp.plan(file, macs="60%", align=1))
        return
    plan = gp.plan(graph if side == "module" else file, macs="60%", align=1, shared_offsets=True)
    plan = type(plan).model_validate_json(plan.to_json())
    small, cut = gp.prune(graph, from_plan=plan), gp.prune(file, from_plan=plan)
    wanted = outputs(exported(small.model, inputs, tmp_path / "small.onnx", dynamo=dynamo), inputs)
    got = outputs(cut.model, inputs)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(got - outputs(file, inputs)).max() > 1e-3
    assert set(small.plan.weights) <= set(module.state_dict())
    back = gp.restore(NETWORKS[name][0](), _saved(small, tmp_path / "folder"))
    assert torch.equal(back.eval()(inputs), small.model.eval()(inputs))


def _saved(result: Any, folder: Path) -> Path:
    gp.save(result, folder)
    return folder


def test_files_of_both_exporters_take_one_plan(tmp_path: Path) -> None:
    module, inputs = made("own attention")
    old, new = (exported(module, inputs, tmp_path / f"{d}.onnx", dynamo=d) for d in (False, True))
    plan = gp.plan(old, macs="60%", align=1, shared_offsets=True)
    assert any("::" in name for name in plan.weights)
    a, b = outputs(gp.apply(old, plan), inputs), outputs(gp.apply(new, plan), inputs)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    module, inputs = made("own attention")
    file = exported(module, inputs, tmp_path / "full.onnx", dynamo=False)
    graph = gp.trace(module, inputs)
    plan = gp.plan(file, macs="50%", align=1)
    ragged = plan.model_copy(update={"blocks": {"x": {0: {"axis": 1}}}})
    with pytest.raises(InputError, match="shared_offsets=True"):
        gp.apply(graph, ragged)
    plan = gp.plan(file, macs="60%", align=1, shared_offsets=True)
    with pytest.raises(InputError, match="no other can be told to be it"):
        gp.apply(graph, plan.model_copy(update={"modules": {}}))
    with pytest.raises(InputError, match="no other can be told to be it"):
        gp.apply(gp.trace(*made("residual")), plan)
    name = next(n for n in plan.weights if plan.modules.get(n) == "up")
    (axis,) = (a for a in plan.weights[name] if plan.shapes[name][a] == 24)
    wrong = {**plan.weights, name: {**plan.weights[name], axis: plan.weights[name][axis][:-1]}}
    with pytest.raises(InputError, match="does not fit this model's couplings"):
        gp.apply(graph, plan.model_copy(update={"weights": wrong}))
