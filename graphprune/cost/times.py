"""Times of operator shapes on disk, by machine: what was timed once is never timed again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graphprune.cost.stopwatch import Times
from graphprune.graph.timing import Machine

VERSION = 1
FOLDER = Path("~/.cache/graphprune/latency")
ENVIRONMENT = "GRAPHPRUNE_CACHE"

Note = Callable[[str], None]


def folder() -> Path:
    """Where times are kept: below $GRAPHPRUNE_CACHE where it is set."""
    home = os.environ.get(ENVIRONMENT)
    return Path(home).expanduser() / "latency" if home else FOLDER.expanduser()


class TimesFile:
    """Times measured on one machine under one setting.

    Every machine and every onnxruntime has a file of its own. What another machine measured is not used, nor what
    cannot be read, and a note says so.

    Attributes:
        path: The file.
    """

    def __init__(self, machine: Machine, home: Path | None = None, note: Note = lambda _: None) -> None:
        self._machine, self._note = machine, note
        name = hashlib.sha256(repr(asdict(machine)).encode()).hexdigest()[:8]
        self.path = (home or folder()) / f"{machine.provider}-{machine.threads}-{name}.json"
        self._entries: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            theirs = Machine(**data["machine"])
            version, entries = int(data["version"]), dict(data["times"])
        except FileNotFoundError:
            pattern = f"{self._machine.provider}-{self._machine.threads}-*.json"
            if others := sorted(self.path.parent.glob(pattern)):
                self._note(f"{others[0]}: times of another machine; ignored, times are measured on {self._machine}")
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._note(f"{self.path}: not a readable cache of times ({error}); ignored, times are measured again")
            return {}
        if theirs != self._machine or version != VERSION:
            kind = f"an older format ({version})" if theirs == self._machine else f"another machine ({theirs})"
            self._note(f"{self.path}: times of {kind}; ignored, times are measured again on {self._machine}")
            return {}
        return entries

    def get(self, key: str) -> Times | None:
        """Times of a shape by its key, None where it was not timed yet."""
        entry = self._entries.get(key)
        try:
            return None if entry is None else {tuple(int(n) for n in at): float(t) for at, t in entry["times"]}
        except (TypeError, ValueError, KeyError):
            return None

    def put(self, key: str, described: Mapping[str, Any], times: Times) -> None:
        """Keep the times of a shape; written by :meth:`flush`."""
        self._entries[key] = {"shape": dict(described), "times": [[list(at), t] for at, t in times.items()]}

    def flush(self) -> None:
        """Write the file in one step; others that write at the same time are not harmed, one of them wins."""
        data = {"version": VERSION, "machine": asdict(self._machine), "times": self._entries}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            staged = self.path.with_suffix(f".{os.getpid()}.tmp")
            staged.write_text(json.dumps(data), encoding="utf-8")
            staged.replace(self.path)
        except OSError as error:
            self._note(f"{self.path}: times are not kept ({error.strerror or error})")
