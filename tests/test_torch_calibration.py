"""Statistics and criteria of PyTorch modules against what hooks see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, unfold

import graphprune as gp
from graphprune.calibration import Calibration
from graphprune.errors import InputError
from graphprune.importance.base import CRITERIA, MEASURED, raw_scores, score
from graphprune.importance.fibres import ranked


class Net(nn.Module):
    """Convolutions of all sorts, a residual sum and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, (3, 1), padding="same", groups=4, dilation=(2, 1))
        self.grown = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.head = nn.Linear(6, 10)
        self.last = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.grouped(x))
        x = torch.relu(self.grown(x)).mean((2, 3))
        return self.last(torch.relu(self.head(x)))


@pytest.fixture
def module() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.norm.weight.uniform_(0.5, 1.5)
    return net


def feeds(count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((2, 3, 12, 12)).astype(np.float32)} for _ in range(count)]


def analyzed(module: nn.Module) -> Any:
    return gp.analyze(gp.trace(module, torch.zeros(2, 3, 12, 12)))


def node_of(deps: Any, weight: str) -> str:
    return next(n.name for n in deps.source.nodes if weight in n.inputs)


def inputs_of(module: Net, layer: nn.Module) -> Tensor:
    """What a layer reads over all feeds, by a hook."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        for feed in feeds():
            module(torch.from_numpy(feed["x"]))
    hook.remove()
    return torch.cat(seen).double()


def test_moments_are_what_hooks_see(module: Net) -> None:
    deps = analyzed(module)
    for layer, weight in ((module.stem, "stem.weight"), (module.grown, "grown.weight"), (module.last, "last.weight")):
        node = next(n for n in deps.source.nodes if n.name == node_of(deps, weight))
        moments = Calibration(deps, feeds()).moments([(node.inputs[0], 1)])[node.inputs[0], 1]
        x = inputs_of(module, layer).transpose(0, 1).flatten(1).numpy()
        np.testing.assert_allclose(moments.mean, x.mean(axis=1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moments.variance, x.var(axis=1), rtol=1e-4)
        np.testing.assert_allclose(moments.zero, (x == 0).mean(axis=1))


def test_gram_matrices_are_those_of_unfolded_inputs(module: Net) -> None:
    deps = analyzed(module)
    names = {w: (node_of(deps, f"{w}.weight"), 0) for w in ("stem", "grouped", "head", "last")}
    found = Calibration(deps, feeds()).grams(list(names.values()))
    stem = unfold(inputs_of(module, module.stem), 3, stride=2, padding=1)
    wide = pad(inputs_of(module, module.grouped), (0, 0, 2, 2))
    grouped = unfold(wide, (3, 1), dilation=(2, 1))
    rows = {
        "stem": stem.transpose(1, 2).reshape(1, -1, 27),
        "grouped": grouped.transpose(1, 2).reshape(-1, 4, 6).transpose(0, 1),
        "head": inputs_of(module, module.head)[None],
        "last": inputs_of(module, module.last)[None],
    }
    for name, x in rows.items():
        gram = found[names[name]]
        wanted = x.transpose(1, 2) @ x
        assert gram.count == x.shape[1]
        np.testing.assert_allclose(gram.matrix, wanted.numpy(), rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        np.testing.assert_allclose(gram.sums, x.sum(1).numpy(), rtol=1e-3, atol=1e-3)


def test_a_transposed_convolution_follows_from_its_gram_matrix(module: Net) -> None:
    """With kernel 2 and stride 2 every output position reads one tap, so energies add up per tap."""
    deps = analyzed(module)
    place = node_of(deps, "grown.weight"), 0
    gram = Calibration(deps, feeds()).grams([place])[place]
    x = inputs_of(module, module.grown)
    weight = module.grown.weight.detach().double()
    made = nn.functional.conv_transpose2d(x, weight, stride=2)
    rows = made.transpose(0, 1).flatten(1)
    matrix = weight.permute(1, 0, 2, 3).reshape(6, -1).numpy()
    np.testing.assert_allclose(matrix @ gram.matrix[0] @ matrix.T, (rows @ rows.T).numpy(), rtol=1e-4, atol=1e-3)


def test_every_criterion_ranks_a_module(module: Net) -> None:
    deps = analyzed(module)
    calibration = Calibration(deps, feeds())
    for name in (*CRITERIA, *MEASURED):
        notes: list[str] = []
        for view in (deps, ranked(deps, name, 0, calibration=calibration)):
            scores = score(view, name, 0, calibration=calibration, notes=notes)
            assert np.isfinite(scores).all()
        assert not notes or name == "bn-scale"


def test_scores_are_those_by_hand(module: Net) -> None:
    deps = analyzed(module)
    calibration = Calibration(deps, feeds())
    units = next(g.units for g in deps.groups if any(m.tensor == "head.weight" and m.axis == 0 for m in g.members))
    x = inputs_of(module, module.last).numpy()
    weight = module.last.weight.detach().numpy()
    wanted = np.sqrt((x**2).mean(axis=0)) * np.abs(weight).sum(axis=0)
    np.testing.assert_allclose(raw_scores(deps, "wanda", 0, calibration=calibration)[units], wanted, rtol=1e-4)
    found = raw_scores(deps, "activation-variance", 0, calibration=calibration)[units]
    np.testing.assert_allclose(found, x.std(axis=0), rtol=1e-4)


def test_a_module_is_pruned_by_data(module: Net) -> None:
    graph = gp.trace(module, torch.zeros(2, 3, 12, 12))
    result = gp.prune(graph, ratio=0.3, align=1, criterion="wanda", data=feeds())
    assert result.verdict is not None
    assert result.verdict.passed


def test_weights_that_changed_since_are_those_of_now(module: Net) -> None:
    deps = analyzed(module)
    with torch.no_grad():
        module.stem.weight.mul_(2)
    node = next(n for n in deps.source.nodes if n.name == node_of(deps, "grown.weight"))
    moments = Calibration(deps, feeds()).moments([(node.inputs[0], 1)])[node.inputs[0], 1]
    x = inputs_of(module, module.grown).transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(moments.mean, x.mean(axis=1), rtol=1e-4, atol=1e-6)


def test_data_that_does_not_fit_is_refused(module: Net) -> None:
    deps = analyzed(module)
    bad = [{"x": np.zeros((2, 5, 12, 12), np.float32)}]
    with pytest.raises(InputError, match="does not run on the calibration data"):
        raw_scores(deps, "wanda", 0, calibration=Calibration(deps, bad))
