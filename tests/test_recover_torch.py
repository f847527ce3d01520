"""The steps of recovery on PyTorch modules, against lstsq and against what modules give themselves."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune as gp
from graphprune.calibration.store import Store
from graphprune.calibration.torch_walk import TorchWalk
from graphprune.recover.paired import Job
from graphprune.recover.refit import refit
from graphprune.recover.steps import STEPS, recover
from graphprune.rewrite.torch import rewrite


class Net(nn.Module):
    """Convolutions with and without BatchNorm, a residual sum, a split, products of either kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(6)
        self.gate = nn.Linear(6, 10)
        self.head = nn.Linear(5, 4)
        for bn in (self.norm, self.last):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.normal_(bn.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.last(self.second(torch.relu(self.norm(self.first(x)))))
        a, b = self.gate(x.mean((2, 3))).chunk(2, 1)
        return self.head(a * torch.sigmoid(b))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def feeds(count: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((4, 3, 6, 6)).astype(np.float32)} for _ in range(count)]


DATA = feeds()


def outputs(module: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([module(torch.from_numpy(f["x"])).numpy() for f in DATA]).astype(np.float64)


def cut_of(module: nn.Module, weight: str, positions: list[int]) -> tuple[Any, Any]:
    deps = gp.analyze(gp.trace(module, torch.zeros(4, 3, 6, 6)))
    units = deps.types[weight][0].units
    assert units is not None
    cut = deps.cut(np.unique(units[positions]).astype(np.int32))
    return cut, gp.trace(rewrite(cut), torch.zeros(4, 3, 6, 6))


def test_a_walk_gives_what_hooks_see(net: Net) -> None:
    graph = gp.trace(copy.deepcopy(net), torch.zeros(4, 3, 6, 6))
    seen: dict[str, list[Tensor]] = {}
    for name in ("stem", "second", "last"):
        net.get_submodule(name).register_forward_hook(lambda _m, _i, made, n=name: seen.setdefault(n, []).append(made))
    outputs(net)
    names = {w: next(n.outputs[0] for n in graph.nodes if f"{w}.weight" in n.inputs) for w in seen}
    with Store(1 << 30) as store:
        walk = TorchWalk(graph, DATA, store)
        walk.want(names["stem"])
        walk.run_to(names["second"])
        for name in ("stem", "second", "last"):
            for got, wanted in zip(walk.peek(names[name]), seen[name], strict=True):
                np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)
        assert walk.has(names["stem"])
        walk.run_past(names["last"])
        assert walk.has(names["stem"])  # it is wanted
        walk.run_past(graph.outputs[0])
        walk.release(names["stem"])
        assert not walk.has(names["stem"])
        assert not walk.has(names["last"])


def test_a_redundant_channel_is_made_up_for_exactly(net: Net) -> None:
    with torch.no_grad():
        net.first.weight[5] = 2 * net.first.weight[2]
        net.norm.running_mean[5] = 2 * net.norm.running_mean[2]
        net.norm.running_var[5] = 4 * net.norm.running_var[2] + 3 * net.norm.eps
        net.norm.bias[2] = 2  # most of what it gives is above zero
        net.norm.weight[5], net.norm.bias[5] = net.norm.weight[2], net.norm.bias[2]
    cut, small = cut_of(net, "first.weight", [5])
    wanted = outputs(net)
    assert np.abs(outputs(small.source.module) - wanted).max() > 0.01
    refit(Job(cut, small, DATA))
    np.testing.assert_allclose(outputs(small.source.module), wanted, atol=1e-4)


def test_the_fit_is_least_squares(net: Net) -> None:
    cut, small = cut_of(net, "gate.weight", [1, 3])
    pruned, read = small.source.module, []
    pruned.head.register_forward_pre_hook(lambda _m, given: read.append(given[0].numpy().astype(np.float64)))
    outputs(pruned)
    x, y = np.concatenate(read), outputs(net)
    old = pruned.head.weight.detach().numpy().T.astype(np.float64)
    (report,) = [line for line in refit(Job(cut, small, DATA)) if line.layer == "linear_1"]
    x0, y0 = x - x.mean(0), y - y.mean(0)
    pull = np.sqrt(report.strength * (x0**2).sum() / x.shape[1]) * np.eye(x.shape[1])
    best = np.linalg.lstsq(np.vstack([x0, pull]), np.vstack([y0, pull @ old]), rcond=None)[0]
    np.testing.assert_allclose(pruned.head.weight.detach().numpy().T, best, atol=1e-4)
    np.testing.assert_allclose(pruned.head.bias.detach().numpy(), (y - x @ best).mean(0), atol=1e-4)


def test_batchnorm_statistics(net: Net) -> None:
    cut, small = cut_of(net, "first.weight", [0, 5])
    report = STEPS["batchnorm"](Job(cut, small, DATA))
    assert len(report) == 2
    pruned, read = small.source.module, []
    pruned.last.register_forward_pre_hook(lambda _m, given: read.append(given[0].numpy().astype(np.float64)))
    outputs(pruned)
    rows = np.concatenate(read).transpose(1, 0, 2, 3).reshape(6, -1)
    np.testing.assert_allclose(pruned.last.running_mean.numpy(), rows.mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pruned.last.running_var.numpy(), rows.var(1), rtol=1e-4)


@pytest.mark.parametrize("names", [["mean"], ["moments"], ["refit"], ["batchnorm", "refit"]])
def test_steps_are_kept_only_if_outputs_come_closer(net: Net, names: list[str]) -> None:
    before = copy.deepcopy(net.state_dict())
    cut, small = cut_of(net, "first.weight", [0, 5])
    module = small.source.module
    held = copy.deepcopy(module.state_dict())
    made, report = recover(cut, module, DATA, names)
    assert report.error <= report.cut
    wanted = outputs(net)
    worse, better = ((outputs(m) - wanted) ** 2 for m in (module, made))
    assert better.sum() < worse.sum()
    for left, right in ((before, net.state_dict()), (held, module.state_dict())):
        assert all(torch.equal(left[k], right[k]) for k in left)  # neither of the two given modules is changed


@pytest.mark.parametrize("inplace", [False, True])
def test_prune_recovers_a_module(net: Net, *, inplace: bool) -> None:
    original, wanted = copy.deepcopy(net), outputs(net)
    example = torch.zeros(4, 3, 6, 6)
    plain = gp.prune(copy.deepcopy(net), example_inputs=example, ratio=0.4, align=1, criterion="l2", recover="none")
    data = {"x": np.concatenate([f["x"] for f in DATA])}
    result = gp.prune(
        net, example_inputs=example, ratio=0.4, align=1, criterion="l2", data=data, recover="refit", inplace=inplace
    )
    assert result.recovery is not None
    assert result.recovery.error < result.recovery.cut
    assert (result.model is net) == inplace
    assert result.model.first.weight.shape == plain.model.first.weight.shape != original.first.weight.shape
    off, lost = ((outputs(m) - wanted) ** 2 for m in (result.model, plain.model))
    assert off.sum() < 0.5 * lost.sum()
