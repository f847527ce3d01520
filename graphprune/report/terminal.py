"""What goes to stdout and what to stderr: tables or one JSON object, progress, errors."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pydantic import BaseModel

STEPS = ("load", "analyze", "plan", "rewrite", "verify", "write")
_WIDTH = 120  # of tables that go to a file or a pipe


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """How much is said, and in which form.

    Attributes:
        json: One JSON object on stdout, everything else on stderr.
        quiet: Errors only.
        verbose: All rows of every table, and tracebacks of unexpected errors.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def show(self, report: BaseModel, rows: int | None = None) -> None:
        """Print a report: the JSON object, and its tables unless quiet."""
        if self.json:
            sys.stdout.write(report.model_dump_json() + "\n")
        if self.quiet:
            return
        from rich.console import Console

        from graphprune.report.tables import render

        stream = sys.stderr if self.json else sys.stdout
        width = None if stream.isatty() else _WIDTH
        console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)
        limit = None if self.verbose else rows
        console.print(render(report, limit) if limit is not None or self.verbose else render(report))

    def fail(self, message: str, code: int, error: BaseException | None = None) -> int:
        """Say on one line what went wrong; returns the exit code.

        Args:
            message: The error.
            code: Exit code.
            error: An unexpected error, whose traceback is shown when verbose.
        """
        if error is not None and self.verbose:
            traceback.print_exception(error, file=sys.stderr)
        line = " ".join(message.split())
        sys.stderr.write(f"graphprune: error: {line}\n")
        if self.json:
            sys.stdout.write(json.dumps({"error": line, "exit_code": code}) + "\n")
        return code

    @contextmanager
    def progress(self, total: int = len(STEPS)) -> Iterator[Callable[[str], None]]:
        """A bar on stderr that moves on with every step; nothing when quiet or when stderr is no terminal."""
        if self.quiet or not _is_terminal(sys.stderr):
            yield lambda _: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("start", total=total)

            def step(name: str) -> None:
                done = STEPS.index(name) if name in STEPS else None
                bar.update(task, description=name, completed=done)

            yield step


def _is_terminal(stream: TextIO) -> bool:
    return hasattr(stream, "isatty") and stream.isatty()
