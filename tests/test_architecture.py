"""The layout says what it does: data flows one way, modules stay small, style and types hold."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "graphprune"
FLOW = [
    "errors",
    "algebra",
    "graph",
    "data",
    "rules",
    "coupling",
    "cost",
    "folding",
    "calibration",
    "importance",
    "plan",
    "budget",
    "rewrite",
    "verify",
    "recover",
    "sweep",
    "depth",
    "report",
    "integrations",
    "dialect",
    "candidates",
    "search",
    "checkpoints",
    "api_torch",
    "api_read",
    "api_sensitivity",
    "api",
    "family",
    "space",
    "recipe_values",
    "recipe",
    "commands",
    "cli",
    "__main__",
]
RANK = {name: place for place, name in enumerate(FLOW)}
MAX_LINES = 300


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_against_the_flow(path: Path) -> None:
    home = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    parts = [name.split(".") for name in imported(path)]
    used = {p[1] for p in parts if p[0] == "graphprune" and len(p) > 1}
    assert home in RANK
    assert {name for name in used if RANK[name] > RANK[home]} == set()


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_the_algebra_knows_no_operator_and_no_file_format() -> None:
    for path in (PACKAGE / "algebra").glob("*.py"):
        assert not {name for name in imported(path) if name.startswith(("onnx", "torch"))}


def test_only_adapters_and_what_runs_models_import_onnx() -> None:
    neutral = ("algebra", "rules", "coupling", "importance", "budget")
    for path in modules():
        if path.relative_to(PACKAGE).parts[0] in neutral:
            assert not {n for n in imported(path) if n.split(".")[0] in ("onnx", "onnx_ir", "onnxruntime", "torch")}


def test_importing_the_package_is_fast_and_light() -> None:
    code = "import sys, graphprune; print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'onnx', 'scipy'}))"
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_style_and_types(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
