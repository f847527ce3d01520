"""The option ``depth``: whether branches may be left out, how many, and whether widths are cut as well."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.errors import InputError

AUTO, ONLY = "auto", "only"


@dataclass(frozen=True, slots=True)
class Depth:
    """What may be done to the depth of a model.

    Attributes:
        most: Branches that may be left out at most, None for any number.
        widths: Whether widths are cut as well.
    """

    most: int | None = None
    widths: bool = True


def read_depth(value: str | int | None) -> Depth | None:
    """The option as it was given: "auto", a number, or "only"; None where it was not.

    Raises:
        InputError: It is something else.
    """
    if value is None:
        return None
    text = str(value).strip()
    if text == AUTO:
        return Depth()
    if text == ONLY:
        return Depth(widths=False)
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--depth {value}: write auto, only, or how many branches may be left out at most")
    return Depth(int(text))
