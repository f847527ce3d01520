"""Runs the command line in this process, and says what a refusal must look like."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import numpy_helper

from graphprune.cli import main

if TYPE_CHECKING:
    from numpy.typing import NDArray

FASHION = Path(__file__).parents[1] / "examples" / "fashion.onnx"


@dataclass(frozen=True)
class Outcome:
    """What a call left behind."""

    code: int
    out: str
    err: str


def call(*arguments: object) -> Outcome:
    """Run ``graphprune`` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> str:
    """Stdout of a call that must succeed with nothing on stderr."""
    outcome = call(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def refused(code: int, pattern: str, *arguments: object) -> str:
    """The one line of a call that must fail with this code and a message like ``pattern``."""
    outcome = call(*arguments)
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("graphprune: error: ") and outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    assert re.search(pattern, outcome.err), outcome.err
    return outcome.err


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights(path: Path) -> dict[str, NDArray[Any]]:
    """The initializers of a file."""
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
