"""The table of docs/criteria.md, from what the criteria say of themselves."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from graphprune.importance.base import CRITERIA, MEASURED, OWN_SCALE, Criterion

BEGIN, END = "<!-- criteria -->", "<!-- end -->"


def table() -> str:
    """One row per criterion, as Markdown."""
    rows = [("criterion", "looks at", "score of a unit", "source"), ("---", "---", "---", "---")]
    for needs, criteria in (("weights", CRITERIA), ("data", MEASURED)):
        for name, function in criteria.items():
            rows.append(
                (f"`{name}`", "nothing" if name == "random" else needs, _meaning(name, function), _source(function))
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _meaning(name: str, function: Criterion) -> str:
    text = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
    return f"{text} Compares groups by itself." if name in OWN_SCALE else text


def _source(function: Criterion) -> str:
    """The paragraph of the module that begins with "Source:"."""
    module = inspect.getdoc(inspect.getmodule(function)) or ""
    found = re.search(r"^Source: (.*?)(?:\n\n|\Z)", module, re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def renewed(page: str) -> str:
    """A page with its table as it should be.

    Raises:
        ValueError: The page has no place for a table.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
