"""The package itself: verbs stay verbs, whatever has been imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import graphprune as gp


@pytest.mark.parametrize("first", ["graphprune.plan", "graphprune.verify.compare", "graphprune.api", "graphprune.cli"])
def test_verbs_are_not_hidden_by_modules_of_the_same_name(first: str) -> None:
    code = f"""
import {first}, graphprune as gp
print(all(callable(getattr(gp, n)) for n in gp.__all__), gp.plan, gp.verify)"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("True <function plan")
    assert "<function verify" in out


def test_all_is_there() -> None:
    assert all(getattr(gp, name) is not None for name in gp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        gp.prun  # noqa: B018 - the access is the test


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys, graphprune.cli
print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'onnx', 'pydantic', 'networkx'}))"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
