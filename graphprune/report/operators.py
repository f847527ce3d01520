"""The page of supported operators, made from the rules and onnx's list: ``python -m graphprune.report.operators``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import onnx
from onnx import defs

from graphprune.graph.functions import has_body
from graphprune.rules import Rule, all_rules

BODY, NONE, STORED = "body", "-", "stored"
_KINDS = {
    "POINTWISE": "output axes equal the operands' axes; broadcast operands add nothing",
    "PARAM": "an axis equals its 1-D parameters",
    "CONTRACT": "the summed axes are equal, the others pass",
    "GROUPED": "channels are groups of offsets on both sides",
    "REINDEX": "positions are moved, joined, cut out or padded",
    "EXPAND": "repeated positions are free, the shape operand follows",
    "REDUCE": "an axis disappears, or a running sum goes along it",
    "STAT": "an axis is normalised",
    "RECURRENT": "a hidden unit is all its gate rows, its recurrent column and its state",
    "DYNINDEX": "an axis is read or written at indices: fixed ones are followed, computed ones freeze it",
    "CONTROL": "values cross into and out of subgraphs",
    "SIZES": "computed from sizes or settings alone: no labels",
    "OPAQUE": "what it touches stays, for the reason given",
    BODY: "followed through the operators that onnx defines it by",
    STORED: "its tensor is a weight like any other",
    NONE: "unknown: what it touches stays",
}
_INTRO = """# Operators

Made by `python -m graphprune.report.operators` from the rules and from onnx {version}; do not edit.

A rule holds for all versions listed. "exact" means that the pruned operator equals the original in which removed
positions count as zeros; "restricted" that it is taken over the kept positions only, such as a mean
(see [exactness.md](exactness.md)). No operator fails a run: one that is not listed freezes what it touches.
"""

_TORCH = """
## PyTorch

Operators of `torch.ops.aten` in the graph of a traced module ({count} rules). A rule holds for every overload and for
the in-place twin (`add` is also `add.Tensor`, `add.Scalar` and `add_.Tensor`), unless an overload has its own rule.
"""


def standard() -> dict[str, list[defs.OpSchema]]:
    """All versions of every operator of the default domain, by name."""
    found: dict[str, list[defs.OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if not schema.domain:
            found.setdefault(schema.name, []).append(schema)
    return {name: sorted(found[name], key=lambda s: s.since_version) for name in sorted(found)}


def treatment(name: str, versions: Sequence[defs.OpSchema], rules: dict[str, Rule]) -> str:
    """Kind of an operator's rule, BODY or NONE."""
    if name in rules:
        return rules[name].kind
    if name == "Constant":
        return STORED
    return BODY if has_body(versions[-1]) else NONE


def page() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    rules = {r.op: r for r in all_rules()}
    operators = standard()
    count = Counter(treatment(name, versions, rules) for name, versions in operators.items())
    opaque, bodies, none = (count.pop(kind, 0) for kind in ("OPAQUE", BODY, NONE))
    yield _INTRO.format(version=onnx.__version__)
    yield "| default domain | operators |\n|---|---|"
    yield f"| a rule | {sum(count.values())} |"
    yield f"| followed through their function body | {bodies} |"
    yield f"| opaque on purpose | {opaque} |"
    yield f"| unknown | {none} |"
    yield f"| all | {len(operators)} |\n"
    yield "| kind | what it says |\n|---|---|"
    used = {treatment(name, versions, rules) for name, versions in operators.items()} | {r.kind for r in rules.values()}
    yield from (f"| {kind} | {text} |" for kind, text in _KINDS.items() if kind in used)
    yield "\n## Default domain\n"
    yield "| operator | versions | kind | level | note |\n|---|---|---|---|---|"
    for name, versions in operators.items():
        since = ", ".join(str(s.since_version) for s in versions)
        late = " (deprecated)" if versions[-1].deprecated else ""
        yield _row(name + late, since, treatment(name, versions, rules), rules.get(name))
    named = [r for r in rules.values() if r.op not in operators and not r.op.startswith("graphprune.")]
    torch, others = ([r for r in named if r.op.startswith("aten.") == of_torch] for of_torch in (True, False))
    yield "\n## Other domains\n"
    yield "| operator | kind | level | note |\n|---|---|---|---|"
    yield from (_row(r.op, None, r.kind, r) for r in others)
    yield _TORCH.format(count=len(torch))
    yield "| operator | kind | level | note |\n|---|---|---|---|"
    yield from (_row(r.op.removeprefix("aten."), None, r.kind, r) for r in torch)


def _row(name: str, since: str | None, kind: str, rule: Rule | None) -> str:
    level = rule.level if rule is not None and kind not in ("OPAQUE", "SIZES") else ""
    note = rule.note.replace("|", "\\|") if rule is not None else ""
    return "| " + " | ".join(x for x in (name, since, kind, level, note) if x is not None) + " |"


if __name__ == "__main__":
    print(page(), end="")
