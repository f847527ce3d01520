"""What a graph takes: names, types and sizes of its inputs, and how samples may be grouped into feeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.model import Array, Graph, Node, Value

_RECURRENT = {"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "Scan"}
_SLIDING = {"Conv", "MaxPool", "AveragePool"}
LABELS = "(labels)"
"""Where a record or a feed has its labels, beside the inputs."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One input of a graph.

    Attributes:
        name: Its name.
        kind: Its element type as the graph names it, "" when unknown.
        shape: Sizes, None for a free one; None when the rank is unknown.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Numpy's type, object for strings; None when unknown or not a tensor's."""
        known = self.kind.upper()
        if known not in ir.DataType.__members__:
            return None
        return np.dtype(object) if known == "STRING" else ir.DataType[known].numpy()

    @property
    def text(self) -> str:
        """Its sizes for messages, "[?, 3, 224, 224]"."""
        return f"[{', '.join('?' if n is None else str(n) for n in self.shape or ())}]"

    def fits(self, shape: tuple[int, ...], skip: int = 0) -> bool:
        """Whether sizes are those of the input from axis ``skip`` on."""
        if self.shape is None:
            return True
        wanted = self.shape[skip:]
        return len(shape) == len(wanted) and all(w in (None, n) for n, w in zip(shape, wanted, strict=True))


@dataclass(frozen=True, slots=True)
class Layout:
    """All inputs of a graph.

    Attributes:
        model: Its name, for messages.
        inputs: What it takes, in order.
        batch: Samples per feed: 0 where axis 0 of every input is a free batch, its size where that is fixed, None
            where samples cannot be put together, so that every feed is one sample. What already has a fixed size is
            never mixed with others: the axis may be something else than a batch.
        labels: Names that labels may have in the data; none where they are not looked for.
    """

    model: str
    inputs: tuple[Wanted, ...]
    batch: int | None
    labels: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(w.name for w in self.inputs)

    def pick(self, found: Mapping[Any, Any], where: str) -> dict[str, Any]:
        """What belongs to the inputs out of something by name; the rest, such as labels, is left out.

        Raises:
            InputError: There is nothing for an input.
        """
        missing = [name for name in self.names if name not in found]
        if missing:
            raise InputError(
                f"{where}: no array for input {', '.join(missing)}; it has"
                f" {', '.join(map(str, found)) or 'no arrays'}, the model's inputs are {', '.join(self.names)}"
            )
        return {name: found[name] for name in self.names}

    def label(self, found: Mapping[Any, Any], where: str) -> Array:
        """The labels out of something by name.

        Raises:
            InputError: There are none.
        """
        for name in self.labels:
            if name in found:
                return label_array(found[name], where)
        has = ", ".join(map(str, found)) or "no arrays"
        raise InputError(f"{where}: no labels under the name {' or '.join(self.labels)}; it has {has}")


def layout_of(graph: Graph) -> Layout:
    """What a graph takes."""
    inputs = []
    for name in graph.inputs:
        value = graph.values[name]
        shape = value.shape
        sizes = None if shape is None else tuple(None if d else n for n, d in zip(shape, value.dynamic, strict=True))
        inputs.append(Wanted(name, value.dtype, sizes))
    return Layout(graph.name, tuple(inputs), _batch(graph, inputs))


def _batch(graph: Graph, inputs: list[Wanted]) -> int | None:
    """See :class:`Layout`. A signal of one free axis, and time, are no batch."""
    ranked = [w.shape for w in inputs if w.shape is None or w.shape]
    if not ranked or any(s is None for s in ranked):
        return None
    leading = {s[0] for s in ranked if s}
    if len(leading) > 1:
        return None
    (first,) = leading
    if first is not None:
        return first
    ends = {_ends(graph.values[w.name], 0) for w in inputs if w.shape}
    if len(ends) > 1 or all(len(s) < 2 for s in ranked if s):
        return None
    (sizes,) = ends
    outputs = [graph.values[n] for n in graph.outputs]
    if all(v.shape is not None and not any(v.dynamic[:1]) for v in outputs):
        return None
    return None if any(_along(graph, node, sizes) for node in graph.nodes) else 0


def _along(graph: Graph, node: Node, sizes: tuple[int, int] | None) -> bool:
    """Whether a layer runs along the axis with these sizes at the two probes, as along time."""
    value = graph.values.get(node.inputs[0]) if node.inputs else None
    if value is None or not value.shape:
        return False
    if node.op in _RECURRENT:
        return not node.attrs.get("layout") and _ends(value, 0) == sizes
    sliding = node.op in _SLIDING and _ends(value, 0) != sizes
    return sliding and any(_ends(value, a) == sizes for a in range(2, len(value.shape)))


def _ends(value: Value, axis: int) -> tuple[int, int] | None:
    """Sizes of an axis at both probes."""
    return (value.shape[axis], (value.other or value.shape)[axis]) if value.shape else None


def label_array(value: Any, where: str) -> Array:
    """Labels as an array of numbers.

    Raises:
        InputError: They are none, or empty.
    """
    array = _array(value, Wanted("labels", "", None), where)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{where}: labels are {array.dtype}; give class numbers, or a one for the class among zeros")
    if array.size == 0:
        raise InputError(f"{where}: labels are empty (shape {array.shape})")
    return array


def checked(value: Any, wanted: Wanted, where: str) -> Array:
    """Anything array-like as an array of the input's type; a mapped array stays mapped.

    Tensors of torch come to the CPU. Plain Python numbers and lists take the input's type where nothing is lost;
    whatever has a type must have the right one. Strings keep numpy's own type here.

    Raises:
        InputError: It is no array, of another type, or empty.
    """
    array = _array(value, wanted, where)
    dtype = wanted.dtype
    if dtype is None:
        if wanted.kind:
            raise InputError(f"{where}: input {wanted.name} is a {wanted.kind}, which cannot be given as data")
    elif dtype.kind == "O":
        if array.dtype.kind == "O" and all(isinstance(s, str) for s in array.flat):
            array = array.astype(str)
        if array.dtype.kind != "U":
            raise InputError(f"{where}: {wanted.name} is {array.dtype}, the model's input takes strings")
    elif array.dtype.kind == "V" and array.dtype.names is None and array.dtype.itemsize == dtype.itemsize:
        array = array.view(dtype)  # what numpy makes of a bfloat16 in a file
    elif array.dtype.newbyteorder("=") != dtype:
        raise InputError(
            f"{where}: {wanted.name} is {array.dtype}, the model's input is {dtype}; convert it with .astype"
        )
    if array.size == 0:
        raise InputError(f"{where}: {wanted.name} is empty (shape {array.shape})")
    return array


def _array(value: Any, wanted: Wanted, where: str) -> Array:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):
        return np.asarray(value)
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return _from_torch(value)
    plain = isinstance(value, bool | int | float | str | list | tuple)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: {wanted.name} is no array ({' '.join(str(error).split())[:120]})") from None
    dtype = wanted.dtype
    if array.dtype.kind == "O" and not all(isinstance(s, str) for s in array.flat):
        raise InputError(f"{where}: {wanted.name} is a {type(value).__name__}, no array")
    if not plain or dtype is None or dtype.kind == "O":
        return array
    return _taken(array, dtype)


def _taken(array: Array, dtype: np.dtype[Any]) -> Array:
    """Plain numbers in an input's type, or as they are where something would be lost."""
    order = "biufV"
    if array.dtype.kind not in "biuf" or order.index(array.dtype.kind) > order.index(
        dtype.kind if dtype.kind in order else "V"
    ):
        return array
    if array.dtype.kind == "b" and dtype.kind != "b":
        return array
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, array):
        return array
    return cast


def _from_torch(tensor: Any) -> Array:
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        import ml_dtypes

        return np.asarray(tensor.contiguous().view(sys.modules["torch"].int16).numpy()).view(ml_dtypes.bfloat16)
    return np.asarray(tensor.resolve_conj().numpy())


def not_finite(array: Array) -> tuple[str, int] | None:
    """What an array holds that is no number, "NaN" or "infinity", and where along axis 0; None if all is well."""
    if array.dtype.kind not in "fcV":
        return None
    good = np.isfinite(array)
    if bool(good.all()):
        return None
    row = int(np.argmax(~good.reshape(len(good), -1).all(axis=1))) if good.ndim else 0
    bad = array[row][~good[row]] if good.ndim else array
    return ("NaN" if bool(np.isnan(bad).any()) else "infinity"), row
