"""ONNX files and models as neutral graphs, through onnx-ir (external data stays mapped)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphprune.errors import InputError
from graphprune.graph.checks import check_structure, sort_nodes
from graphprune.graph.control import BadSizes, is_control, unrolled
from graphprune.graph.functions import bodies_written_out
from graphprune.graph.fuse import fuse_permutations
from graphprune.graph.infer import Caches, Facts, infer
from graphprune.graph.model import Array, Graph, Node, Value, Weight
from graphprune.graph.probe import probe, real_inputs
from graphprune.graph.scopes import constant_tensor, graphs, initializers, nodes_of, one_scope, source_nodes
from graphprune.graph.shared import clone_shared
from graphprune.graph.sizes import file_bytes
from graphprune.graph.types import Shape

_SCOPE_KEYS = ("pkg.torch.onnx.name_scopes", "namespace")
Source = str | Path | onnx.ModelProto | ir.Model


def load(
    source: Source,
    *,
    input_shapes: Mapping[str, Shape] | None = None,
    ruled: Callable[[str], bool] | None = None,
) -> Graph:
    """Read a model into a neutral graph.

    Args:
        source: Path of an ONNX file, a ModelProto, or an ``onnx_ir.Model``. It is never changed.
        input_shapes: Sizes to use for inputs with dynamic axes, by input name.
        ruled: Whether an operator has a rule; one that has none is replaced by its function body, if it has one.
            None keeps all operators.

    Returns:
        The graph; ``graph.source`` is the ``onnx_ir.Model``.

    Raises:
        InputError: The file cannot be read, is not a valid model, or cannot run at any size tried.
    """
    model, name = read_model(source)
    if not isinstance(source, ir.Model):
        sort_nodes(model)
    check_structure(model, name)
    model = one_scope(model)
    if ruled is not None:
        model = one_scope(bodies_written_out(model, ruled))
    facts, sizes = probe(model, name, input_shapes)
    return _build(model, name, facts, sizes)


def reread(model: ir.Model, like: Graph) -> Graph:
    """The neutral graph of an edited clone of a graph's model, looked at with the same input sizes.

    Raises:
        InputError: It cannot run at these sizes.
    """
    caches = Caches.of(model)
    try:
        facts = [infer(model, sizes, caches) for sizes in like.input_shapes]
    except BadSizes as error:
        raise InputError(f"{like.name}: does not run at the sizes of the original ({error})") from None
    return _build(model, like.name, facts, [dict(sizes) for sizes in like.input_shapes])


def read_model(source: Source) -> tuple[ir.Model, str]:
    """The ``onnx_ir.Model`` behind any source, and a name for messages."""
    if isinstance(source, ir.Model):
        return source, source.graph.name or "model"
    if isinstance(source, onnx.ModelProto):
        return ir.from_proto(source), source.graph.name or "model"
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        model = ir.load(path)
    except Exception as error:
        raise InputError(f"{path}: not a readable ONNX file ({_first_line(error)})") from None
    if not len(model.graph.outputs):
        raise InputError(f"{path}: not an ONNX model (no graph outputs)")
    _check_external(model, path)
    return model, str(path)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def all_tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every stored tensor of the model with a name for messages, subgraphs and functions included."""
    for name, value in initializers(model):
        assert value.const_value is not None
        yield name, value.const_value
    for node in model.graph.all_nodes():
        for attr in node.attributes.values():
            if isinstance(attr, ir.Attr) and attr.type == ir.AttributeType.TENSOR:
                yield node.name or node.op_type, attr.as_tensor()


def external_files(model: ir.Model) -> set[Path]:
    """Files that hold the model's external data."""
    return {Path(t.path) for _, t in all_tensors(model) if isinstance(t, ir.ExternalTensor)}


