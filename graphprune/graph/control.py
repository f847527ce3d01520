"""Control flow: If, Loop and Scan as plain nodes around the nodes of their bodies.

In the neutral graph a body's nodes stand in line with all others. A Loop or Scan gets an entering node in front of
its body, which hands the carried state and the slices in; what comes behind the body takes its results as further
inputs. Shapes of carried states are widened until one more turn leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from graphprune.graph.model import Node
from graphprune.graph.scopes import graphs, nodes_of
from graphprune.graph.types import UNKNOWN, Typed

if TYPE_CHECKING:
    from graphprune.graph.infer import Facts, Pass

ENTER = "graphprune"
_PASSING = {"Squeeze", "Unsqueeze", "Identity", "Constant"}
_SCAN_WITHOUT_BATCH = 9  # before it, Scan had a batch axis of its own


class BadSizes(Exception):
    """The graph cannot run at the probed input sizes."""


def is_control(node: ir.Node, opset: int) -> bool:
    """Whether a node's graphs are followed; other operators that hold graphs count as one opaque node."""
    if node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type in ("If", "Loop") or (node.op_type == "Scan" and opset >= _SCAN_WITHOUT_BATCH)


# -- the neutral nodes -----------------------------------------------------------------------------------------


def unrolled(node: ir.Node, plain: Node, facts: Facts) -> tuple[Node | None, list[tuple[ir.Graph, int]], Node]:
    """The entering node (none for If), the bodies with how often they run, and the leaving node.

    The leaving node's inputs are those of the file's node, then the outputs of its bodies. Its attribute
    ``carried`` is the number of carried states.
    """
    bodies = graphs(node)
    results = tuple(v.name or "" for body in bodies for v in body.outputs)
    leave = replace(plain, inputs=(*plain.inputs, *results), captures=(), boundary=True)
    if node.op_type == "If":
        ways = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        results = tuple(v.name or "" for way in ways for v in way.outputs)
        dead = _dead(node, facts)
        run = [(way, 1) for k, way in enumerate(ways) if k != dead or not _passes(way, facts)]
        return None, run, replace(leave, inputs=(*plain.inputs, *results), attrs={})
    (body,) = bodies
    enter = replace(
        plain,
        name=f"{plain.name}/enter",
        op=f"{node.op_type}Enter",
        domain=ENTER,
        outputs=tuple(v.name or "" for v in body.inputs),
        captures=(),
        boundary=True,
    )
    carried, turns = _carried(node), _turns(node, facts)
    keep = {k: v for k, v in plain.attrs.items() if k != "body"} | {"carried": carried}
    return replace(enter, attrs=keep), [(body, turns)], replace(leave, attrs=keep)


def _dead(node: ir.Node, facts: Facts) -> int | None:
    """Which branch the sizes rule out, if they do."""
    condition = facts.known.get(_name(node.inputs[0]))
    return None if condition is None else int(bool(condition.ravel()[0]))


def _passes(branch: ir.Graph, facts: Facts) -> bool:
    """Whether a branch that cannot run only drops or adds axes of one position: it binds nothing."""
    return all(facts.shapes.get(_name(v)) is None for v in branch.outputs) and all(
        n.op_type in _PASSING and not graphs(n) for n in branch
    )


def _carried(node: ir.Node) -> int:
    """Number of carried states."""
    if node.op_type == "Loop":
        return len(node.inputs) - 2
    return len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)


def scan_axes(node: ir.Node, attr: str, count: int) -> list[int]:
    """The axis of each scanned tensor, the first where the node does not say."""
    axes = node.attributes.get_ints(attr, None)
    return [int(a) for a in axes] if axes else [0] * count


def _turns(node: ir.Node, facts: Facts) -> int:
    """How often a body runs at the first probe; 1 where that depends on data."""
    if node.op_type == "Loop":
        known = facts.known.get(_name(node.inputs[0]))
        return max(int(known.ravel()[0]), 1) if known is not None and known.size and known.ravel()[0] < 1 << 31 else 1
    carried = _carried(node)
    axes = scan_axes(node, "scan_input_axes", len(node.inputs) - carried)
    shape = facts.shapes.get(_name(node.inputs[carried]))
    return max(shape[axes[0]], 1) if shape else 1


# -- shapes ----------------------------------------------------------------------------------------------------


def infer_control(p: Pass, node: ir.Node) -> None:
    """Facts of a control node's bodies and outputs.

    Raises:
        BadSizes: No body can run at the probed sizes.
    """
    if node.op_type == "If":
        _infer_if(p, node)
    elif node.op_type == "Loop":
        _infer_loop(p, node)
    else:
        _infer_scan(p, node)


