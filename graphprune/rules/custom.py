"""Rules for operators that graphprune does not know: given by the user, one line each."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from graphprune.errors import InputError
from graphprune.graph.custom import POINTWISE, Custom, Kernel, ShapeOf, put
from graphprune.graph.model import Graph, Node
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit
from graphprune.rules.guess import guessed
from graphprune.rules.kinds import opaque as freeze_everything
from graphprune.rules.kinds import pointwise
from graphprune.rules.registry import Editor, Relation, Rule, by_name, install

_LATEST = 1000  # an opset version that no check of a rule finds too old


class Registration:
    """A registered operator; as a context manager it is taken back at the end of the block.

    Attributes:
        op: The operator with its domain.
    """

    def __init__(self, op: str, undo: Callable[[], None]) -> None:
        self.op = op
        self._undo: Callable[[], None] | None = undo

    def undo(self) -> None:
        """Restore what was known of the operator before; a second call does nothing."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def __enter__(self) -> Registration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def register(
    op: str,
    relation: Relation | None = None,
    *,
    like: str = "",
    opaque: str = "",
    guess: bool = False,
    edit: Editor | None = None,
    level: str = "exact",
    run: Kernel | None = None,
    shape: ShapeOf | None = None,
    override: bool = False,
) -> Registration:
    """Say what a custom operator couples, for this process.

    Exactly one of ``relation``, ``like``, ``opaque`` and ``guess`` says it.

    Args:
        op: The operator with its domain, "my.domain.MyOp".
        relation: A function of :class:`graphprune.rules.context.Relate`, written like those in graphprune/rules.
        like: "pointwise", or an operator with a rule, such as "Conv": inputs, attributes and opset mean the same.
        opaque: Why nothing that it touches may leave.
        guess: Find the relation by running the operator: axes whose positions pass one to one may be cut, all
            others stay. It runs through ``run``, a local function of the model, or a library (``custom_ops``).
        edit: What changes in a node when positions leave, with ``relation``.
        level: "exact", or "restricted" when it takes statistics, with ``relation``.
        run: ``run(*inputs, **attributes)``: numpy arrays in (None for an omitted input), an array or a tuple of
            arrays out. Verification uses it where onnxruntime has no kernel.
        shape: ``shape(*input_shapes, **attributes)`` gives the shape of the output, or a list of shapes. Without it:
            the shape function of ``like``, else one run, else what the file says, else the shape of input 0.
        override: Whether to replace a rule that is there already.

    Returns:
        A handle: ``undo()`` takes the registration back, and so does the end of a ``with`` block.

    Raises:
        InputError: The operator has a rule already, ``like`` is unknown, or not exactly one thing is said.
    """
    said = [relation is not None, bool(like), bool(opaque), guess]
    if sum(said) != 1:
        raise InputError(f"register {op}: give exactly one of a relation, like=, opaque= and guess=True")
    if (edit is not None or level != "exact") and relation is None:
        raise InputError(f"register {op}: edit= and level= belong to a relation")
    if not override and by_name(op) is not None:
        raise InputError(f"register {op}: there is a rule for it already; override=True replaces it")
    if relation is not None:
        made = Rule(op, "CUSTOM", relation, edit, level)
    elif like:
        made = _like(op, like)
    elif opaque:
        made = Rule(op, "OPAQUE", lambda r: freeze_everything(r, opaque))
    else:
        made = Rule(op, "GUESS", guessed())
    undo_rule = install(made)
    before = put(op, Custom(like=like, shape=shape, run=run, probed=guess))

    def undo() -> None:
        undo_rule()
        put(op, before)

    return Registration(op, undo)


def _like(op: str, like: str) -> Rule:
    """The rule of another operator, which sees a node of its own kind."""
    if like == POINTWISE:
        return Rule(op, "POINTWISE", pointwise)
    model = by_name(like)
    if model is None:
        raise InputError(f"register {op}: like={like!r}: there is no rule for it{_near(like)}")
    source = model
    domain, _, name = like.rpartition(".")

    def as_other(graph: Graph, node: Node) -> Node:
        versions = (n.version for n in graph.nodes if n.domain == domain)
        return replace(node, op=name, domain=domain, version=next(versions, _LATEST))

    def relate(r: Relate) -> None:
        own, r.node = r.node, as_other(r.graph, r.node)
        try:
            source.relate(r)
        finally:
            r.node = own

    def edit(e: Edit) -> None:
        if source.edit is not None:
            other = copy.copy(e)  # shares the change
            other.node = as_other(e.graph, e.node)
            source.edit(other)

    return Rule(op, source.kind, relate, edit, source.level)


def _near(name: str) -> str:
    from graphprune.rules.registry import all_rules

    near = difflib.get_close_matches(name, [POINTWISE, *(r.op for r in all_rules())], 1)
    return f"; did you mean {near[0]}?" if near else f"; use an operator that has one, or {POINTWISE!r}"