def _check_external(model: ir.Model, path: Path) -> None:
    """External data must exist, be long enough and stay inside the model's folder."""
    folder = path.resolve().parent
    for name, tensor in all_tensors(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = Path(tensor.location)
        target = (folder / location).resolve()
        if location.is_absolute() or not target.is_relative_to(folder):
            raise InputError(f"{path}: tensor {name}: external data {location} leaves the model's folder; refused")
        if not target.is_file():
            raise InputError(f"{path}: tensor {name}: external data file {location} is missing")
        if target.stat().st_nlink > 1:
            raise InputError(f"{path}: tensor {name}: external data file {location} has several hard links; copy it")
        end = int(tensor.offset or 0) + int(tensor.length or tensor.nbytes)
        if target.stat().st_size < end:
            raise InputError(f"{path}: tensor {name}: external data file {location} is shorter than {end} bytes")


def _build(model: ir.Model, name: str, facts: list[Facts], sizes: list[dict[str, Shape]]) -> Graph:
    values = _values(facts)
    outputs = tuple(v.name or "" for v in model.graph.outputs)
    weights = {w.name: w for w in (*_stored_weights(model, facts[0]), *_fills(model, facts))}
    known = {n: a for n, a in facts[0].known.items() if n not in weights}
    fixed = {n: a for n, a in known.items() if _same(a, facts[-1].known.get(n))}
    nodes = [n for n in _neutral(model, facts[0]) if not n.outputs or n.outputs[0] not in weights]
    nodes, weights = clone_shared(nodes, weights, values, outputs)
    return Graph(
        name=name,
        nodes=fuse_permutations(nodes, values, outputs),
        values=values,
        weights=weights,
        constants=fixed,
        varying={n: (a, facts[-1].known[n]) for n, a in known.items() if n not in fixed and n in facts[-1].known},
        inputs=tuple(v.name or "" for v in real_inputs(model)),
        outputs=outputs,
        source=model,
        input_shapes=tuple(sizes),
        file_bytes=partial(file_bytes, model),
    )


def _same(a: Array, b: Array | None) -> bool:
    return b is not None and a.shape == b.shape and bool(np.array_equal(a, b))


def _values(facts: list[Facts]) -> dict[str, Value]:
    """Sizes at the first probe; dynamic where the probes differ."""
    first, second = facts[0], facts[-1]
    out = {}
    for name, shape in first.shapes.items():
        other = second.shapes.get(name)
        dtype = first.containers.get(name) or _dtype_name(first.dtypes.get(name, 0))
        if shape is None or other is None or len(shape) != len(other):
            out[name] = Value(name, None, (), dtype)
        else:
            dynamic = tuple(a != b or a < 0 for a, b in zip(shape, other, strict=True))
            out[name] = Value(name, shape, dynamic, dtype, other)
    return out


@cache
def _dtype_name(code: int) -> str:
    return ir.DataType(code).name.lower() if code else ""


def _stored_weights(model: ir.Model, facts: Facts) -> Iterator[Weight]:
    """Initializers and Constant nodes, those of bodies that nothing looks into aside."""
    for name, value in initializers(model):
        assert value.const_value is not None
        if name in facts.shapes:
            yield _weight(name, value.const_value, "initializer", facts)
    for node in nodes_of(model.graph):
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield _weight(node.outputs[0].name or "", constant_tensor(node), "constant", facts)


def _fills(model: ir.Model, facts: list[Facts]) -> Iterator[Weight]:
    """Float tensors that a ConstantOfShape node makes from a fixed shape."""
    for node in nodes_of(model.graph):
        name = node.outputs[0].name or ""
        shape = facts[0].shapes.get(name)
        if node.op_type != "ConstantOfShape" or node.domain not in ("", "ai.onnx") or name in facts[0].known:
            continue
        operand = node.inputs[0].name if node.inputs[0] is not None else None
        if not shape or shape != facts[-1].shapes.get(name) or operand not in facts[0].known:
            continue
        attr = node.attributes.get("value")
        fill = attr.as_tensor().numpy().ravel()[0] if attr is not None else np.float32(0)
        dtype = _dtype_name(facts[0].dtypes[name])
        yield Weight(name, name, shape, dtype, "fill", partial(np.full, shape, fill))


def _weight(name: str, tensor: ir.TensorProtocol, origin: str, facts: Facts) -> Weight:
    return Weight(name, name, facts.shapes[name] or (), _dtype_name(facts.dtypes[name]), origin, tensor.numpy)


def _neutral(model: ir.Model, facts: Facts) -> Iterator[Node]:
    """Neutral nodes, those of inner graphs in line; Constant nodes are weights, not nodes."""
    names = {id(node): name for name, node in source_nodes(model)}
    opsets = dict(model.graph.opset_imports)

    def of(graph: ir.Graph, times: int) -> Iterator[Node]:
        for node in graph:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                continue
            plain = _plain(node, names[id(node)], opsets, times)
            if not is_control(node, plain.version):
                yield replace(plain, outputs=tuple(_seen(v, facts) for v in node.outputs))
                continue
            enter, bodies, leave = unrolled(node, plain, facts)
            if enter is not None:
                yield enter
            for body, turns in bodies:
                yield from of(body, times * turns)
            yield leave

    yield from of(model.graph, 1)


def _plain(node: ir.Node, name: str, opsets: Mapping[str, int], times: int) -> Node:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return Node(
        name=name,
        op=node.op_type,
        domain=domain,
        version=opsets.get(domain, 1),
        inputs=tuple(v.name or "" if v is not None else "" for v in node.inputs),
        outputs=tuple(v.name or "" for v in node.outputs),
        attrs={k: _attr(a) for k, a in node.attributes.items()},
        scope=next((node.metadata_props[k] for k in _SCOPE_KEYS if k in node.metadata_props), ""),
        captures=tuple(_captures(node)),
        times=times,
    )


def _seen(value: ir.Value, facts: Facts) -> str:
    """The name of an output; none where nothing is known of it and nothing reads it, as of a Dropout's mask."""
    name = value.name or ""
    known = facts.shapes.get(name) is not None or value.uses() or value.is_graph_output()
    return name if known else ""


def _attr(attr: Any) -> Any:
    if attr.type == ir.AttributeType.TENSOR:
        return attr.as_tensor().numpy()
    return attr.value


def _captures(node: ir.Node) -> list[str]:
    """Outer values that the node's subgraphs read."""
    out: dict[str, None] = {}
    for graph in graphs(node):
        inner = {id(v) for v in (*graph.inputs, *graph.initializers.values())}
        nodes = list(graph.all_nodes())
        inner |= {id(v) for n in nodes for v in n.outputs}
        for sub in graph.subgraphs():
            inner |= {id(v) for v in (*sub.inputs, *sub.initializers.values())}
        read = [v for n in nodes for v in n.inputs if v is not None] + list(graph.outputs)
        out.update({v.name: None for v in read if id(v) not in inner and v.name})
    return list(out)
