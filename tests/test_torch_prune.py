"""Modules in, smaller modules out: same class, trainable, proved against a reference that knows only torch."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import graphprune as gp
from graphprune.errors import InputError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from graphprune.rewrite.torch import GRAPH, SAME, note  # noqa: E402

torch.set_num_threads(1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.group = nn.GroupNorm(4, 16)
        self.wide = nn.Conv2d(16, 32, 1)
        self.back = nn.Conv2d(32, 16, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = F.relu_(self.norm(self.stem(x)))
        x = x + self.back(F.silu(self.wide(self.group(self.depth(x)))))
        return self.head(self.drop(x.mean((2, 3))))


class Attention(nn.Module):
    """Heads and head dims as attributes, a scale from its own size."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.layer = heads, width // heads, heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.scale = self.head_dim**-0.5

    def forward(self, x: Any) -> Any:
        batch, tokens, _ = x.shape
        q, k, v = (
            f(x).view(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class Encoder(nn.Module):
    def __init__(self, attention: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 24)
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(3))
        self.attn = attention() if attention else nn.MultiheadAttention(24, 4, batch_first=True)
        self.up, self.down = nn.Linear(24, 48), nn.Linear(48, 24)
        self.head = nn.Linear(24, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        x = self.embed(ids)
        y = self.norms[0](x)
        x = x + (self.attn(y) if isinstance(self.attn, Attention) else self.attn(y, y, y, need_weights=False)[0])
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x))


