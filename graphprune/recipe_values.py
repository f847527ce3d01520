"""Values of a recipe: shapes, amounts, paths and what each key takes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphprune.errors import InputError

AUTO = "auto"
MADE = ("random", "synthetic")  # words for data that is made, see graphprune.data.sources
WORDS = (*MADE, AUTO, "accuracy")  # that stand where a path might
_SHAPE = re.compile(r"(?:(?P<name>.*):)?(?P<sizes>\d+(?:[x,]\d+)*)")
_SCRIPT = re.compile(r"(?P<file>.*\.py):(?P<name>\w+)")
AMOUNTS = ("macs", "params", "size", "memory", "latency", "ratio")


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Sizes by input name from ``x:1,3,224,224`` or ``1x3x224x224``.

    Raises:
        InputError: A shape cannot be read or an input is named twice.
    """
    out: dict[str, tuple[int, ...]] = {}
    for text in texts:
        match = _SHAPE.fullmatch(text.strip())
        sizes = tuple(int(n) for n in re.split("[x,]", match["sizes"])) if match else ()
        if match is None or 0 in sizes:
            raise InputError(f"--input-shape {text}: cannot be read; write NAME:1,3,224,224 or 1x3x224x224")
        name = match["name"] or ""
        if name in out:
            raise InputError(f"--input-shape {text}: the shape of input {name!r} is given twice")
        out[name] = sizes
    return out


def align(text: str) -> int | str:
    """The alignment that an option names; "auto" is found out later.

    Raises:
        InputError: It is no whole number.
    """
    if text == AUTO:
        return AUTO
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--align {text}: must be a whole number, or auto") from None


def shares(name: str, text: str) -> tuple[float, ...]:
    """Shares with commas between them: 25%,50% or 0.25,0.5.

    Raises:
        InputError: One of them is no number.
    """
    try:
        return tuple(float(p[:-1]) / 100 if (p := part.strip()).endswith("%") else float(p) for part in text.split(","))
    except ValueError:
        raise InputError(f"--{name} {text}: cannot be read; write 25%,50%,75%") from None


def number(text: str) -> str | int | float:
    """A plain number as a number, so that flags, files and Python callers leave the same plan behind."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else text
    return text


def moved_source(text: str, folder: Path | None, home: Path = Path()) -> str:
    """A path or ``file.py:function`` that stands in a recipe in ``home``, as it has to stand in one in ``folder``.

    Without a folder: as it has to be given. Words for data that is made, auto and those for a metric, stay.
    """
    if text in WORDS:
        return text
    script = _SCRIPT.fullmatch(text)
    file, name = (script["file"], script["name"]) if script else (text, "")
    path = home / file
    try:
        file = Path(os.path.relpath(path, folder)).as_posix() if folder is not None else str(path)
    except ValueError:  # another drive
        file = str(path.resolve())
    return f"{file}:{name}" if name else file


def moved_labels(text: str | None, folder: Path | None, home: Path = Path()) -> str | None:
    """As :func:`moved_source` for labels, which are a name in the data where they are no file."""
    return moved_source(text, folder, home) if text is not None and text.endswith((".npy", ".npz")) else text


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    return str(value)


def _amounts(value: Any) -> str:
    return ",".join(_text(v) for v in (value if isinstance(value, list) else [value]))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _fraction(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(v, str) for v in entries):
        raise TypeError
    return tuple(entries)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return value


CONVERT: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(AMOUNTS, ("an amount such as 50% or 1.2G, or a list of them", _amounts)),
    "align": ("a whole number, or auto", _text),
    "min_channels": ("a whole number", _whole),
    "max_ratio": ("a number", _fraction),
    "max_step": ("a number", _fraction),
    "ignore": ("a regular expression or a list of them", _texts),
    "only": ("a regular expression or a list of them", _texts),
    "allow_io": ("a regular expression or a list of them", _texts),
    "shared_offsets": ("true or false", _switch),
    "width": ("text such as PATTERN=16:48 or a list of it", _texts),
    "equal": ("a regular expression or a list of them", _texts),
    "allocation": ("a name", _text),
    "depth": ("auto, only or a whole number", _text),
    "sensitivity": ("auto, or a path", _text),
    "criterion": ("a name", _text),
    "aggregate": ("a name", _text),
    "normalise": ("a name", _text),
    "seed": ("a whole number", _whole),
    "input_shape": ("a shape or a list of them", _texts),
    "data": ("a path", _text),
    "labels": ("a name or a path", _text),
    "samples": ("a whole number", _whole),
    "preprocess": ("a mapping of steps", _mapping),
    "recover": ("steps with commas", _text),
    "metric": ("FILE.py:FUNCTION, or accuracy", _text),
    "threads": ("a whole number", _whole),
    "provider": ("a name", _text),
    "latency_table": ("a path, or FILE.py:FUNCTION", _text),
    "lossless": ("true or false", _switch),
    "no_verify": ("true or false", _switch),
}
