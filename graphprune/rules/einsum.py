"""Products by letters."""

from __future__ import annotations

from collections import Counter

from graphprune.algebra import Axis
from graphprune.rules.context import Relate
from graphprune.rules.registry import rule


def parsed(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """Letters of the axes of every operand and of the output.

    Axes behind "..." count from their right end as "...0", "...1". An output that is left out has these first, then
    the letters that occur once, in alphabetical order.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_letters(term, rank) for term, rank in zip(left.split(","), ranks, strict=True)]
    hidden = sorted({c for term in terms for c in term if c.startswith("...")}, key=_distance, reverse=True)
    if arrow:
        before, dots, after = right.partition("...")
        return terms, [*before, *(hidden if dots else ()), *after]
    count = Counter(c for term in terms for c in term)
    return terms, [*hidden, *sorted(c for c in count if count[c] == 1 and not c.startswith("..."))]


def _distance(letter: str) -> int:
    return int(letter.removeprefix("..."))


def _letters(term: str, rank: int) -> list[str]:
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{k}" for k in range(hidden)[::-1]), *after]


@rule("Einsum", kind="CONTRACT")
def einsum(r: Relate) -> None:
    """One axis per letter, twice in one operand for its diagonal; letters missing from the output are summed."""
    equation = r.attr("equation", "")
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    terms, right = parsed(text, [r.rank(s) for s in range(len(r.node.inputs))])
    letters: dict[str, Axis] = {}
    for slot in sorted(range(len(terms)), key=r.unlabelled):
        for a, letter in enumerate(terms[slot]):
            if r.shape(slot)[a] == 1 and not r.value(slot).dynamic[a]:
                continue  # broadcast to what the others have there
            if letter in letters:
                r.tie(slot, a, letters[letter])
            else:
                letters[letter] = r.axis(slot, a)
            if letter not in right:
                r.contract(slot, a)
    one = r.frozen(1, "an axis of one position")
    r.out([letters.get(c, one) for c in right])
    r.macs(1, *letters.values())