class Literal(Attention):
    """Sizes that no attribute says."""

    def forward(self, x: Any) -> Any:
        q, k, v = (f(x).view(x.shape[0], -1, 4, 6).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = F.dropout((q @ k.transpose(-2, -1) * self.scale).softmax(-1), 0.5, self.training)
        return self.out((weights @ v).transpose(1, 2).reshape(x.shape[0], -1, 24))


class Rooted(Attention):
    """The number that shapes queries is also under a root."""

    def forward(self, x: Any) -> Any:
        q, k, v = (
            f(x).view(len(x), -1, self.num_heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        weights = (q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Reader(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.rnn = kind(16, 20, batch_first=True, **options)
        self.head = nn.Linear(20 * (1 + self.rnn.bidirectional), 3)

    def forward(self, ids: Any) -> Any:
        out, _ = self.rnn(self.embed(ids))
        return self.head(out[:, -1])


class Config:
    """A plain object that layers share."""

    def __init__(self) -> None:
        self.heads, self.dim = 3, 8


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        config = Config()
        self.config, self.inner = config, nn.ModuleList(ConfiguredLayer(config) for _ in range(2))
        self.head = nn.Linear(24, 2)

    def forward(self, x: Any) -> Any:
        for layer in self.inner:
            x = x + layer(x)
        return self.head(x)


class ConfiguredLayer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.proj, self.out = config, nn.Linear(24, 24), nn.Linear(24, 24)

    def forward(self, x: Any) -> Any:
        y = self.proj(x).view(len(x), -1, self.config.heads, self.config.dim)
        return self.out((y * y.mean(2, keepdim=True)).flatten(2))


IMAGE, IDS, TOKENS = torch.randn(2, 3, 8, 8), torch.arange(14).reshape(2, 7) % 11, torch.randn(2, 5, 24)
NETS: dict[str, tuple[Any, Any]] = {
    "residual": (Residual, IMAGE),
    "attention": (lambda: nn.Sequential(nn.Linear(24, 24), Attention(), nn.Linear(24, 3)), TOKENS),
    "encoder": (lambda: Encoder(Attention), IDS),
    "mha": (Encoder, IDS),
    "layers": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), nn.Linear(24, 3)),
        TOKENS,
    ),
    "lstm": (Reader, IDS),
    "gru": (lambda: Reader(nn.GRU, bidirectional=True), IDS),
    "rnn": (lambda: Reader(nn.RNN, num_layers=2), IDS),
    "config": (Configured, TOKENS),
    "rooted": (lambda: nn.Sequential(nn.Linear(24, 24), Rooted(), nn.Linear(24, 3)), TOKENS),
    "literal": (lambda: nn.Sequential(nn.Linear(24, 24), Literal(), nn.Linear(24, 3)), TOKENS),
}


MACS = {"literal": "70%"}
ONLY = {"literal": ["^1\\."]}


def made(name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    build, inputs = NETS[name]
    net = build()
    with torch.no_grad():  # nothing constant: a wrong slice shows
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(0.2 * torch.rand_like(tensor))
    return net, inputs


@pytest.mark.parametrize("name", NETS)
def test_pruned_modules_run_train_and_keep_their_class(name: str) -> None:
    net, inputs = made(name)
    before = copy.deepcopy(net.state_dict())
    result = gp.prune(net, example_inputs=inputs, macs=MACS.get(name, "50%"), align=1, only=ONLY.get(name, ()))
    small = result.model
    assert result.verdict is not None
    assert result.verdict.passed
    assert note(small).kind == (GRAPH if name == "literal" else SAME)
    assert name == "literal" or type(small) is type(net)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    assert small.training == net.training
    for mode in (True, False):
        small.train(mode)
        out = small(inputs)
        assert out.shape == net(inputs).shape
        small.zero_grad()
        out.square().sum().backward()
        assert all(p.grad is not None for p in small.parameters() if p.requires_grad)
    assert {n for n, _ in small.named_parameters()} == {n for n, _ in net.named_parameters()}
    wanted = {n: t.shape for n, t in small.state_dict().items()}
    for weight, axes in result.plan.weights.items():
        for axis, gone in axes.items():
            lost = len(gone[0]) if isinstance(gone[0], list) else len(gone)
            assert wanted[weight][axis] == before[weight].shape[axis] - lost


def test_zeroed_channels_give_the_same_as_removed_ones() -> None:
    """An oracle made by hand: hidden channels of a perceptron whose readers are zeroed."""
    net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))
    x = torch.randn(4, 6)
    result = gp.prune(net, example_inputs=x, ratio=0.5, align=1)
    gone = result.plan.weights["2.weight"][1]
    with torch.no_grad():
        net[2].weight[:, gone] = 0
        assert torch.allclose(net(x), result.model(x), atol=1e-6)


def test_the_attention_scale_stays() -> None:
    net, x = made("encoder")
    result = gp.prune(net, example_inputs=x, macs="60%", align=1, only=["attn"])
    assert result.model.attn.scale == net.attn.scale
    assert result.model.attn.layer == net.attn.layer or result.model.attn.num_heads != 4


def test_tied_weights_stay_tied() -> None:
    net, x = made("encoder")
    small = gp.prune(net, example_inputs=x, macs="50%", align=1).model
    assert small.head.weight is small.embed.weight


def test_shared_settings_are_copied_for_the_layers_that_change() -> None:
    net, x = made("config")
    small = gp.prune(net, example_inputs=x, macs="40%", align=1).model
    assert net.config.dim == 8
    assert net.inner[0].config is net.config
    sizes = {(layer.config.heads, layer.config.dim) for layer in small.inner}
    assert sizes != {(3, 8)}


def test_a_graph_module_knows_training_from_evaluation() -> None:
    net, x = made("literal")
    small = gp.prune(net, example_inputs=x, macs="70%", align=1, only=ONLY["literal"]).model
    small.eval()
    assert torch.equal(small(x), small(x))
    small.train()
    assert not torch.equal(small(x), small(x))
    assert "no attribute" in note(small).why


def test_a_graph_module_takes_other_batches_where_the_trace_says_so() -> None:
    net, x = made("literal")
    batch = torch.export.Dim("batch", min=2, max=64)
    graph = gp.trace(net.eval(), x, dynamic_shapes=({0: batch},))
    small = gp.prune(graph, macs="70%", align=1, only=ONLY["literal"]).model
    assert note(small).kind == GRAPH
    more = torch.randn(5, *x.shape[1:])
    assert torch.allclose(small(more)[:2], small(more[:2]), atol=1e-6)


def test_sizes_under_roots_survive_copies() -> None:
    net, x = made("rooted")
    small = gp.prune(net, example_inputs=x, macs="50%", align=1, only=ONLY["literal"]).model
    size = small[1].head_dim
    assert (size < 6, float(size), size**2) == (True, 6.0, 36)
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(again(x), small(x))


class Auxiliary(nn.Module):
    """A classifier that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 16)
        self.head, self.aux = nn.Linear(16, 3), nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        extra = self.aux(x) if self.training else None
        out = self.head(F.relu(self.second(x)))
        return out if extra is None else (out, extra)


def test_what_only_training_reads_stays_whole() -> None:
    net, x = Auxiliary(), torch.randn(4, 8)
    result = gp.prune(net, example_inputs=x, macs="70%", align=1)
    small = result.model.train()
    assert small.first.out_features == 16
    assert small.second.out_features < 16
    out, extra = small(x)
    (out.sum() + extra.sum()).backward()


def test_inputs_by_keyword() -> None:
    net, x = made("encoder")
    result = gp.prune(net, example_inputs={"ids": x}, macs="50%", align=1)
    assert result.verdict is not None
    assert result.verdict.passed
    assert result.model(ids=x).shape == net(x).shape


class Wide(nn.Module):
    """A layer of its own kind with its width in an attribute; the second one's output stays whole."""

    def __init__(self, wide_in: int, wide: int) -> None:
        super().__init__()
        self.width = wide
        self.weight = nn.Parameter(torch.randn(wide_in, wide))

    def forward(self, x: Any) -> Any:
        return (x.reshape(-1, x.shape[-1]) @ self.weight).view(*x.shape[:-1], self.width)


def test_a_guess_for_another_layer_of_the_class_is_taken_back() -> None:
    net = nn.Sequential(Wide(16, 16), nn.GELU(), Wide(16, 16))
    small = gp.prune(net, example_inputs=torch.randn(2, 3, 16), macs="50%", align=1).model
    assert (note(small).kind, small[0].width, small[2].width) == (SAME, 8, 16)


def test_encoders_take_padding_in_evaluation_mode() -> None:
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
    net = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(24, 3))
    small = gp.prune(net, example_inputs=TOKENS, macs="50%", align=1).model.eval()
    assert note(small).kind == SAME
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():
        alone, padded = small[0](TOKENS[1:, :3]), small[0](TOKENS, src_key_padding_mask=padding)
    assert torch.allclose(alone[0], padded[1, :3], atol=1e-5)


