"""Sizes that a module says with one number.

Where ``self.head_dim`` shapes queries and values alike, both have to keep the same number of head dims if the pruned
module is to be of the same class. The numbers that modules hold are marked, the module runs on fake tensors, and the
calls that a marked number reaches tell which axes of which values are said with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from graphprune.graph.model import Graph
from graphprune.graph.torch_align import node_places
from graphprune.graph.torch_record import Recorder, Recording, recorded

_SHAPED = {"view", "reshape", "expand", "unflatten"}
_PARTS = {"split", "split_with_sizes"}
_EVENLY = "parts of one size"
_EVEN = ("aten.chunk", "aten.split.Tensor", "aten.tensor_split")
Key = tuple[str, str]
Call = tuple[int, str, int, Mapping[int, Key]]


class _Number(int):
    """A number that knows which attribute it is."""

    key: Key


@dataclass
class _Calls(TorchFunctionMode):
    """Notes the calls that marked numbers reach.

    Attributes:
        recorder: Counts the operators.
        found: Per call the place of its first operator, its name, and the marked numbers by place in its sizes.
    """

    recorder: Recorder
    found: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function and note it."""
        name, place = getattr(func, "__name__", ""), len(self.recorder.events)
        out = func(*args, **(kwargs or {}))
        if name in _SHAPED | _PARTS and len(self.recorder.events) > place:
            sizes, dim = _sizes(name, args, kwargs or {})
            if name in _PARTS and not isinstance(sizes, tuple | list):
                name, sizes = _EVENLY, (sizes,)
            marked = {k: v.key for k, v in enumerate(sizes) if isinstance(v, _Number)}
            if marked:
                self.found.append((place, name, dim, marked))
        return out


def _sizes(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, int]:
    """The sizes that a call is given, and the axis that they begin at (of a split: that it goes along)."""
    tensor, *rest = args
    listed = [v for v in rest if not isinstance(v, Tensor)]
    if name in _SHAPED:
        start = int(listed.pop(0)) % tensor.ndim if name == "unflatten" and listed else 0
        sizes = listed[0] if listed and isinstance(listed[0], tuple | list) else listed
        return sizes or kwargs.get("size") or kwargs.get("shape") or kwargs.get("sizes") or (), start
    sizes = listed[0] if listed else kwargs.get("split_size_or_sections", kwargs.get("split_size", ()))
    dim = int(listed[1] if len(listed) > 1 else kwargs.get("dim", 0)) % tensor.ndim
    return sizes, dim


def with_equal_sizes(graph: Graph) -> Graph:
    """The graph of a traced module with the axes that have to stay equal."""
    parts = tuple(
        tuple((name, axis) for name in node.outputs if name)
        for node in graph.nodes
        if node.key.startswith(_EVEN) and (axis := int(node.attrs.get("dim", 0))) is not None
    )
    traced = graph.source
    said: tuple[tuple[tuple[str, int], ...], ...] = ()
    if not isinstance(traced.module, fx.GraphModule):
        calls: list[_Calls] = []
        recording = recorded(
            traced.module, traced.program, traced.args, traced.kwargs, partial(_watched, traced, calls)
        )
        said = tuple(_said(graph, recording, calls[-1].found))
        graph = replace(graph, source=replace(traced, recording=recording))
    sets = [_same_size(graph, places) for places in (*parts, *said)]
    return replace(graph, equal=tuple(s for s in sets if len(s) > 1))


@contextmanager
def _watched(traced: Any, calls: list[_Calls], recorder: Recorder) -> Iterator[None]:
    calls.append(_Calls(recorder))
    with _marked(traced.module), calls[-1]:
        yield


def _same_size(graph: Graph, places: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Places with the size of the first one; axes counted from the front."""
    out, size = [], -1
    for name, axis in places:
        shape = graph.values[name].shape or ()
        if shape and size in (-1, shape[axis]):
            size = shape[axis]
            out.append((name, axis % len(shape)))
    return tuple(out)


def _said(graph: Graph, recording: Recording, calls: Sequence[Call]) -> Iterator[tuple[tuple[str, int], ...]]:
    """For every attribute that says sizes, the axes that it says."""
    known, _ = node_places(recording.seen, recording.before)
    nodes = {node.name: node for node in graph.nodes}
    by_key: dict[Key, list[tuple[str, int]]] = {}
    for place, name, dim, marked in calls:
        node = nodes.get(known.get(place, ""))
        if node is None:
            continue
        for k, key in marked.items():
            if name in _SHAPED:
                by_key.setdefault(key, []).append((node.outputs[0], dim + k))
            else:
                chosen = node.outputs if name == _EVENLY else node.outputs[k : k + 1]
                by_key.setdefault(key, []).extend((out, dim) for out in chosen if out)
    yield from (tuple(dict.fromkeys(places)) for places in by_key.values())


@contextmanager
def _marked(module: nn.Module) -> Iterator[None]:
    """The numbers that modules of other classes than those of torch hold, marked."""
    before: list[tuple[nn.Module, str, int]] = []
    for path, part in module.named_modules():
        if type(part).__module__.startswith("torch."):
            continue
        for name, value in list(vars(part).items()):
            if type(value) is int and value > 1:
                number = _Number(value)
                number.key = (path, name)
                part.__dict__[name] = number
                before.append((part, name, value))
    try:
        yield
    finally:
        for part, name, value in before:
            if isinstance(part.__dict__.get(name), _Number):
                part.__dict__[name] = value