def _infer_if(p: Pass, node: ir.Node) -> None:
    """Both branches; where one cannot run at these sizes nothing is known of it, and the other one counts."""
    branches = [node.attributes["then_branch"].as_graph(), node.attributes["else_branch"].as_graph()]
    failed: dict[int, BadSizes] = {}
    for i, branch in enumerate(branches):
        try:
            p.body(branch)
        except BadSizes as error:
            failed[i] = error
            _blank(p, branch)
    dead = _dead(node, p.facts)
    taken = [k for k in (0, 1) if k != dead]
    alive = [i for i in taken if i not in failed]
    p.facts.failed += len(taken) - len(alive)
    if not alive:
        raise failed[taken[0]]
    for k, out in enumerate(node.outputs):
        sources = [branches[i].outputs[k] for i in alive]
        p.put(out.name, *_joined([p.typed(v) for v in sources]))
        known = p.facts.known.get(_name(sources[0]))
        if len(taken) == 1 and known is not None:
            p.facts.known[out.name or ""] = known


def _infer_loop(p: Pass, node: ir.Node) -> None:
    """Body inputs are the turn, the condition and the carried states; outputs the condition, states and slices."""
    body, carried = graphs(node)[0], _carried(node)
    states = [p.typed(v) for v in node.inputs[2:]]
    lead: list[Typed] = [(onnx.TensorProto.INT64, (), ""), (onnx.TensorProto.BOOL, (), "")]
    states = _settled(p, body, lead, states, [], skip=1)
    for value, typed in zip(node.outputs[:carried], states, strict=True):
        p.put(value.name, *typed)
    for value, piece in zip(node.outputs[carried:], body.outputs[1 + carried :], strict=True):
        dtype, shape, _ = p.typed(piece)
        p.put(value.name, dtype, None if shape is None else (UNKNOWN, *shape))


def _infer_scan(p: Pass, node: ir.Node) -> None:
    """Body inputs are the carried states and a slice of each scanned input."""
    body, carried = graphs(node)[0], _carried(node)
    scanned = [p.typed(v) for v in node.inputs[carried:]]
    axes = scan_axes(node, "scan_input_axes", len(scanned))
    length = UNKNOWN
    slices: list[Typed] = []
    for (dtype, shape, _), axis in zip(scanned, axes, strict=True):
        if shape is not None:
            length = shape[axis]
            rest = list(shape)
            del rest[axis]
            slices.append((dtype, tuple(rest), ""))
        else:
            slices.append((dtype, None, ""))
    states = _settled(p, body, [], [p.typed(v) for v in node.inputs[:carried]], slices, skip=0)
    for value, typed in zip(node.outputs[:carried], states, strict=True):
        p.put(value.name, *typed)
    pieces = body.outputs[carried:]
    places = scan_axes(node, "scan_output_axes", len(pieces))
    for value, piece, axis in zip(node.outputs[carried:], pieces, places, strict=True):
        dtype, shape, _ = p.typed(piece)
        if shape is not None:
            at = axis % (len(shape) + 1)
            shape = (*shape[:at], length, *shape[at:])
        p.put(value.name, dtype, shape)


def _settled(
    p: Pass, body: ir.Graph, lead: Sequence[Typed], states: list[Typed], slices: Sequence[Typed], *, skip: int
) -> list[Typed]:
    """Types of the carried states that one more turn does not change; sizes that it does become unknown."""
    while True:
        _forget(p, body)
        for value, typed in zip(body.inputs, [*lead, *states, *slices], strict=True):
            p.put(value.name, *typed)
        p.body(body)
        after = [p.typed(v) for v in body.outputs[skip : skip + len(states)]]
        wider = [_joined([a, b]) for a, b in zip(states, after, strict=True)]
        if wider == states:
            return states
        states = wider


def _joined(types: Sequence[Typed]) -> Typed:
    """What values of all these types have in common."""
    dtype = next((d for d, _, _ in types if d), 0)
    shapes, container = [s for _, s, _ in types], types[0][2]
    first = shapes[0]
    if first is None or any(s is None or len(s) != len(first) for s in shapes):
        return dtype, None, container
    columns = zip(*(s for s in shapes if s is not None), strict=True)
    return dtype, tuple(c[0] if len(set(c)) == 1 else UNKNOWN for c in columns), container


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values that a graph and the graphs in it make."""
    yield from (*graph.inputs, *graph.initializers.values())
    for node in nodes_of(graph):
        yield from node.outputs
        for inner in graphs(node):
            yield from (*inner.inputs, *inner.initializers.values())


def _forget(p: Pass, graph: ir.Graph) -> None:
    for value in _values(graph):
        p.facts.known.pop(value.name or "", None)


def _blank(p: Pass, graph: ir.Graph) -> None:
    """Nothing is known of what a graph makes, but for its stored tensors."""
    _forget(p, graph)
    for value in _values(graph):
        p.put(value.name, int(value.dtype or 0), None)
    for inner in (graph, *graph.subgraphs()):
        p.initializers(inner)
    for node in nodes_of(graph):
        if node.op_type == "Constant":
            p.node(node)


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""