def test_in_place() -> None:
    net, x = made("residual")
    weight = net.wide.weight
    result = gp.prune(net, example_inputs=x, macs="50%", align=1, inplace=True)
    assert result.model is net
    assert net.wide.weight is weight
    assert net.wide.out_channels == weight.shape[0]
    assert net.stem.weight.numel() < 16 * 3 * 9
    net(x).sum().backward()
    literal, x = made("literal")
    with pytest.raises(InputError, match="graph module"):
        gp.prune(literal, example_inputs=x, macs="70%", align=1, only=ONLY["literal"], inplace=True)
    assert literal[1].q.weight.shape == (24, 24)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW])
def test_optimisers_go_on(kind: type[torch.optim.Optimizer]) -> None:
    net, x = made("residual")
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    head = [p for n, p in net.named_parameters() if "head" in n]
    rest = [p for n, p in net.named_parameters() if "head" not in n]
    optimizer = kind([{"params": rest, "lr": 0.01}, {"params": head, "lr": 0.02}], **settings)
    net(x).square().sum().backward()
    optimizer.step()
    result = gp.prune(net, example_inputs=x, ratio=0.5, align=1)
    small = gp.slice_optimizer(optimizer, result)
    assert type(small) is kind
    assert [g["lr"] for g in small.param_groups] == [0.01, 0.02]
    gone = result.plan.weights["wide.weight"][0]
    kept = np.setdiff1d(np.arange(32), gone)
    key = "momentum_buffer" if kind is torch.optim.SGD else "exp_avg"
    whole = optimizer.state[net.wide.bias][key]
    assert torch.equal(small.state[result.model.wide.bias][key], whole[kept])
    result.model(x).square().sum().backward()
    small.step()
    with pytest.raises(InputError, match="not the module's"):
        gp.slice_optimizer(torch.optim.SGD(nn.Linear(2, 2).parameters()), result)


