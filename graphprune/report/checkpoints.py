"""What became of a checkpoint, as plain data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

import graphprune


class FieldChange(BaseModel):
    """An entry of a config.json.

    Attributes:
        name: Path to it.
        old: Its value.
        new: Its value now.
        reason: Why it could not follow the weights, "" where it did.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    old: Any
    new: Any
    reason: str = ""


class CheckpointReport(BaseModel):
    """What ``apply`` reports of a checkpoint.

    Attributes:
        graphprune: Version of this package.
        verb: What was done.
        model: The original.
        output: What was written.
        tensors: Number of tensors.
        cut: How many of them got smaller.
        params: Elements before and after.
        bytes: Bytes of the tensors before and after.
        config: Entries of config.json that changed or could not follow.
        notes: What else to know.
        files: Names of the written files.
    """

    model_config = ConfigDict(frozen=True)

    graphprune: str = graphprune.__version__
    verb: str = "apply"
    model: str
    output: str
    tensors: int
    cut: int
    params: tuple[int, int]
    bytes: tuple[int, int]
    config: tuple[FieldChange, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
