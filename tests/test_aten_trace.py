"""PyTorch modules as graphs: names, ties, writes in place, constants, marks, and what cannot be captured."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import graphprune as gp  # noqa: E402
from graphprune.coupling.groups import DependencyGraph, analyze  # noqa: E402
from graphprune.errors import InputError  # noqa: E402
from graphprune.graph.torch import trace  # noqa: E402
from tests.aten.oracle import any_units, random_units, run  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def checked(module: nn.Module, *inputs: Any, io: bool = False, draws: int = 3) -> DependencyGraph:
    """The analysed graph of a module, after random cuts were compared."""
    deps = analyze(trace(module.eval(), inputs), [".*"] if io else [])
    feed = dict(zip(deps.source.inputs, inputs, strict=True))
    with torch.no_grad():
        for draw in range(draws):
            pick = any_units if io else random_units
            cut = deps.cut(pick(deps, np.random.default_rng(draw)))
            done = run(deps, cut, feed)
            assert done.finite
            assert done.error < 2e-5
        whole = module(*inputs)
        first = whole[0] if isinstance(whole, tuple) else whole
        untouched = run(deps, deps.cut(np.zeros(0, np.int64)), feed)
        assert torch.allclose(untouched.whole[deps.source.outputs[0]], first, atol=1e-5)
    return deps


class Of(nn.Module):
    """A forward written as a function of the module."""

    def __init__(self, call: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.call = call

    def forward(self, *tensors: Any) -> Any:
        return self.call(self, *tensors)


class Branch(nn.Module):
    """What it does depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.one(x)
        return self.two(x)


def perceptron(middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), middle).eval()


# -- layers that export as one operator or many ----------------------------------------------------------


@pytest.mark.parametrize("io", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent(kind: type[nn.Module], layers: int, both: bool, io: bool) -> None:
    torch.manual_seed(0)
    layer = kind(8, 6, layers, bidirectional=both, batch_first=True)
    module = Of(lambda m, x: m.head(m.layer(x)[0]), layer=layer, head=nn.Linear(12 if both else 6, 5))
    deps = checked(module, torch.randn(2, 7, 8), io=io)
    hidden = [g for g in deps.groups if g.kind == "hidden"]
    assert [g.size for g in hidden] == [6]
    assert {m.tensor for m in hidden[0].members} >= {n for n in deps.source.weights if n.startswith("layer.")}


def test_lstm_with_projection_and_states() -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(8, 6, 2, proj_size=4)
    deps = checked(Of(lambda m, x, h, c: m.layer(x, (h, c)), layer=layer), torch.randn(7, 2, 8), torch.randn(2, 2, 4),
                   torch.randn(2, 2, 6), io=True)  # fmt: skip
    assert deps.state.opaque == {}


@pytest.mark.parametrize("weights", [False, True])
def test_multi_head_attention(weights: bool) -> None:
    torch.manual_seed(0)
    attend = nn.MultiheadAttention(12, 3, batch_first=True)
    module = Of(lambda m, x: m.head(m.attend(m.stem(x), *[m.stem(x)] * 2, need_weights=weights)[0]), attend=attend,
                stem=nn.Linear(8, 12), head=nn.Linear(12, 5))  # fmt: skip
    deps = checked(module, torch.randn(2, 7, 8))
    sizes = {g.kind: g.size for g in deps.groups if "attend.in_proj_weight[0]" in g.name}
    assert sizes == {"heads": 3, "head dims": 4}


def test_transformer_encoder() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    module = Of(lambda m, x: m.head(m.body(m.stem(x))), body=body, stem=nn.Linear(8, 12), head=nn.Linear(12, 5))
    deps = checked(module, torch.randn(2, 7, 8))
    assert deps.state.opaque == {}
    assert [g.kind for g in deps.groups].count("FFN width") == 2


def test_spectral_and_weight_norm() -> None:
    torch.manual_seed(0)
    norm = nn.utils.parametrizations
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), norm.weight_norm(nn.Conv2d(8, 6, 3)), norm.spectral_norm(nn.Conv2d(6, 5, 3))
    )
    deps = checked(module, torch.randn(2, 3, 9, 9))
    assert sorted(g.size for g in deps.groups) == [6, 8]


# -- the graph ---------------------------------------------------------------------------------------------