def test_a_plan_is_carried_out_again() -> None:
    net, x = made("mha")
    result = gp.prune(net, example_inputs=x, macs="50%", align=1)
    again = gp.apply(net, result.plan, example_inputs=x)
    assert torch.equal(again.eval()(x), result.model.eval()(x))
    assert gp.verify(net, again, result.plan, example_inputs=x).passed
    with torch.no_grad():
        again.down.weight[0, 0] += 1
    assert not gp.verify(net, again, result.plan, example_inputs=x).passed


def test_verification_sees_wrong_slices_and_wrong_settings() -> None:
    net, x = made("encoder")
    result = gp.prune(net, example_inputs=x, macs="50%", align=1)
    for name in ("up.weight", "norms.1.weight", "attn.q.weight"):
        bad = copy.deepcopy(result.model)
        parameter = bad.get_parameter(name)
        parameter.data = parameter.data.flip(0)
        assert not gp.verify(net, bad, result.plan, example_inputs=x).passed
    bad = copy.deepcopy(result.model)
    bad.attn.scale *= 2
    assert not gp.verify(net, bad, result.plan, example_inputs=x).passed


def test_programs_and_symbolic_graphs() -> None:
    net, x = made("residual")
    net.eval()
    wanted = gp.prune(net, example_inputs=x, macs="50%", align=1).model(x)
    for source in (torch.fx.symbolic_trace(net), torch.export.export(net, (x,))):
        small = gp.prune(source, example_inputs=x, macs="50%", align=1).model
        assert torch.allclose(small.eval()(x), wanted, atol=1e-5)


def test_meta_modules_are_analysed() -> None:
    with torch.device("meta"):
        net = Encoder(Attention)
    deps = gp.analyze(net, example_inputs=IDS.to("meta"))
    assert deps.groups


def test_refusals(tmp_path: Any) -> None:
    net, x = made("residual")
    with pytest.raises(InputError, match="writes no file"):
        gp.prune(net, tmp_path / "x.onnx", example_inputs=x, macs="50%")
    with pytest.raises(InputError):
        gp.prune(net, example_inputs=torch.randn(2, 4, 8, 8), macs="50%")
    with pytest.raises(InputError, match="inplace"):
        gp.prune(str(tmp_path / "x.onnx"), macs="50%", inplace=True) if (tmp_path / "x.onnx").exists() else gp.prune(
            _onnx(), macs="50%", inplace=True
        )


def _onnx() -> Any:
    from tests.graphs import GRAPHS

    return next(iter(GRAPHS.values()))()


class Positions(nn.Module):
    """Tables of which short inputs read a part."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 64, 32))
        self.embed = nn.Embedding(64, 32)
        self.register_buffer("ids", torch.arange(64))
        self.every = nn.Parameter(torch.randn(128, 32))
        self.parts = nn.Parameter(torch.randn(32, 32, 2))
        self.inner, self.head = nn.Linear(32, 64), nn.Linear(64, 8)

    def forward(self, x: Any) -> Any:
        n = x.shape[1]
        x = F.relu(x @ self.parts[:, :, 0]) @ self.parts[:, :16, 1] @ self.parts[:, 16:, 1].mT
        x = x + self.table[:, :n] + self.embed(self.ids[:n]) + self.every[torch.arange(n) * 2]
        return self.head(F.relu(self.inner(x)))


def test_rows_that_longer_inputs_read_stay() -> None:
    net, short, long = Positions().eval(), torch.randn(2, 16, 32), torch.randn(2, 40, 32)
    with torch.no_grad():
        net.inner.weight[:24] = 0
        net.inner.bias[:24] = 0
    result = gp.prune(net, example_inputs=short, params="95%", max_ratio=0.5)
    assert [g.name for g in result.plan.groups] == ["inner.weight[0]"]
    assert torch.allclose(result.model(long), net(long), atol=1e-5)
    assert {"table", "every"}.isdisjoint(result.plan.weights)
