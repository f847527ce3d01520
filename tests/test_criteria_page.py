"""docs/criteria.md says what the criteria say of themselves, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphprune as gp
from graphprune.importance.base import CRITERIA, MEASURED
from graphprune.recipe import Recipe
from graphprune.report.criteria import renewed, table
from tests.graphs import GRAPHS, random_feeds

PAGE = Path(__file__).parents[1] / "docs" / "criteria.md"


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == renewed(page), "run: python -m graphprune.report.criteria docs/criteria.md"


def test_every_criterion_says_what_it_is_and_where_it_comes_from() -> None:
    rows = [row.strip("| ").split(" | ") for row in table().splitlines()[2:]]
    assert [r[0] for r in rows] == [f"`{n}`" for n in (*CRITERIA, *MEASURED)]
    assert all(len(r) == 4 and r[3] for r in rows if r[0] != "`random`")


def test_the_help_names_every_criterion() -> None:
    text = Recipe.__doc__ or ""
    assert [n for n in (*CRITERIA, *MEASURED) if not re.search(rf"\b{n}\b", text)] == []


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = GRAPHS["resnet_stage"]()
    onnx.save(model, "model.onnx")
    np.savez("x.npz", **{n: np.concatenate([a] * 4) for n, a in random_feeds(model).items()})
    names: dict[str, Any] = {"feeds": [random_feeds(model, s) for s in range(2)]}
    page = PAGE.read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code.replace('macs="60%"', 'macs="60%", align=1'), names)
    assert all(g.removed == tuple(range(g.size - len(g.removed), g.size)) for g in names["plan"].groups)
    assert names["result"].verdict.passed
    from graphprune.cli import main

    command = re.search(r"```sh\ngraphprune (.*?)\n", page)
    assert command is not None
    assert main([*command[1].split(), "--align", "1"]) == 0
    assert gp.load("small.onnx").parameters() < gp.load("model.onnx").parameters()