def test_names_scopes_and_modes() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True)), nn.Dropout())
    module[1].eval()
    modes = [m.training for m in module.modules()]
    graph = trace(module, torch.randn(2, 3, 9, 9))
    assert [m.training for m in module.modules()] == modes
    assert list(graph.weights) == [*dict(module.named_parameters()), *dict(module.named_buffers())]
    assert [(n.key, n.scope) for n in graph.nodes[:3]] == [
        ("aten.conv2d.default", "0"), ("aten.batch_norm.default", "1.0"), ("aten.relu_.default", "1.1"),
    ]  # fmt: skip
    assert graph.parameters() == sum(t.numel() for t in module.state_dict().values())


def test_tied_weights_are_one() -> None:
    body = nn.Embedding(11, 8)
    head = nn.Linear(8, 11, bias=False)
    head.weight = body.weight
    module = Of(lambda m, x: m.head(torch.relu(m.mid(m.body(x)))), body=body, mid=nn.Linear(8, 8), head=head)
    deps = checked(module, torch.arange(11)[None])
    assert list(deps.source.weights) == ["body.weight", "mid.weight", "mid.bias"]
    assert deps.source.source.tied == {"head.weight": "body.weight"}
    assert deps.types["body.weight"][0].units is None  # type: ignore[union-attr]


def test_a_weight_called_like_a_node() -> None:
    module = nn.Module()
    module.register_parameter("add", nn.Parameter(torch.randn(8)))
    owner = Of(lambda m, x: m.last(m.inner.add + m.first(x)), inner=module, first=nn.Linear(4, 8), last=nn.Linear(8, 3))
    owner.register_parameter("linear", nn.Parameter(torch.randn(3)))
    plain = Of(lambda m, x: m.last(m.first(x)) + m.linear, first=nn.Linear(4, 8), last=nn.Linear(8, 3))
    plain.register_parameter("linear", nn.Parameter(torch.randn(3)))
    assert [g.size for g in checked(owner, torch.randn(2, 4)).groups] == [8]
    assert [g.size for g in checked(plain, torch.randn(2, 4)).groups] == [8]


def test_exported_programs_and_graph_modules() -> None:
    module = perceptron(nn.Identity())
    x = torch.randn(2, 8)
    wanted = [(n, g.size) for n, g in ((g.name, g) for g in analyze(trace(module, x)).groups)]
    for other in (torch.fx.symbolic_trace(module), torch.export.export(module, (x,))):
        assert [(g.name, g.size) for g in analyze(trace(other, x)).groups] == wanted


def test_dynamic_sizes_stay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(2), nn.Conv1d(8, 4, 1))
    batch, width = torch.export.Dim("batch"), torch.export.Dim("width", min=5, max=90)
    graph = trace(module, torch.randn(2, 3, 9, 9), dynamic_shapes=({0: batch, 3: width},))
    assert graph.values[graph.inputs[0]].dynamic == (True, False, False, True)
    assert [g.size for g in analyze(graph).groups] == [8]


def test_a_view_that_is_written_through() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.first(x)
        part = y[:, :3]
        part.mul_(2)
        y[:, 5:] += 1
        return m.last(y)

    deps = checked(Of(forward, first=nn.Linear(4, 8), last=nn.Linear(8, 3)), torch.randn(2, 4))
    assert deps.state.opaque == {}
    assert deps.units == 8


def test_what_is_read_before_and_after_a_write() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.first(x)
        before = y + 1
        y.add_(before)
        return m.last(y * before)

    assert checked(Of(forward, first=nn.Linear(4, 8), last=nn.Linear(8, 3)), torch.randn(2, 4)).units == 8


def test_masks_made_by_writing_are_known() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(6)
        mask[1:3] = 1
        mask[4:] = 2
        far = mask[:, None] - mask[None, :]
        return m.last(m.first(x).masked_fill((far != 0)[None, :, :, None], 0.0))

    module = Of(forward, first=nn.Linear(4, 8), last=nn.Linear(8, 3))
    deps = checked(module, torch.randn(2, 6, 6, 4))
    known = [a for a in deps.source.constants.values() if a.shape == (6,)]
    assert any(np.array_equal(a, [0, 1, 1, 0, 2, 2]) for a in known)
    assert deps.units == 8


def test_weights_without_values() -> None:
    with torch.device("meta"):
        module = perceptron(nn.Identity())
        graph = trace(module, torch.randn(2, 8))
    assert analyze(graph).units == 16
    with pytest.raises(InputError, match="meta device"):
        graph.weights["0.weight"].read()


def test_bfloat16_is_read() -> None:
    module = nn.Linear(3, 4).bfloat16()
    graph = trace(module, torch.randn(2, 3).bfloat16())
    weight = graph.weights["weight"]
    assert weight.dtype == "bfloat16"
    assert np.array_equal(weight.read().astype(np.float32), module.weight.detach().float().numpy())


