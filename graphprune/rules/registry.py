"""The table of rules, one per operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphprune.graph.model import Node
from graphprune.rules.context import Relate
from graphprune.rules.edit import Edit

Relation = Callable[[Relate], None]
Editor = Callable[[Edit], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one operator couples its axes.

    Attributes:
        op: Operator type, with its domain when it is not the standard one.
        kind: Which of the rule kinds it is, see docs/how-it-works.md.
        relate: States what must hold between the axes of a node.
        edit: Changes attributes and shape operands after a removal, None when nothing needs to.
        level: What removal promises: "exact" against the zero-masked original, or "restricted" statistics.
        note: What users should know of it, one line; by default what the relation's docstring says first.
    """

    op: str
    kind: str
    relate: Relation
    edit: Editor | None = None
    level: str = "exact"
    note: str = ""


_RULES: dict[str, Rule] = {}


def rule(
    *ops: str, kind: str, edit: Editor | None = None, level: str = "exact", note: str = ""
) -> Callable[[Relation], Relation]:
    """Register a relation for operators, e.g. ``@rule("Conv", kind="GROUPED", edit=conv_groups)``."""

    def register(relate: Relation) -> Relation:
        for op in ops:
            _RULES[op] = Rule(op, kind, relate, edit, level, note or (relate.__doc__ or "").partition("\n")[0])
        return relate

    return register


def find(node: Node) -> Rule | None:
    """The rule of a node's operator, if there is one; see :func:`by_name`."""
    return by_name(node.key)


def all_rules() -> Iterator[Rule]:
    """Every registered rule, by operator name."""
    return iter(sorted(_RULES.values(), key=lambda r: r.op))


def has_rule(op: str) -> bool:
    """Whether an operator, such as "Conv" or "com.microsoft.Attention", has a rule."""
    return by_name(op) is not None


def by_name(op: str) -> Rule | None:
    """The rule of an operator given with its domain.

    "aten.relu_.default" is looked up as it stands, then without its overload, then without the underscore of
    operators that write in place: "aten.relu".
    """
    found = _RULES.get(op)
    if found is None and op.count(".") > 1:
        family = op.rpartition(".")[0]
        found = _RULES.get(family) or _RULES.get(family.removesuffix("_"))
    return found


def install(rule: Rule) -> Callable[[], None]:
    """Put a rule in the table; the function returned restores what was there."""
    before = _RULES.get(rule.op)
    _RULES[rule.op] = rule

    def undo() -> None:
        if before is None:
            _RULES.pop(rule.op, None)
        else:
            _RULES[rule.op] = before

    return undo
