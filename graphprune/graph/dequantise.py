"""What quantised weights stand for: real numbers, read through the scale and zero point of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.graph.model import Array, Graph, Node

Real = NDArray[np.float32]
_CASTS = ("Cast", "Sub")


@dataclass(frozen=True, slots=True)
class Use:
    """How a node reads an integer input.

    Attributes:
        data: Input slot of the integers.
        scales: Slots of the scales; several are multiplied (a bias has those of input and weight).
        zero: Slot of the zero point, -1 without.
        axis: Axis of the integers along which a 1-D scale or zero point lies.
        bits: Bits per value where bytes hold several, along the last axis; 0 where they do not.
        block: Positions along ``axis`` that share a scale, 0 where all or none do.
    """

    data: int
    scales: tuple[int, ...]
    zero: int = -1
    axis: int = -1
    bits: int = 0
    block: int = 0


def _linear(node: Node) -> list[Use]:
    return [Use(0, (1,), 2, int(node.attrs.get("axis", 1)), block=int(node.attrs.get("block_size", 0)))]


def _packed_gather(node: Node) -> list[Use]:
    get = node.attrs.get
    return [Use(0, (2,), 3, int(get("quantize_axis", 1)), int(get("bits", 4)), int(get("block_size", 128)))]


def _qgemm(node: Node) -> list[Use]:
    return [Use(0, (1,), 2), Use(3, (4,), 5, 0 if node.attrs.get("transB", 0) else 1), Use(6, (1, 4))]


_CONV = [Use(0, (1,), 2), Use(3, (4,), 5, 0), Use(8, (1, 4)), Use(-1, (6,), 7)]
_USES: dict[str, Callable[[Node], list[Use]]] = {
    "DequantizeLinear": _linear,
    "QuantizeLinear": lambda _: [Use(-1, (1,), 2)],
    "QLinearConv": lambda _: _CONV,
    "QLinearMatMul": lambda _: [Use(0, (1,), 2, -2), Use(3, (4,), 5), Use(-1, (6,), 7)],
    "MatMulIntegerToFloat": lambda _: [Use(0, (2,), 4, -2), Use(1, (3,), 5)],
    "DynamicQuantizeMatMul": lambda _: [Use(1, (2,), 3)],
    "QGemm": _qgemm,
    "MatMulInteger": lambda _: [Use(0, (), 2, -2), Use(1, (), 3)],
    "ConvInteger": lambda _: [Use(1, (), 3, 0)],
    "DynamicQuantizeLSTM": lambda _: [Use(1, (8,), 9), Use(2, (10,), 11)],
    "MatMulNBits": lambda node: [Use(1, (2,), 3, bits=int(node.attrs.get("bits", 4)))],
    "GatherBlockQuantized": _packed_gather,
}


class RealValues:
    """Reads the weights of a graph as real numbers.

    Attributes:
        settings: Weights that are scales or zero points: they say how others are read and are no weights themselves.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.settings: set[str] = set()
        self._uses: dict[str, tuple[Node, Use, tuple[str, ...]]] = {}
        self._readers: dict[str, list[Node]] = {}
        self._makers = {name: node for node in graph.nodes for name in node.outputs}
        for node in graph.nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        for node in graph.nodes:
            for use in _USES[node.op](node) if node.op in _USES else ():
                self._note(node, use)
        for name, weight in graph.weights.items():
            if name not in self._uses and weight.dtype in ("int8", "uint8", "int4", "uint4"):
                self._note_cast(name)

    def read(self, name: str) -> Real | NDArray[np.float64]:
        """A weight's values in float32 (float64 stays); packed ones with a further, last axis."""
        array = self.graph.weights[name].read()
        if name not in self._uses:
            return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
        node, use, scales = self._uses[name]
        zero = self._stored(node, use.zero)
        middle = 0.0
        packed = use.bits and array.dtype == np.uint8
        if packed:
            array = unpacked(array, use.bits)
            middle = 2.0 ** (use.bits - 1)
            if zero is not None and zero.dtype == np.uint8:
                zero = unpacked(zero, use.bits)
        real: Real = array.astype(np.float32)
        if packed:
            return self._blocks(real, zero, middle, scales)
        if zero is not None:
            real -= _spread(zero.astype(np.float32), real.shape, use)
        for scale in scales:
            real *= _spread(self.graph.weights[scale].read().astype(np.float32), real.shape, use)
        return real

    def _blocks(self, real: Real, zero: Array | None, middle: float, scales: tuple[str, ...]) -> Real:
        """Packed values (…, bytes, values per byte): one scale and zero point per block of a row."""
        scale = self.graph.weights[scales[0]].read().astype(np.float32) if scales else np.ones(1, np.float32)
        rows = real.shape[0]
        values = real.reshape(rows, scale.size // rows, -1) if scale.size % rows == 0 else real.reshape(1, 1, -1)
        if zero is None:
            values = values - np.float32(middle)
        else:  # the last byte of a row may hold more than there are blocks
            each = zero.reshape(rows, -1)[:, : values.shape[1]].astype(np.float32)
            values = values - each[:, :, None]
        return (values * scale.reshape(values.shape[0], -1, 1)).reshape(real.shape)

    def _note(self, node: Node, use: Use) -> None:
        names = [node.inputs[s] for s in (*use.scales, use.zero) if 0 <= s < len(node.inputs)]
        self.settings.update(n for n in names if n in self.graph.weights)
        data = node.inputs[use.data] if 0 <= use.data < len(node.inputs) else ""
        if data not in self.graph.weights or data in self._uses:
            return
        scales = tuple(node.inputs[s] for s in use.scales) if use.scales else tuple(self._scale_behind(node))
        self.settings.update(s for s in scales if s in self.graph.weights)
        self._uses[data] = node, use, tuple(s for s in scales if s in self.graph.weights)

    def _scale_behind(self, node: Node) -> Iterator[str]:
        """The stored factor of an integer sum: it is cast, then multiplied by a scale or a product of scales."""
        out = node.outputs[0]
        for cast in self._readers.get(out, []):
            for mul in self._readers.get(cast.outputs[0], []) if cast.op == "Cast" else ():
                if mul.op != "Mul":
                    continue
                other = next((n for n in mul.inputs if n != cast.outputs[0]), "")
                maker = self._makers.get(other)
                inner = maker.inputs if maker is not None and maker.op == "Mul" else (other,)
                yield from [n for n in inner if n in self.graph.weights][:1]
                return

    def _note_cast(self, name: str) -> None:
        """Integers that are cast to float, perhaps shifted, then multiplied by a stored scale."""
        value, zero = name, ""
        for _ in range(3):
            readers = self._readers.get(value, [])
            if len(readers) != 1:
                return
            node = readers[0]
            other = next((n for n in node.inputs if n != value), "")
            if node.op == "Mul" and other in self.graph.weights:
                operands = Node(node.name, "", "", 1, (name, other, zero), node.outputs, {})
                self.settings.update(n for n in (other, zero) if n)
                self._uses[name] = operands, Use(0, (1,), 2), (other,)
                return
            if node.op not in _CASTS or (node.op == "Sub" and other not in self.graph.weights):
                return
            zero = other if node.op == "Sub" else zero
            value = node.outputs[0]

    def _stored(self, node: Node, slot: int) -> Array | None:
        name = node.inputs[slot] if 0 <= slot < len(node.inputs) else ""
        return self.graph.weights[name].read() if name in self.graph.weights else None


def unpacked(array: Array, bits: int) -> Array:
    """Values held in bytes, lowest bits first, along a new last axis."""
    if bits >= 8:
        return array[..., None]
    return np.stack([(array >> (bits * i)) & (2**bits - 1) for i in range(8 // bits)], axis=-1)


def _spread(setting: Real, shape: tuple[int, ...], use: Use) -> Real:
    """A scale or zero point as it broadcasts to data of ``shape``: single, 1-D along an axis, or per block."""
    if setting.size == 1 or not shape:
        return setting.reshape(())
    if setting.ndim == 1:
        axis = use.axis % len(shape)
        if len(setting) != shape[axis]:
            axis = shape.index(len(setting))
        return setting.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    if setting.ndim < len(shape):  # one per direction and row
        return setting.reshape(setting.shape[0], *[1] * (len(shape) - setting.ndim), *setting.shape[1:])
    if use.block:
        return np.take(setting, np.arange(shape[use.axis]) // use.block, axis=use.axis)
    return setting
