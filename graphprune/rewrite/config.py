"""Brings the fields of a config.json in line with cut weights, where the evidence leaves one answer only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

from graphprune.plan import Plan
from graphprune.rewrite.replay import Shape

# What a field counts, read off its name; the first that matches. Widths are looked up among the axes of the weights,
# the rest among the groups of the plan. A field of no class is never touched.
_CLASSES = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("head dims", r"head_dim|head_size|d_kv$|kv_channels"),
        ("KV groups", r"(key_value|kv|query_group)_?(heads?|groups?)|heads?_kv|num_kv|multi_query_group"),
        ("heads", r"heads?$"),
        ("", r"vocab|position|token|layers?$|layer_|depth|image|patch|crop|window|kernel|stride|pad|label|class|max_"),
        (
            "",
            r"min_|seed|version|resolution|frame|experts|top_k|_ids?$|step|bucket|length|rank|beam|num_channels|chunk",
        ),
        ("FFN width", r"intermediate|ffn|d_ff$|n_inner|mlp|inner_dim|feed_forward|ff_dim"),
        ("residual width", r"hidden|d_model|n_embd|embed|width|dims?$|channels|planes|filters|sizes?$"),
    )
)
_SKIPPED = re.compile(r"rope|id2label|label2id|quantization|task_specific|generation")
_WIDTHS = ("FFN width", "residual width")


@dataclass(frozen=True, slots=True)
class Field:
    """An entry of a config.json.

    Attributes:
        name: Path to it, "text_config.hidden_size".
        old: Its value.
        new: Its value now.
        reason: Why it could not follow the weights, "" where it did.
    """

    name: str
    old: Any
    new: Any
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fields:
    """The entries of a config.json that had to follow.

    Attributes:
        changed: Those that did.
        left: Those that could not, with the reason.
        notes: What the fields do not say, a sentence each.
    """

    changed: tuple[Field, ...] = ()
    left: tuple[Field, ...] = ()
    notes: tuple[str, ...] = ()


def updated(
    config: Mapping[str, Any], plan: Plan, before: Mapping[str, Shape], after: Mapping[str, Shape]
) -> tuple[dict[str, Any], Fields]:
    """A config whose fields follow the weights.

    Args:
        config: The original's.
        plan: What leaves.
        before: Sizes of the original's tensors.
        after: Sizes of those that are left.

    Returns:
        The new config, and what changed in it.
    """
    axes: dict[int, set[int]] = {}
    for name, shape in before.items():
        for size, left_of_it in zip(shape, after.get(name, shape), strict=True):
            axes.setdefault(size, set()).add(left_of_it)
    evidence = _Evidence(axes, plan.widths)
    found = [*_fields(config, evidence)]
    new = _copied(config)
    changed = tuple(f for f in found if not f.reason)
    for f in changed:
        *path, last = f.name.split(".")
        level = new
        for part in path:
            level = level[part]
        level[last] = f.new
    left = (*(f for f in found if f.reason), *_implied(config, new, evidence))
    return new, Fields(changed, left, (*_derived(changed), *_unsaid(changed, before, after)))


def _copied(value: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, dict) else list(v) if isinstance(v, list) else v for k, v in value.items()}


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What became of lengths.

    Attributes:
        axes: Old length of an axis → lengths it has now, over all tensors.
        kinds: Kind of group → old number → numbers left, over all groups.
    """

    axes: Mapping[int, set[int]]
    kinds: Mapping[str, Mapping[int, tuple[int, ...]]]

    def kind(self, name: str, number: int) -> set[int]:
        """What is left of the groups of a kind that had this number."""
        return set(self.kinds.get(name, {}).get(number, ()))

    def now(self, what: str, number: int) -> set[int]:
        """What a field may have to be: one answer where the weights are of one mind."""
        if what in _WIDTHS:
            found = self.axes.get(number, set())
            return found if len(found) <= 1 else self.kind(what, number) or {number}
        if what == "head dims":  # rotary dims leave in pairs
            return self.kind(what, number) | {2 * n for n in self.kind(what, number // 2) if number % 2 == 0}
        if what == "KV groups":
            return self.kind(what, number) or self.kind("heads", number)
        return self.kind(what, number) or self._queries(number)

    def _queries(self, number: int) -> set[int]:
        """Query heads that share KV heads: groups times heads per group."""
        shared, each = self.kinds.get("KV groups", {}), self.kinds.get("query heads per KV group", {})
        out = set()
        for groups, left in shared.items():
            if number % groups == 0:
                out |= {a * b for a in left for b in each.get(number // groups, (number // groups,))}
        return out


def _class(name: str) -> str:
    return next((kind for kind, pattern in _CLASSES if pattern.search(name.lower())), "")


def _fields(config: Mapping[str, Any], evidence: _Evidence, path: str = "") -> Iterator[Field]:
    """Fields that change, and those that should but cannot."""
    for name, value in config.items():
        if isinstance(value, dict):
            if not _SKIPPED.search(name):
                yield from _fields(value, evidence, f"{path}{name}.")
            continue
        what = _class(name)
        numbers = _numbers(value)
        if not what or not numbers or not all(type(n) is int and n > 1 for n in numbers):
            continue
        found = [evidence.now(what, n) or {n} for n in numbers]
        for number, left in zip(numbers, found, strict=True):
            if len(left) > 1:
                yield Field(f"{path}{name}", value, value, _differs(number, left))
                break
        else:
            new = [min(left) for left in found]
            if new != numbers:
                yield Field(f"{path}{name}", value, new if isinstance(value, list) else new[0])


def _differs(number: int, left: Iterable[int]) -> str:
    listed = [str(n) for n in sorted(left)]
    return f"{number} became {', '.join(listed[:-1])} and {listed[-1]} in different places"


def _derived(changed: Sequence[Field]) -> Iterator[str]:
    """What classes compute from the size of a head instead of reading it."""
    for f in changed:
        if _class(f.name.rpartition(".")[2]) == "head dims":
            yield (
                f"{f.name} changed: a class that computes its attention scale or rotary angles from it gets others"
                " than the original's; graphprune.restore keeps those"
            )


def _unsaid(changed: Sequence[Field], before: Mapping[str, Shape], after: Mapping[str, Shape]) -> Iterator[str]:
    """Cut axes whose length no changed field, nor a product of some, leads to."""
    pairs = {p for f in changed for p in zip(_numbers(f.old), _numbers(f.new), strict=True)}
    products = {
        (prod(a for a, _ in some), prod(b for _, b in some)) for k in (1, 2, 3) for some in combinations(pairs, k)
    }
    found = [
        f"{name} axis {axis} ({a} -> {b})"
        for name, shape in before.items()
        for axis, (a, b) in enumerate(zip(shape, after.get(name, shape), strict=True))
        if a != b and not any(a % old == 0 and a * new == b * old for old, new in products)
    ]
    if found:
        more = f" and {len(found) - 2} more" if len(found) > 2 else ""
        yield f"no field of config.json says the new size of {', '.join(found[:2])}{more}"


def _numbers(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]


def _implied(old: Mapping[str, Any], new: Mapping[str, Any], evidence: _Evidence, path: str = "") -> Iterator[Field]:
    """The size of a head, where classes derive it from width and heads and no longer would get it right."""
    for name, value in old.items():
        if isinstance(value, dict) and not _SKIPPED.search(name):
            yield from _implied(value, new[name], evidence, f"{path}{name}.")
    if any(_class(n) == "head dims" and v for n, v in old.items()):
        return
    widths = [n for n in ("hidden_size", "d_model", "n_embd", "dim") if type(old.get(n)) is int]
    for heads in (n for n, v in old.items() if _class(n) == "heads" and type(v) is int and v > 0):
        for width in widths[:1]:
            size, rest = divmod(old[width], old[heads])
            wanted = min(evidence.now("head dims", size) or {size})
            if not rest and new[width] != wanted * new[heads]:
                yield Field(
                    f"{path}head_dim", None, None,
                    f"the weights have heads of {wanted}; a class that takes {width} / {heads} needs it set",
                )  # fmt: skip
                return
