"""docs/operators.md says what the rules say."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from graphprune.report.operators import _KINDS, page
from graphprune.rules import all_rules

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"


def test_the_page_is_up_to_date() -> None:
    written = PAGE.read_text()
    if f"from onnx {onnx.__version__};" not in written:
        pytest.skip("the page was made with another onnx, which has other operators")
    assert written == page(), "run: python -m graphprune.report.operators > docs/operators.md"


def test_every_kind_is_explained_and_every_rule_noted() -> None:
    assert {r.kind for r in all_rules()} <= _KINDS.keys()
    assert [r.op for r in all_rules() if not r.note] == []
