"""A decoder-only language model as an ONNX graph whose weights exist in name only.

Llama layout: RMSNorm, rotary positions, causal attention with a key head per query head, gated feed-forward.
Its weights raise when they are read, so that a run which finishes proves that nothing looked at them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

FLOAT, INT = ir.DataType.FLOAT, ir.DataType.INT64


@dataclass(frozen=True)
class Size:
    """Sizes of the network; the defaults make 6.7 G parameters."""

    layers: int = 32
    hidden: int = 4096
    inner: int = 11008
    heads: int = 32
    vocab: int = 32000

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads


def _unread(name: str) -> Callable[[], ir.TensorProtocol]:
    def read() -> ir.TensorProtocol:
        raise RuntimeError(f"weight {name} was read")

    return read


class Builder:
    """Collects nodes and initializers."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.stored: dict[str, ir.Value] = {}
        self.scope = ""

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        name = f"{self.scope}/{kind}_{len(self.nodes)}"
        output = ir.Value(name=f"{name}_out")
        attrs = [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()]
        self.nodes.append(ir.Node("", kind, inputs, attrs, outputs=[output], name=name))
        return output

    def weight(self, name: str, *shape: int) -> ir.Value:
        """A float weight without content."""
        full = f"{self.scope}.{name}".lstrip(".")
        tensor = ir.LazyTensor(_unread(full), FLOAT, ir.Shape(shape), name=full)
        return self._store(full, tensor)

    def constant(self, value: Sequence[float] | Sequence[int] | float, dtype: type[Any] = np.int64) -> ir.Value:
        """A small constant."""
        array = np.asarray(value, dtype)
        name = f"const_{array.dtype}_{'_'.join(map(str, array.ravel().tolist()))}_{array.ndim}"[:80]
        return self.stored.get(name) or self._store(name, ir.tensor(array, name=name))

    def _store(self, name: str, tensor: Any) -> ir.Value:
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.stored[name] = value
        return value

    def linear(self, x: ir.Value, name: str, inputs: int, outputs: int) -> ir.Value:
        """Multiply by a weight."""
        return self.op("MatMul", x, self.weight(f"{name}.weight", inputs, outputs))

    def norm(self, x: ir.Value, name: str, size: Size) -> ir.Value:
        """RMSNorm, spelled out the way exporters do."""
        square = self.op("Pow", x, self.constant(2.0, np.float32))
        mean = self.op("ReduceMean", square, self.constant([-1]), keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, self.constant(1e-5, np.float32)))
        scaled = self.op("Mul", x, self.op("Reciprocal", root))
        return self.op("Mul", self.weight(f"{name}.weight", size.hidden), scaled)


def decoder(size: Size, batch: int | str = "batch", seq: int | str = "seq") -> ir.Model:
    """The model: token ids [batch, seq] to logits [batch, seq, vocab]."""
    b = Builder()
    tokens = ir.Value(name="input_ids", shape=ir.Shape([batch, seq]), type=ir.TensorType(INT))
    cos, sin, mask = _positions(b, tokens, size)
    b.scope = "model.embed_tokens"
    x = b.op("Gather", b.weight("weight", size.vocab, size.hidden), tokens, axis=0)
    for layer in range(size.layers):
        b.scope = f"model.layers.{layer}"
        x = b.op("Add", x, _attention(b, b.norm(x, "input_layernorm", size), cos, sin, mask, size))
        x = b.op("Add", x, _feed_forward(b, b.norm(x, "post_attention_layernorm", size), size))
    b.scope = "model"
    x = b.norm(x, "norm", size)
    b.scope = ""
    logits = b.linear(x, "lm_head", size.hidden, size.vocab)
    logits.name, logits.shape, logits.type = "logits", ir.Shape([batch, seq, size.vocab]), ir.TensorType(FLOAT)
    graph = ir.Graph(
        [tokens],
        [logits],
        nodes=b.nodes,
        initializers=list(b.stored.values()),
        opset_imports={"": 20},
        name="decoder",
    )
    return ir.Model(graph, ir_version=10)


def _positions(b: Builder, tokens: ir.Value, size: Size) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Cosines and sines [1, 1, seq, head] and the causal mask [seq, seq]."""
    b.scope = "positions"
    length = b.op("Squeeze", b.op("Shape", tokens, start=1, end=2))
    steps = b.op("Range", b.constant(0), length, b.constant(1))
    column = b.op("Unsqueeze", steps, b.constant([1]))
    frequencies = b.weight("inverse_frequencies", 1, size.head // 2)
    angles = b.op("MatMul", b.op("Cast", column, to=int(FLOAT)), frequencies)
    both = b.op("Unsqueeze", b.op("Concat", angles, angles, axis=-1), b.constant([0, 1]))
    row = b.op("Unsqueeze", steps, b.constant([0]))
    seen = b.op("LessOrEqual", row, column)
    mask = b.op("Where", seen, b.constant(0.0, np.float32), b.constant(-1e9, np.float32))
    return b.op("Cos", both), b.op("Sin", both), mask


def _attention(b: Builder, x: ir.Value, cos: ir.Value, sin: ir.Value, mask: ir.Value, size: Size) -> ir.Value:
    def heads(name: str) -> ir.Value:
        wide = b.linear(x, f"self_attn.{name}", size.hidden, size.hidden)
        split = b.op("Reshape", wide, b.constant([0, 0, size.heads, size.head]))
        return b.op("Transpose", split, perm=[0, 2, 1, 3])

    def rotate(y: ir.Value) -> ir.Value:
        half = size.head // 2
        first = b.op("Slice", y, b.constant([0]), b.constant([half]), b.constant([3]))
        second = b.op("Slice", y, b.constant([half]), b.constant([size.head]), b.constant([3]))
        turned = b.op("Concat", b.op("Neg", second), first, axis=-1)
        return b.op("Add", b.op("Mul", y, cos), b.op("Mul", turned, sin))

    query, key, value = rotate(heads("q_proj")), rotate(heads("k_proj")), heads("v_proj")
    scores = b.op("MatMul", query, b.op("Transpose", key, perm=[0, 1, 3, 2]))
    scaled = b.op("Mul", scores, b.constant(size.head**-0.5, np.float32))
    weights = b.op("Softmax", b.op("Add", scaled, mask), axis=-1)
    mixed = b.op("Transpose", b.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    flat = b.op("Reshape", mixed, b.constant([0, 0, size.hidden]))
    return b.linear(flat, "self_attn.o_proj", size.hidden, size.hidden)


def _feed_forward(b: Builder, x: ir.Value, size: Size) -> ir.Value:
    gate = b.linear(x, "mlp.gate_proj", size.hidden, size.inner)
    up = b.linear(x, "mlp.up_proj", size.hidden, size.inner)
    active = b.op("Mul", gate, b.op("Sigmoid", gate))
    return b.linear(b.op("Mul", active, up), "mlp.down_proj", size.inner, size.hidden)