# -- what users say ------------------------------------------------------------------------------------------


def test_opaque_modules() -> None:
    module = perceptron(Branch())
    x = torch.randn(2, 8)
    for mark in ("3", "[3]", Branch, module[3]):
        graph = trace(module, x, opaque=[mark])
        deps = analyze(graph)
        assert [n.key for n in graph.nodes][-1] == "graphprune.opaque.default"
        assert [g.size for g in deps.groups] == [16]
        assert "the module 3 was marked opaque" in {b.reason.text for b in deps.blocked}
        assert torch.allclose(graph.source.program.module()(x), module(x))
    assert "forward" not in vars(module[3])


def test_a_mark_that_fits_nothing() -> None:
    with pytest.raises(InputError, match="no submodule"):
        trace(perceptron(nn.Identity()), torch.randn(2, 8), opaque=["nothing.here"])


@torch.library.custom_op("graphprune_tests::mystery", mutates_args=())
def mystery(x: torch.Tensor, power: int) -> torch.Tensor:
    return torch.tanh(x) ** power


@mystery.register_fake
def _(x: torch.Tensor, power: int) -> torch.Tensor:
    return torch.empty_like(x)


class Mystery(nn.Module):
    """A custom operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return mystery(x, 3)


def test_a_custom_operator() -> None:
    module = nn.Sequential(nn.Linear(8, 16), Mystery(), nn.Linear(16, 8))
    graph = trace(module, torch.randn(2, 8))
    key = "graphprune_tests.mystery.default"
    unknown = analyze(graph)
    assert unknown.units == 0
    assert f"graphprune.register('{key}'" in next(b.reason.mend for b in unknown.blocked if b.reason.op == key)
    for said in ({"like": "pointwise"}, {"guess": True}, {"like": "aten.relu"}):
        with gp.register(key, **said):
            assert analyze(graph).units == 16
    with gp.register("graphprune_tests.mystery", like="pointwise"):
        checked(module, torch.randn(2, 8))
    with gp.register(key, lambda r: r.out(r.axes(0))):
        assert analyze(graph).units == 16


@torch.library.custom_op("mylib::myop", mutates_args=())
def myop(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)


@myop.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_what_the_page_says() -> None:
    page = (Path(__file__).parents[1] / "docs" / "custom-operators.md").read_text()
    plain, marked = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    inputs = torch.randn(2, 8)
    module: nn.Module = Of(lambda m, x: m.last(myop(m.first(x))), first=nn.Linear(8, 64), last=nn.Linear(64, 4)).eval()
    found: dict[str, Any] = {"module": module, "inputs": inputs}
    exec(plain, found)
    assert found["result"].model.first.out_features <= 32
    block = nn.Sequential(OrderedDict(one=nn.Linear(8, 64), two=nn.Linear(64, 8), gate=Branch()))
    backbone = nn.Sequential(OrderedDict(router=Branch()))
    module = Of(lambda m, x: m.blocks(m.backbone(x)), backbone=backbone, blocks=nn.Sequential(block)).eval()
    found = {"module": module, "inputs": inputs}
    exec(marked, found)
    assert [g.size for g in analyze(found["graph"]).groups] == [64]
    assert found["result"].model(inputs).shape == (2, 8)


# -- what goes wrong -----------------------------------------------------------------------------------------


def test_values_decide() -> None:
    with pytest.raises(InputError) as error:
        trace(perceptron(Branch()), torch.randn(2, 8))
    text = str(error.value)
    assert f"{__file__}:" in text
    assert "if x.sum() > 0:" in text
    assert "torch.where" in text
    assert "opaque=['3']" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((torch.zeros(2, 7),), "[2, 7] X [8, 16]"),
        ((), "missing a required argument"),
        ((torch.zeros(2, 8), 1), "positional argument"),
        ("text", "'text'"),
    ],
)
def test_wrong_inputs(inputs: Any, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = perceptron(nn.Identity())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    with pytest.raises(InputError, match="does not run on the example inputs") as error:
        trace(Two(), inputs)
    assert said in str(error.value)
    out = capfd.readouterr()
    assert out.out == out.err == ""


def test_no_module() -> None:
    with pytest.raises(InputError, match=r"neither a torch.nn.Module nor"):
        trace(lambda x: x, torch.zeros(2))  # type: ignore[arg-type]


def test_the_rules_do_not_need_torch() -> None:
    import subprocess

    code = (
        "import sys, graphprune.rules as r; assert r.has_rule('aten.conv2d.default'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
