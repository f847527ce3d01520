"""Networks with dead channels planted in them, and how many units must leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, numpy_helper

from tests.graphs.builder import Builder

if TYPE_CHECKING:
    from collections.abc import Callable

DEAD: dict[str, tuple[Callable[[], ModelProto], int]] = {}
IMAGE = ["n", 3, "h", "w"]
TOKENS = ["n", "t", 6]


def dead(units: int) -> Any:
    """Register a network with the number of units that are dead, counted by hand, less carriers."""

    def decorate(maker: Callable[[], ModelProto]) -> Callable[[], ModelProto]:
        DEAD[maker.__name__] = maker, units
        return maker

    return decorate


def planted(model: ModelProto, **changes: Any) -> ModelProto:
    """The model with entries of weights set: name (dots as __) = [(index, value), ...]."""
    by_name = {t.name: t for t in model.graph.initializer}
    for name, entries in changes.items():
        tensor = by_name[name.replace("__", ".")]
        array = numpy_helper.to_array(tensor).copy()
        for index, value in entries:
            array[index] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def rows(*numbers: int) -> list[tuple[Any, float]]:
    """Zeros along the first axis."""
    return [(r, 0.0) for r in numbers]


def columns(*numbers: int) -> list[tuple[Any, float]]:
    """Zeros along the second axis."""
    return [((slice(None), c), 0.0) for c in numbers]


@dead(5)
def zero_rows_through_activations() -> ModelProto:
    """Rows of zeros leave the bias; Relu kills two of the three, Sigmoid makes f(c), HardSwish f(c); no padding."""
    b = Builder()
    x = b.op("Relu", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"))
    x = b.op("Sigmoid", b.conv(x, 8, 6, 3, "c2", pad=0))
    x = b.op("HardSwish", b.conv(x, 6, 7, 1, "c3"))
    m = b.build(b.conv(x, 7, 4, 3, "head", pad=0))
    bias = [(0, -1.0), (3, 0.5), (5, -0.25)]
    return planted(m, c1__weight=rows(0, 3, 5), c1__bias=bias, c2__weight=rows(2), c3__weight=rows(6))


@dead(3)
def batchnorm_betas_of_both_signs() -> ModelProto:
    """A scale of zero leaves the bias; a negative one is zero behind the Relu, a positive one is folded."""
    b = Builder()
    x = b.op("Relu", b.conv_bn(b.source("x", IMAGE), 3, 8, 3, "c1"))
    x = b.silu(b.conv_bn(x, 8, 6, 1, "c2"))
    m = b.build(b.conv(x, 6, 4, 1, "head"))
    return planted(
        m,
        c1__bn__gamma=[(1, 0), (4, 0)],
        c1__bn__beta=[(1, -0.7), (4, 0.7)],
        c2__bn__gamma=[(3, 0)],
        c2__bn__beta=[(3, -0.9)],
    )


@dead(2)
def padded_conv_keeps_a_carrier() -> ModelProto:
    """Three constants in front of a padded, strided and dilated convolution: one of them carries the others."""
    b = Builder()
    x = b.op("Sigmoid", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"))
    w = b.weight(5, 8, 3, 3, fan_in=72, name="c2.weight")
    x = b.op("Conv", x, w, kernel_shape=[3, 3], strides=[2, 2], dilations=[2, 2], pads=[2, 1, 2, 3])
    return planted(b.build(b.op("Tanh", x)), c1__weight=rows(0, 3, 5))


@dead(3)
def a_carrier_for_two_consumers() -> ModelProto:
    """Two padded convolutions and an unpadded one read the same constants; one carrier serves both."""
    b = Builder()
    x = b.op("Softplus", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"))
    left, right = b.conv(x, 8, 4, 3, "l"), b.conv(x, 8, 4, 5, "r")
    m = b.build(b.op("Add", b.op("Add", left, right), b.conv(x, 8, 4, 1, "p", bias=False)))
    return planted(m, c1__weight=rows(1, 2, 3, 4))


@dead(2)
def through_a_padded_depthwise_conv() -> ModelProto:
    """A depthwise convolution whose kernel is zero gives its bias; what feeds it is ignored and leaves with it."""
    b = Builder()
    x = b.op("Relu", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"))
    x = b.op("HardSwish", b.conv(x, 8, 8, 3, "dw", group=8, stride=2))
    m = b.build(b.conv(x, 8, 4, 1, "head"))
    return planted(m, dw__weight=rows(2, 6))


@dead(1)
def grouped_padded_conv() -> ModelProto:
    """Groups of four: the same offset is constant in both groups twice, each group keeps one carrier."""
    b = Builder()
    x = b.op("Sigmoid", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"))
    m = b.build(b.conv(x, 8, 6, 3, "g", group=2))
    return planted(m, c1__weight=rows(1, 2, 5, 6))


@dead(2)
def grouped_unpadded_conv() -> ModelProto:
    b = Builder()
    x = b.op("Sigmoid", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"))
    m = b.build(b.conv(x, 8, 6, 3, "g", group=2, pad=0, bias=False))
    return planted(m, c1__weight=rows(1, 2, 5, 6))


@dead(2)
def residual_stream() -> ModelProto:
    """Channel 0 is constant in every branch, channel 1 only in one, channel 2 cancels to zero; 3 is never read."""
    b = Builder()
    x = b.conv(b.source("x", IMAGE), 3, 8, 3, "stem")
    for name in ("a", "b"):
        x = b.op("Add", x, b.conv(b.op("Relu", x), 8, 8, 1, name))
    m = b.build(b.conv(b.op("Relu", x), 8, 4, 1, "head"))
    dead_rows = {"stem__weight": rows(0, 1), "a__weight": rows(0), "b__weight": rows(0)}
    dead_rows["a__weight"] += columns(3)
    dead_rows["b__weight"] += columns(3)
    return planted(m, **dead_rows, head__weight=columns(3))


@dead(3)
def concat_of_branches() -> ModelProto:
    """Constants keep their places behind a Concat and a MaxPool."""
    b = Builder()
    x = b.source("x", IMAGE)
    left, right = b.conv(x, 3, 5, 3, "l"), b.op("Sigmoid", b.conv(x, 3, 4, 3, "r"))
    x = b.op("MaxPool", b.op("Concat", left, right, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    m = b.build(b.conv(x, 9, 4, 1, "head"))
    return planted(m, l__weight=rows(4, 1), r__weight=rows(2))


@dead(4)
def transformer_ffn() -> ModelProto:
    """Hidden units with a zero column and a bias, through GELU; one more is ignored by the second layer."""
    b = Builder()
    x = b.source("x", TOKENS)
    h = b.op("Gelu", b.linear(x, 6, 12, "up"))
    m = b.build(b.op("Add", x, b.linear(h, 12, 6, "down")))
    return planted(m, up__weight=columns(0, 5, 7), down__weight=[(9, 0.0)])


@dead(2)
def products_without_a_bias() -> ModelProto:
    """MatMul without an Add behind it: one is made, also where the product is a graph output."""
    b = Builder()
    h = b.op("Sigmoid", b.linear(b.source("x", TOKENS), 6, 8, "one", bias=False))
    h = b.op("Sigmoid", b.linear(h, 8, 8, "two", bias=False))
    m = b.build(b.linear(h, 8, 3, "three", bias=False))
    return planted(m, one__weight=columns(2), two__weight=columns(4))


@dead(3)
def squeeze_and_excite() -> ModelProto:
    """A squeeze unit with a zero row; a trunk channel whose gate does not matter; a norm that is off."""
    b = Builder()
    x = b.op("Relu", b.conv_bn(b.source("x", IMAGE), 3, 8, 3, "c1"))
    s = b.op("HardSigmoid", b.conv(b.op("GlobalAveragePool", x), 8, 4, 1, "squeeze"))
    s = b.op("Sigmoid", b.conv(s, 4, 8, 1, "excite"))
    m = b.build(b.conv(b.op("Mul", x, s), 8, 4, 1, "head"))
    return planted(m, squeeze__weight=rows(2), c1__bn__gamma=[(1, 0), (6, 0)], c1__bn__beta=[(1, -0.3), (6, -1e-3)])


@dead(3)
def chain_of_what_is_never_read() -> ModelProto:
    """Nothing reads unit 3 of the last layer, so what only feeds it leaves as well, back to the front."""
    b = Builder()
    h = b.op("Relu", b.linear(b.source("x", TOKENS), 6, 8, "one"))
    h = b.op("Relu", b.linear(h, 8, 8, "two"))
    h = b.op("Relu", b.linear(h, 8, 8, "three"))
    m = b.build(b.linear(h, 8, 3, "four"))
    only = [(1, 0.0), ((1, 2), 0.5)], [(2, 0.0), ((2, 3), 0.5)]
    return planted(m, two__weight=only[0], three__weight=only[1], four__weight=[(3, 0.0)])


@dead(1)
def bounded_inputs_kill_a_relu() -> ModelProto:
    """Inputs within [0, 6] and weights of 1e-3 never lift a bias of -1 above zero; with -0.01 they may."""
    b = Builder()
    x = b.op("Clip", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"), b.scalar(0.0), b.scalar(6.0))
    x = b.op("Relu", b.conv(x, 8, 6, 3, "c2"))
    m = b.build(b.conv(x, 6, 4, 3, "head"))
    return planted(m, c2__weight=[(1, 1e-3), (4, 1e-3)], c2__bias=[(1, -1.0), (4, -0.01)])


@dead(1)
def lost_in_rounding() -> ModelProto:
    """A bias of 0.5 with weights of 1e-12 on inputs within [0, 1] is 0.5 in single precision; 1e-6 is not."""
    b = Builder()
    x = b.op("Sigmoid", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"))
    x = b.op("Sigmoid", b.conv(x, 8, 6, 3, "c2", pad=0))
    m = b.build(b.conv(x, 6, 4, 1, "head"))
    return planted(m, c2__weight=[(1, 1e-12), (4, 1e-6)], c2__bias=[(1, 0.5), (4, 0.5)])


@dead(4)
def transposed_conv_and_upsampling() -> ModelProto:
    """Zeros leave in front of a transposed convolution; of two constants one carries the other."""
    b = Builder()
    x = b.op("Relu", b.conv(b.source("x", IMAGE), 3, 8, 3, "c1"))
    x = b.op("Sigmoid", b.conv_transpose(x, 8, 6, "up"))
    x = b.op("Resize", x, "", b.const(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    m = b.build(b.conv_transpose(x, 6, 4, "last"))
    return planted(m, c1__weight=rows(0, 3, 5), c1__bias=[(0, -1), (3, -2), (5, -3)], up__weight=columns(1, 4))


@dead(2)
def unread_hidden_units_of_an_lstm() -> ModelProto:
    """A hidden unit that neither the next layer nor any other unit reads."""
    b = Builder()
    x = b.source("x", [5, "n", 6])
    w, r = b.weight(1, 32, 6, fan_in=6, name="w"), b.weight(1, 32, 8, fan_in=8, name="r")
    y = b.ops("LSTM", x, w, r, b.weight(1, 64, name="bias"), outputs=1, hidden_size=8)[0]
    y = b.op("Squeeze", y, b.ints(1))
    m = b.build(b.linear(y, 8, 4, "head"))
    unread = [((..., u), 0.0) for u in (2, 5)]
    return planted(m, r=unread, head__weight=[(2, 0.0), (5, 0.0)])


@dead(0)
def norms_count_their_channels() -> ModelProto:
    """A channel that is always zero still counts in a layer norm's mean: it stays."""
    b = Builder()
    h = b.op("Relu", b.linear(b.source("x", TOKENS), 6, 8, "one"))
    m = b.build(b.linear(b.layernorm(h, 8, "ln"), 8, 3, "two"))
    return planted(m, one__weight=columns(2), one__bias=[(2, -1.0)])
