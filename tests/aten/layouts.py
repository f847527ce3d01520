"""Cases of PyTorch's operators that move, copy, pick and write positions, and of those element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tests.aten.case import Case, case


def written(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[:, 1:4] = y
    return x


def written_once(x: torch.Tensor) -> torch.Tensor:
    x = x + 1
    x[:, 0] = 3
    return x


def added(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x + 1
    x[:, 1:] += y[:, 1:]
    return x.relu_()


def filled(x: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(x.shape[1:])
    mask[1:, 2:] = 1
    return x * (mask == 0)


def rotated(x: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
    one, two = x.chunk(2, -1)
    turn = torch.arange(x.shape[1])[:, None] * speed
    turn = torch.cat((turn, turn), -1)
    return x * turn.cos() + torch.cat((-two, one), -1) * turn.sin()


def interleaved(x: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
    pairs = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    turn = speed.repeat_interleave(2)
    return x * turn.cos() + pairs * turn.sin()


def complex_rotated(x: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.view(*x.shape[:-1], -1, 2))
    turn = torch.polar(torch.ones_like(speed), speed)
    return torch.view_as_real(pairs * turn).flatten(-2)


def repeated_heads(x: torch.Tensor) -> torch.Tensor:
    n, k, t, d = x.shape
    return x[:, :, None].expand(n, k, 3, t, d).reshape(n, k * 3, t, d)


MOVES: list[Case] = [
    case("view", lambda x: x.view(x.shape[0], 4, -1, x.shape[2]), "n(4d)t"),
    case("reshape", lambda x: x.reshape(x.shape[0], -1), "nct"),
    case("unflatten", lambda x: x.unflatten(1, (3, -1)), "n(3d)t"),
    case("flatten", lambda x: x.flatten(1, 2), "nctk"),
    case("squeeze", lambda x: x.squeeze(1), "n1t"),
    case("unsqueeze", lambda x: x.unsqueeze(-1), "nct"),
    case("permute", lambda x: x.permute(2, 0, 1), "nct"),
    case("transpose", lambda x: x.transpose(1, -1), "nct"),
    case("t", lambda x: x.t(), "nc"),
    case("mT", lambda x: x.mT, "nct"),
    case("movedim", lambda x: x.movedim((0, 3), (2, 0)), "nctk"),
    case("swapaxes", lambda x: x.swapaxes(0, 2), "nct"),
    case("view as another type", lambda x: x.view(torch.int32), "nc"),
    case("expand", lambda x: x.expand(3, -1, x.shape[2]), "1ct"),
    case("expand_as", lambda x, y: x.expand_as(y), "1ct", "nct"),
    case("broadcast_to", lambda x: x.broadcast_to(3, *x.shape), "ct"),
    case("repeat", lambda x: x.repeat(2, 1, 3), "nct"),
    case("repeat in front", lambda x: x.repeat(2, 1, 1), "ct"),
    case("repeat_interleave", lambda x: x.repeat_interleave(3, 1), "nct"),
    case("repeated heads", repeated_heads, "nktd"),
    case("zeros", lambda x: x + torch.zeros(x.shape[1:]), "nct"),
    case("new_ones", lambda x: x + x.new_ones(x.shape[1]), "nc"),
    case("zeros_like", lambda x: x * torch.zeros_like(x), "nc"),
    case("full", lambda x: torch.cat((torch.full((x.shape[0], 3), 2.0), x), 1), "nc"),
    case("cat", lambda x, y: torch.cat((x, y), 1), "nat", "nbt"),
    case("stack", lambda x, y: torch.stack((x, y), 1), "nt", "nt"),
    case("chunk", lambda x: x.chunk(2, 1), "nc", c=8),
    case("split", lambda x: x.split(3, 1), "nc", c=8),
    case("split into sizes", lambda x: x.split([2, 5, 1], 1)[:2], "nc", c=8),
    case("unbind", lambda x: x.unbind(1), "nct", stays="c"),
    case("select", lambda x: x[:, :, 2], "nct", t=6),
    case("slice", lambda x: x[:, 1:5], "nct", c=8),
    case("slice from the end", lambda x: x[:, -3:], "nct", c=8),
    case("slice with steps", lambda x: x[:, ::2], "nct", c=8),
    case("narrow", lambda x: x.narrow(1, 2, 4), "nct", c=8),
    case("flip", lambda x: x.flip(1), "nct"),
    case("roll", lambda x: x.roll(2, 1), "nct", stays="c"),
    case("pad", lambda x: F.pad(x, (0, 0, 2, 3)), "nct"),
    case("crop", lambda x: F.pad(x, (0, 0, -2, 1)), "nct", c=8),
    case("reflect", lambda x: F.pad(x, (1, 1), mode="reflect"), "nct", stays="t", t=5),
    case("replicate", lambda x: F.pad(x, (1, 1), mode="replicate"), "nct", stays="t"),
    case("tril", lambda x: x.tril(), "nab", stays="ab"),
    case("diagonal", lambda x: x.diagonal(dim1=1, dim2=2), "nab", stays="ab"),
    case("glu", lambda x: F.glu(x, 1), "n(2c)t"),
    case("fft", lambda x: torch.view_as_real(torch.fft.rfft(x, dim=1)), "nct", stays="c"),
    case("rotary halves", rotated, "nt(2d)", "=d", stays="t"),
    case("rotary pairs", interleaved, "nt(d2)", "=d"),
    case("rotary as complex numbers", complex_rotated, "nt(d2)", "=d"),
    case("writing a slice", written, "nct", "n3t", c=6),
    case("writing a position", written_once, "nct", c=6),
    case("adding to a slice", added, "nct", "nkt", c=6, k=6),
    case("a written mask", filled, "nct", stays="ct"),
]

READS: list[Case] = [
    case("embedding", F.embedding, "#vnt", "=vc", stays="v"),
    case("index_select", lambda x: x.index_select(1, torch.tensor([3, 0, 3, 1])), "nct", c=6),
    case("computed index_select", lambda x, i: x.index_select(1, i), "nct", "#ck", stays="c"),
    case("index", lambda x: x[:, torch.tensor([3, 0, 5])], "nct", c=6),
    case("index of two axes", lambda x: x[torch.tensor([[1, 0, 2], [3, 3, 0]])], "ct", c=6),
    case("computed index", lambda x, i: x[i], "vc", "#vnt", stays="v"),
    case("two computed indices", lambda x, i, j: x[i, j], "ukc", "#un", "#kn", stays="uk"),
    case("index on both sides", lambda x, i, j: x[i, :, j], "ukc", "#un", "#cn", stays="uc"),
    case("gather", lambda x, i: x.gather(1, i), "nct", "#cnkt", stays="c"),
    case("scatter", lambda x, i, y: x.scatter(1, i, y), "nct", "#cnkt", "nkt", stays="ck", k=2),
    case("scatter_add", lambda x, i, y: x.scatter_add(1, i, y), "nct", "#cnkt", "nkt", stays="ck"),
    case("index_add", lambda x, i, y: x.index_add(1, i, y), "nct", "#ck", "nkt", stays="ck"),
    case("index_copy", lambda x, y: x.index_copy(1, torch.tensor([2, 0]), y), "nct", "n2t", stays="c", c=6),
    case("index_put", lambda x, i, y: torch.index_put(x, (i,), y), "vct", "#v2", "2ct", stays="v"),
]

_ONE = {
    "relu": torch.relu, "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "exp": torch.exp,
    "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "elu": F.elu, "leaky_relu": F.leaky_relu, "abs": torch.abs,
    "relu6": F.relu6, "clamp": lambda x: x.clamp(-1, 1), "erf": torch.erf, "neg": torch.neg, "round": torch.round,
    "softplus": F.softplus, "mish": F.mish, "sin": torch.sin, "cos": torch.cos, "floor": torch.floor,
    "square": torch.square, "sign": torch.sign, "rsub": lambda x: 1 - x, "pow": lambda x: x**3,
    "isnan": torch.isnan, "contiguous": lambda x: x.transpose(0, 1).contiguous(), "clone": torch.clone,
    "dropout": lambda x: F.dropout(x, 0.5, training=False), "in place": lambda x: (x + 1).relu_().mul_(2),
    "type_as": lambda x: x.double(), "cast": lambda x: x.int(),
    "eq": lambda x: x == 0, "logical_not": lambda x: torch.logical_not(x > 0),
    "threshold": lambda x: F.threshold(x, 0.1, 2), "hardtanh": F.hardtanh, "selu": F.selu, "atan": torch.atan,
    "log_sigmoid": F.logsigmoid, "nan_to_num": torch.nan_to_num, "trunc": torch.trunc, "softsign": F.softsign,
}  # fmt: skip
_TWO: dict[str, Callable[..., Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum, "lt": torch.lt,
    "minimum": torch.minimum, "atan2": torch.atan2, "fmod": torch.fmod, "remainder": torch.remainder, "ge": torch.ge,
    "lerp": lambda x, y: torch.lerp(x, y, 0.3), "logaddexp": torch.logaddexp, "hypot": torch.hypot,
    "floor_divide": torch.floor_divide, "ne": torch.ne, "add in place": lambda x, y: (x + 0).add_(y, alpha=2),
    "copy": lambda x, y: (x + 0).copy_(y),
}  # fmt: skip
POINTWISE: list[Case] = [
    *(case(name, call, "nct") for name, call in _ONE.items()),
    *(case(name, call, "nct", "nct") for name, call in _TWO.items()),
    *(case(f"{name} broadcast", _TWO[name], "nct", "=c1") for name in ("add", "mul", "div", "maximum")),
    case("log", torch.log, "+nc"),
    case("rsqrt", torch.rsqrt, "+nc"),
    case("pow of two", torch.pow, "+nc", "nc"),
    case("where", torch.where, "?nct", "nct", "=ct"),
    case("masked_fill", lambda x, m: x.masked_fill(m, -3.0), "nct", "?ct"),
    case("logical_and", torch.logical_and, "?nc", "?nc"),
    case("bitwise_or", lambda x, y: x | y, "?nc", "?nc"),
    case("addcmul", torch.addcmul, "nc", "nc", "=c"),
    case("prelu", F.prelu, "nct", "=c"),
    case("prelu with one slope", F.prelu, "nct", "=1"),
]

ALL = [*MOVES, *READS, *POINTWISE]
