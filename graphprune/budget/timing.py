"""The options that say how and where latency is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphprune.cost.alignment import favoured_alignment
from graphprune.errors import InputError
from graphprune.graph.timing import Setting

AUTO = "auto"
TIMING = ("threads", "provider", "latency_table")  # options that say how and where latency is measured


def setting_of(timing: Mapping[str, Any]) -> Setting:
    """How models are timed by the options of a run.

    Raises:
        InputError: The provider is unknown or the number of threads makes no sense.
    """
    given = {k: timing[k] for k in ("provider", "threads") if k in timing}
    setting = Setting(**given)
    setting.check()
    return setting


def recorded(timing: Mapping[str, Any]) -> dict[str, Any]:
    """The options of timing as a plan notes them."""
    return {k: getattr(v, "__name__", v) if callable(v) else v for k, v in timing.items()}


def read_timing(rest: dict[str, Any], latency: str | float | None, note: Callable[[str], None]) -> dict[str, Any]:
    """Take the options of timing out of others, and put a number where the alignment is to be found out.

    Args:
        rest: Options; changed.
        latency: The latency target.
        note: Told what is worth knowing.

    Raises:
        InputError: There is no latency that they say how to measure.
    """
    given = {k: rest.pop(k, None) for k in TIMING}
    timing = {k: v for k, v in given.items() if v is not None}
    if timing and latency is None:
        raise InputError(f"--{next(iter(timing)).replace('_', '-')} belongs to --latency, which is not given")
    if rest.get("align", AUTO) == AUTO:
        rest.pop("align", None)
        if latency is not None and "latency_table" not in timing:
            rest["align"] = favoured_alignment(setting_of(timing), note=note)
    return timing
