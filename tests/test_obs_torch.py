"""The default criterion on PyTorch modules: the same choice as on a file with the same weights, and no new captures."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.calibration import Calibration
from graphprune.graph import torch as capture
from graphprune.importance.obs import obs_curves, read_grams
from graphprune.recover.evidence import Evidence
from graphprune.recover.evidence_torch import TorchEvidence
from graphprune.recover.judge import judged
from graphprune.rewrite.torch import rewrite


class Net(nn.Module):
    """Convolutions with and without BatchNorm, plain and grouped, a residual sum, a LayerNorm and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=False)
        self.last = nn.BatchNorm2d(12)
        self.back = nn.Conv2d(12, 8, 1)
        self.wide = nn.Linear(8, 16)
        self.even = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)
        for bn in (self.norm, self.last):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.normal_(bn.bias, std=0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.last(self.inner(x))))
        return self.head(self.even(torch.tanh(self.wide(x.mean((2, 3))))))


def pictures(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = np.repeat(np.repeat(rng.standard_normal((count, 3, 3, 3)), 3, 2), 3, 3)
    return (coarse + 0.3 * rng.standard_normal((count, 3, 9, 9)) + 0.5).astype(np.float32)


DATA = [{"x": pictures(16, seed=k)} for k in range(8)]
EXAMPLE = torch.zeros(16, 3, 9, 9)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    module = Net().train()
    with torch.no_grad():
        for _ in range(3):
            for feed in DATA:
                module(torch.from_numpy(feed["x"]))
    return module.eval()


def exported(module: nn.Module, *, folded: bool = False) -> bytes:
    file, mode = io.BytesIO(), torch.onnx.TrainingMode
    settings: dict[str, Any] = {} if folded else {"training": mode.PRESERVE, "do_constant_folding": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (EXAMPLE,), file, dynamo=False, input_names=["x"], output_names=["y"], **settings)
    return file.getvalue()


def loaded(module: nn.Module, *, folded: bool = False) -> Any:
    import onnx

    return gp.load(onnx.load_from_string(exported(module, folded=folded)))


def both(module: nn.Module) -> tuple[Any, Any]:
    return gp.analyze(loaded(module)), gp.analyze(gp.trace(module, EXAMPLE))


def units_of(deps: Any, group: str, numbers: list[int]) -> np.ndarray:
    """Some units of a group by name; names are those of the parameters, in a file and a module."""
    return np.asarray(next(g.units for g in deps.groups if g.name == group)[numbers])


def test_curves_are_those_of_the_file(net: Net) -> None:
    found = []
    for deps in both(net):
        curves = obs_curves(deps, read_grams(deps, Calibration(deps, DATA)))
        assert len(deps.groups) == 4
        found.append({g.name: (c, g) for g, c in zip(deps.groups, curves, strict=True)})
    assert found[0].keys() == found[1].keys()
    for name, (curve, group) in found[0].items():
        other, mine = found[1][name]
        assert curve is not None
        assert other is not None
        np.testing.assert_array_equal(
            np.searchsorted(group.units, curve.order), np.searchsorted(mine.units, other.order)
        )
        np.testing.assert_allclose(other.loss, curve.loss, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "numbers"), [("inner.weight[1]", [1, 3]), ("inner.weight[0]/2", [0, 4]), ("wide.weight[0]", [0, 7])]
)
def test_a_trial_in_place_costs_what_the_trial_on_a_smaller_file_costs(
    net: Net, group: str, numbers: list[int]
) -> None:
    errors = []
    for deps, kind in zip(both(net), (Evidence, TorchEvidence), strict=True):
        units = units_of(deps, group, numbers)
        grams = read_grams(deps, Calibration(deps, DATA))
        errors.append(kind(deps, grams, DATA[:4]).measure(units))
        assert kind(deps, {}, DATA[:4]).measure(units) > errors[-1] > 1e-6
    assert errors[1] == pytest.approx(errors[0], rel=1e-2)  # activations are float32, and some directions hardly vary


def test_a_trial_is_what_the_smaller_module_gives(net: Net) -> None:
    deps = gp.analyze(gp.trace(net, EXAMPLE))
    cut = deps.cut(units_of(deps, "inner.weight[1]", [0, 2]))
    with torch.no_grad():
        wanted, got = (
            torch.cat([m(torch.from_numpy(f["x"])) for f in DATA[:2]]).numpy().astype(np.float64)
            for m in (net, rewrite(cut).eval())
        )
    error = ((wanted - got) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum()
    assert TorchEvidence(deps, {}, DATA[:2]).measure(np.flatnonzero(cut.removed)) == pytest.approx(error, rel=1e-3)


def test_nothing_is_captured_anew(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    deps = gp.analyze(gp.trace(net, EXAMPLE))
    held = {n: t.clone() for n, t in net.state_dict().items()}
    monkeypatch.setattr(capture, "trace", None)
    curves = judged(deps, Calibration(deps, DATA), np.ones(deps.state.store.count))
    assert [len(c.loss) for c in curves] == [g.size + 1 for g in deps.groups]
    assert all(torch.equal(held[n], t) for n, t in net.state_dict().items())


def test_file_and_module_lose_the_same(net: Net) -> None:
    model = gp.prune(net, example_inputs=EXAMPLE, macs="60%", align=1, data=DATA)
    file = gp.prune(loaded(net), macs="60%", align=1, data=DATA)
    folded = gp.prune(loaded(net, folded=True), macs="60%", align=1, data=DATA)
    assert model.plan.recipe["criterion"] == file.plan.recipe["criterion"] == "obs"
    state = {n: tuple(t.shape) for n, t in model.model.state_dict().items()}
    for name in ("stem.weight", "inner.weight", "wide.weight", "head.weight"):
        assert tuple(file.model.graph.initializers[name].shape) == state[name]
    weights = {n: w for n, w in model.plan.weights.items() if n.endswith(".weight")}
    assert {n: w for n, w in file.plan.weights.items() if n in weights} == weights
    for result in (model, file, folded):
        assert result.recovery is not None
        assert result.recovery.error < 0.5 * result.recovery.cut
    assert model.recovery is not None
    assert file.recovery is not None
    assert model.recovery.cut == pytest.approx(file.recovery.cut, rel=0.05)
    assert folded.after.params < folded.before.params


def test_with_data_a_module_ends_closer_than_without(net: Net) -> None:
    fresh = torch.from_numpy(pictures(16, seed=99))
    plain = gp.prune(net, example_inputs=EXAMPLE, macs="60%", align=1)
    fitted = gp.prune(net, example_inputs=EXAMPLE, macs="60%", align=1, data=DATA)
    with torch.no_grad():
        wanted = net(fresh)
        errors = [float(((r.model.eval()(fresh) - wanted) ** 2).mean()) for r in (plain, fitted)]
    assert errors[1] < errors[0] / 4
