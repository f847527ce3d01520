"""Recurrent layers and embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from tests.graphs.builder import Builder
from tests.graphs.registry import golden

if TYPE_CHECKING:
    from onnx import ModelProto


def _recurrent(b: Builder, op: str, x: str, gates: int, *extra: str, directions: int = 1) -> str:
    """W, R, B and the node itself: 10 inputs, 9 hidden units. Output Y [seq, directions, batch, 9]."""
    name = op.lower()
    w = b.weight(directions, gates * 9, 10, fan_in=10, name=f"{name}.W")
    r = b.weight(directions, gates * 9, 9, fan_in=9, name=f"{name}.R")
    bias = b.weight(directions, 2 * gates * 9, name=f"{name}.B")
    attrs: dict[str, object] = {"hidden_size": 9}
    if directions == 2:
        attrs["direction"] = "bidirectional"
    if op == "GRU":
        attrs["linear_before_reset"] = 1
    return b.op(op, x, w, r, bias, *extra, **attrs)


@golden(9, 10)
def lstm() -> ModelProto:
    """9 hidden units: 4 rows of W, 4 rows and a column of R, 8 of B, a consumer row. 10 input units."""
    b = Builder("lstm")
    x = b.linear(b.source("sequence", [4, 2, 6]), 6, 10, "embed")
    y = b.op("Squeeze", _recurrent(b, "LSTM", x, 4), b.ints(1))
    return b.build(b.linear(y, 9, 5, "head"))


@golden(9, 10)
def lstm_states() -> ModelProto:
    """With initial states (zeros, as exporters fold them); the final states Y_h and Y_c are used too."""
    b = Builder("lstm_states")
    x = b.linear(b.source("sequence", [4, 2, 6]), 6, 10, "embed")
    zeros = [b.const(np.zeros((1, 2, 9), np.float32), f"{n}0") for n in "hc"]
    _recurrent(b, "LSTM", x, 4, "", *zeros)
    b.nodes[-1].output.extend(["lstm_h", "lstm_c"])
    y = b.op("Squeeze", b.nodes[-1].output[0], b.ints(1))
    y = b.op("Add", y, b.op("Mul", "lstm_h", "lstm_c"))
    return b.build(b.linear(y, 9, 5, "head"))


@golden(9, 10)
def lstm_bidirectional() -> ModelProto:
    """Both directions lose unit j together, since they live in one box: 9 hidden units, 10 input units."""
    b = Builder("lstm_bidirectional")
    x = b.linear(b.source("sequence", [4, 2, 6]), 6, 10, "embed")
    y = b.transpose(_recurrent(b, "LSTM", x, 4, directions=2), 0, 2, 1, 3)
    return b.build(b.linear(b.reshape(y, 4, 2, 18), 18, 5, "head"))


@golden(9, 10)
def gru() -> ModelProto:
    """Three gates: 9 hidden units, 10 input units."""
    b = Builder("gru")
    x = b.linear(b.source("sequence", [4, 2, 6]), 6, 10, "embed")
    y = b.op("Squeeze", _recurrent(b, "GRU", x, 3), b.ints(1))
    return b.build(b.linear(y, 9, 5, "head"))


@golden(12, 16)
def tied_embedding() -> ModelProto:
    """One table [32, 16] is looked up, then transposed as lm_head: 16 d-units, frozen vocabulary. 12: MLP."""
    b = Builder("tied_embedding")
    table = b.weight(32, 16, fan_in=16, name="table")
    x = b.op("Gather", table, b.source("ids", [2, 4], TensorProto.INT64), axis=0)
    y = b.op("Relu", b.linear(b.layernorm(x, 16, "ln"), 16, 12, "fc1"))
    x = b.op("Add", x, b.linear(y, 12, 16, "fc2"))
    return b.build(b.op("MatMul", x, b.transpose(table, 1, 0)))


@golden(8, 12)
def embedding_sum() -> ModelProto:
    """Token, segment and position tables share 12 d-units; then 8 hidden ones."""
    b = Builder("embedding_sum")
    ids, kinds = (b.source(n, [2, 4], TensorProto.INT64) for n in ("ids", "kinds"))
    x = b.op("Gather", b.weight(32, 12, name="tokens"), ids)
    x = b.op("Add", x, b.op("Gather", b.weight(4, 12, name="segments"), kinds))
    x = b.op("Add", x, b.weight(1, 4, 12, name="positions"))
    x = b.op("Tanh", b.linear(b.layernorm(x, 12, "ln"), 12, 8, "fc"))
    return b.build(b.linear(x, 8, 5, "head"))


@golden(6, 8)
def conv1d_sequence() -> ModelProto:
    """Two 1-D convolutions over time: 6 and 8 channels."""
    b = Builder("conv1d_sequence")
    x = b.source("signal", [2, 3, 12])
    for name, n_in, n_out in (("conv1", 3, 6), ("conv2", 6, 8)):
        weight = b.weight(n_out, n_in, 3, fan_in=3 * n_in, name=f"{name}.weight")
        x = b.op("Relu", b.op("Conv", x, weight, b.weight(n_out, name=f"{name}.bias"), dilations=[2]))
    return b.build(b.classifier(x, 8))
