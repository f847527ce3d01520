"""Slicing modules: weights, layer attributes, ties, what cannot be copied."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import pytest

from graphprune.coupling.box import Box
from graphprune.errors import InputError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from graphprune.rewrite.torch_attention import PrunedMultiheadAttention  # noqa: E402
from graphprune.rewrite.torch_slices import sliced  # noqa: E402

torch.set_num_threads(1)


def box(**axes: list[int]) -> Box:
    """A box from a0=[kept], a1=[kept]."""
    return Box({int(k[1:]): np.array(v) for k, v in axes.items()})


def cut(module: nn.Module, boxes: Mapping[str, Box], **options: bool) -> nn.Module:
    """The sliced module; its tensors are checked against numpy."""
    before = {k: v.detach().numpy().copy() for k, v in module.state_dict().items()}
    small = sliced(module, boxes, **options)
    for name, tensor in small.state_dict().items():
        wanted = boxes[name].take(before[name]) if name in boxes else before[name]
        assert np.array_equal(tensor.numpy(), wanted)
    if not options:
        assert all(np.array_equal(v.numpy(), before[k]) for k, v in module.state_dict().items())
    return small


@pytest.mark.parametrize(
    ("layer", "boxes", "attributes", "shape"),
    [
        (nn.Linear(6, 4), {"weight": box(a0=[0, 3], a1=[1, 2, 5]), "bias": box(a0=[0, 3])}, (3, 2), (2, 3)),
        (nn.Conv2d(4, 6, 3), {"weight": box(a0=[1, 2], a1=[0, 3]), "bias": box(a0=[1, 2])}, (2, 2, 1), (1, 2, 5, 5)),
        (nn.Conv2d(6, 6, 3, groups=6, bias=False), {"weight": box(a0=[1, 2, 4])}, (3, 3, 3), (1, 3, 5, 5)),
        (nn.Conv2d(8, 8, 1, groups=4, bias=False), {"weight": box(a0=[0, 2, 4, 6])}, (8, 4, 4), (1, 8, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), {"weight": box(a0=[0, 2]), "bias": box()}, (2, 6, 2), (1, 2, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 3), {"weight": box(a0=[3], a1=[0, 1]), "bias": box(a0=[0, 1])}, (1, 2, 1), (1, 1, 5)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_layers_know_their_new_sizes(
    layer: nn.Module, boxes: dict[str, Box], attributes: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    small = cut(layer, boxes)
    names = ("in_features", "out_features") if isinstance(layer, nn.Linear) else ("in_channels", "out_channels")
    assert tuple(getattr(small, n) for n in (*names, "groups")[: len(attributes)]) == attributes
    small(torch.randn(shape)).sum().backward()


def test_norms_and_embeddings() -> None:
    three = box(a0=[0, 1, 5])
    norm = cut(nn.BatchNorm1d(6), dict.fromkeys(("weight", "bias", "running_mean", "running_var"), three))
    assert norm.num_features == 3
    assert norm(torch.randn(4, 3)).shape == (4, 3)
    assert cut(nn.LayerNorm(6), {"weight": three, "bias": three}).normalized_shape == (3,)
    assert cut(nn.RMSNorm((2, 6)), {"weight": box(a1=[2, 3])}).normalized_shape == (2, 2)
    whole = cut(nn.GroupNorm(3, 6), {"weight": box(a0=[0, 1, 4, 5]), "bias": box(a0=[0, 1, 4, 5])})
    assert (whole.num_groups, whole.num_channels) == (2, 4)
    inner = cut(nn.GroupNorm(3, 6), {"weight": box(a0=[0, 2, 5]), "bias": box(a0=[0, 2, 5])})
    assert (inner.num_groups, inner.num_channels) == (3, 3)
    table = cut(nn.Embedding(5, 6, padding_idx=3), {"weight": box(a0=[0, 3, 4], a1=[1, 2])})
    assert (table.num_embeddings, table.embedding_dim, table.padding_idx) == (3, 2, 1)
    assert cut(nn.PReLU(6), {"weight": three}).num_parameters == 3


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int) -> None:
    hidden = np.array([0, 2])
    rows = [int(g * 5 + h) for g in range(gates) for h in hidden]
    layer = kind(3, 5, bidirectional=True, batch_first=True)
    boxes = {}
    for end in ("l0", "l0_reverse"):
        boxes |= {f"weight_ih_{end}": box(a0=rows, a1=[0, 1]), f"weight_hh_{end}": box(a0=rows, a1=[0, 2])}
        boxes |= {f"bias_{part}_{end}": box(a0=rows) for part in ("ih", "hh")}
    small = cut(layer, boxes)
    assert (small.input_size, small.hidden_size) == (2, 2)
    out, _ = small(torch.randn(2, 7, 2))
    assert out.shape == (2, 7, 4)
    out.sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def masked_attention(layer: nn.MultiheadAttention, heads: list[int]) -> nn.MultiheadAttention:
    """The same layer with the outputs of the other heads multiplied by zero."""
    import copy

    out = copy.deepcopy(layer)
    for head in set(range(layer.num_heads)) - set(heads):
        out.out_proj.weight.data[:, head * layer.head_dim : (head + 1) * layer.head_dim] = 0
    return out


@pytest.mark.parametrize("form", ["packed", "kdim", "extra", "seq first"])
def test_attention_layers_keep_their_scale(form: str) -> None:
    torch.manual_seed(0)
    options = {
        "packed": {"batch_first": True},
        "kdim": {"kdim": 5, "vdim": 6, "batch_first": True},
        "extra": {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
        "seq first": {"bias": False},
    }[form]
    layer = nn.MultiheadAttention(8, 4, **options)
    kept = [0, 1, 4, 5, 6, 7]  # heads 0, 2 and 3
    packed = [r + 8 * third for third in range(3) for r in kept]
    boxes = {"in_proj_weight": box(a0=packed)} if form != "kdim" else {}
    boxes |= {f"{n}_proj_weight": box(a0=kept) for n in ("qkv" if form == "kdim" else "")}
    boxes |= {"in_proj_bias": box(a0=packed)} if form != "seq first" else {}
    boxes |= {"out_proj.weight": box(a1=kept)}
    boxes |= {n: box(a2=kept) for n in ("bias_k", "bias_v")} if form == "extra" else {}
    small = cut(layer, boxes)
    assert isinstance(small, PrunedMultiheadAttention)
    assert (small.num_heads, small.head_dim, small.embed_dim) == (3, 2, 8)
    query = torch.randn(3, 4, 8)
    key, value = (torch.randn(3, 4, 5), torch.randn(3, 4, 6)) if form == "kdim" else (query, query)
    reference = masked_attention(layer, [0, 2, 3])
    square = torch.randn(3, 3) if form == "seq first" else torch.randn(4, 4)
    batch = 4 if form == "seq first" else 3
    padding = torch.zeros(batch, len(square), dtype=torch.bool)
    padding[:, -1] = True
    causal = torch.full(square.shape, float("-inf")).triu(1)
    for settings in (
        {},
        {"need_weights": False},
        {"attn_mask": square},
        {"attn_mask": square > 1.5, "need_weights": False},
        {"key_padding_mask": padding},
        {"attn_mask": causal, "key_padding_mask": padding, "need_weights": False},
        {"attn_mask": causal, "is_causal": True, "need_weights": False} if form != "extra" else {},
    ):
        wanted, got = reference(query, key, value, **settings)[0], small(query, key, value, **settings)[0]
        assert torch.allclose(wanted, got, atol=1e-6), settings
    weights = small(query, key, value, average_attn_weights=False)[1]
    assert torch.allclose(weights, reference(query, key, value, average_attn_weights=False)[1][:, [0, 2, 3]], atol=1e-6)


def test_an_encoder_layer_gives_the_same_in_evaluation_mode() -> None:
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True).eval()
    packed = [r + 8 * third for third in range(3) for r in range(4)]
    boxes = {"in_proj_weight": box(a0=packed), "in_proj_bias": box(a0=packed), "out_proj.weight": box(a1=[0, 1, 2, 3])}
    small = sliced(layer, {f"self_attn.{k}": v for k, v in boxes.items()})
    layer.self_attn = masked_attention(layer.self_attn, [0, 1])
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        assert torch.allclose(small(x), layer(x), atol=1e-6)


def test_tied_weights_stay_tied_and_settings_stay() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(7, 6), "head": nn.Linear(6, 7, bias=False)}).double()
    net["head"].weight = net["embed"].weight
    net["embed"].weight.requires_grad_(False)
    small = cut(net, {"embed.weight": box(a1=[0, 5]), "head.weight": box(a1=[0, 5])})
    assert small["head"].weight is small["embed"].weight
    assert small["head"].in_features == 2
    assert small["embed"].weight.dtype == torch.float64
    assert not small["embed"].weight.requires_grad
    again = sliced(net, {"embed.weight": box(a1=[0, 5])})
    assert again["head"].weight is again["embed"].weight
    assert again["head"].in_features == 2


def test_in_place_keeps_the_parameters_and_their_gradients() -> None:
    layer = nn.Linear(4, 3)
    weight = layer.weight
    layer(torch.ones(1, 4)).sum().backward()
    small = cut(layer, {"weight": box(a0=[0, 2]), "bias": box(a0=[0, 2])}, inplace=True)
    assert small is layer
    assert layer.weight is weight
    assert weight.grad is not None
    assert weight.grad.shape == (2, 4)
    layer(torch.ones(1, 4)).sum().backward()


def test_weight_norm_and_lists_of_parameters() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    names = [n for n, _ in layer.named_parameters() if "original" in n]
    small = sliced(layer, {"bias": box(a0=[0, 2]), names[0]: box(a0=[0, 2]), names[1]: box(a0=[0, 2])})
    assert torch.equal(small(torch.ones(1, 4)), layer(torch.ones(1, 4))[:, [0, 2]])
    assert small.out_features == 2
    old = nn.utils.weight_norm(nn.Linear(4, 3))
    old(torch.ones(1, 4))
    small = sliced(old, {n: box(a0=[0, 2]) for n in ("bias", "weight_g", "weight_v")})
    assert torch.equal(small(torch.ones(1, 4)), old(torch.ones(1, 4))[:, [0, 2]])
    some = nn.ParameterList([nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))])
    assert [len(p) for p in sliced(some, {"1": box(a0=[1])})] == [3, 1]


class Locked(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.lock:
            return self.inner(x)


def test_what_cannot_be_copied_is_shared() -> None:
    net = Locked()
    small = sliced(net, {"inner.weight": box(a0=[0, 2]), "inner.bias": box(a0=[0, 2])})
    assert small.lock is net.lock
    assert small.inner is not net.inner
    assert small(torch.ones(1, 4)).shape == (1, 2)
    assert net(torch.ones(1, 4)).shape == (1, 3)


def test_ragged_boxes() -> None:
    weight = torch.randn(4, 6)
    ragged = Box({1: np.array([0, 1])}, {1: (0, np.array([[0, 1], [2, 3], [4, 5], [0, 5]]))})
    layer = nn.Linear(6, 4, bias=False)
    layer.weight.data = weight
    cut(layer, {"weight": ragged})


def test_refusals() -> None:
    with pytest.raises(InputError, match="no parameter or buffer nothing"):
        sliced(nn.Linear(2, 2), {"nothing": box(a0=[0])})
    with pytest.raises(InputError, match="does not fit"):
        sliced(nn.Linear(2, 2), {"weight": box(a0=[5])})
    with pytest.raises(InputError, match="no size yet"):
        sliced(nn.LazyLinear(2), {"weight": box(a0=[0])})
