"""Results on disk as they come, so that a sweep that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import graphprune
from graphprune.errors import InputError
from graphprune.sweep.tasks import Outcome

VERSION = 1
ENVIRONMENT = "GRAPHPRUNE_CACHE"

Note = Callable[[str], None]


def folder(given: str | Path | None) -> Path:
    """Where results are kept: the folder given, or one below $GRAPHPRUNE_CACHE or ~/.cache/graphprune.

    Raises:
        InputError: There is a file in its place.
    """
    if given is None:
        return Path(os.environ.get(ENVIRONMENT) or "~/.cache/graphprune").expanduser() / "sensitivity"
    path = Path(given).expanduser()
    if path.exists() and not path.is_dir():
        raise InputError(f"--cache {given}: is a file; give a folder")
    return path


def writer() -> dict[str, str]:
    """What results depend on beside model, data and options."""
    import onnxruntime as ort

    return {"graphprune": graphprune.__version__, "onnxruntime": ort.__version__, "machine": _machine()}


def _machine() -> str:
    return f"{platform.system()} {platform.machine()} {platform.node()}"


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class Results:
    """The file of one sweep: a line that says what it is, then a line for each result.

    What another machine or version wrote is not used, nor are lines that cannot be read; a note says so.

    Args:
        home: The folder; it is made with the first result.
        key: What tells this sweep from others: model, data, options.
        note: Called with what is to be known about the file.

    Attributes:
        path: The file.
        known: Errors by the key of their cut.
    """

    def __init__(self, home: Path, key: Sequence[str], note: Note) -> None:
        self._note, self._head = note, {"format": VERSION, "key": list(key), "writer": writer()}
        stem = f"sensitivity-{_digest(key)}"
        self.path = home / f"{stem}-{_digest(list(writer().values()))[:8]}.jsonl"
        self.known: dict[str, float] = {}
        self._fresh, self._whole = self._read(stem)

    def _read(self, stem: str) -> tuple[bool, bool]:
        """Whether the file has to be begun anew, and whether its last line is whole."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            for other in sorted(self.path.parent.glob(f"{stem}-*.jsonl")):
                self._note(f"{other}: results of {_writer_of(other)}; ignored, measured again")
            return True, True
        except OSError as error:
            self._note(f"{self.path}: cannot be read ({error.strerror or error}); measured again")
            return True, True
        try:
            head = json.loads(lines[0])
        except ValueError:
            head = None
        if head != self._head:
            what = "is damaged" if not isinstance(head, dict) else "was written by another machine or version"
            self._note(f"{self.path}: {what}; ignored, measured again")
            return True, True
        bad = 0
        for line in filter(None, lines[1:]):
            try:
                entry = json.loads(line)
                self.known[str(entry["key"])] = _checked(entry["error"])
            except (ValueError, TypeError, KeyError):
                bad += 1
        if bad:
            self._note(f"{self.path}: {bad} of {len(lines) - 1} lines cannot be read; what they held is measured again")
        return False, not lines[-1]

    def put(self, found: Outcome) -> None:
        """Keep a result: on disk when this returns."""
        self.known[found.key] = found.error
        error = found.error if found.error < float("inf") else None
        line = json.dumps({"key": found.key, "group": found.group, "removed": found.removed, "error": error})
        begin = "" if self._whole else "\n"
        if self._fresh:
            begin = json.dumps(self._head) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("wb" if self._fresh else "ab") as file:
                file.write(f"{begin}{line}\n".encode())
        except OSError as problem:
            self._note(f"{self.path}: results are not kept ({problem.strerror or problem})")
            return
        self._fresh, self._whole = False, True


def _checked(error: Any) -> float:
    """An error as a number; null stands for infinity."""
    if error is None:
        return float("inf")
    value = float(error)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def _writer_of(path: Path) -> str:
    """Who wrote a file, for a note."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.readline())["writer"]
        return f"graphprune {found['graphprune']}, onnxruntime {found['onnxruntime']} on {found['machine']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown machine"
