"""A small net with planted sensitivities, and workers that die on purpose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphprune.sweep.tasks import Outcome, Place, Task, attempt
from tests.graphs import Builder

GROUPS = ("loud", "quiet", "dead")
SHARES = {"loud": 1.0, "quiet": 0.01, "dead": 0.0}


def planted() -> onnx.ModelProto:
    """Three branches of convolutions; the outputs count in full, by a hundredth, and not at all."""
    b = Builder("planted", seed=3)
    x = b.source("x", ["n", 4, 6, 6])
    parts = []
    for name in GROUPS:
        made = b.conv(b.conv_relu(x, 4, 8, name=f"{name}.in"), 8, 5, name=f"{name}.out")
        parts.append(b.op("Mul", made, b.const(np.float32(SHARES[name]), f"{name}.share")))
    return b.build(b.op("Add", b.op("Add", parts[0], parts[1]), parts[2]))


def stage(folder: Path, count: int = 40) -> tuple[Path, Path]:
    """The net and samples for it as files."""
    model, data = folder / "planted.onnx", folder / "data.npz"
    onnx.save(planted(), model)
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.standard_normal((count, 4, 6, 6)).astype(np.float32))
    return model, data


def dies(group: str, tries: Path, times: int, place: Place, task: Task) -> Outcome:
    """A worker that dies over a group at half of its units, the first few times."""
    if task.group.startswith(group) and task.removed == 4:
        with tries.open("a") as file:
            file.write("x")
        if len(tries.read_text()) <= times:
            os._exit(1)
    return attempt(place, task)


def forbidden(*_: Any) -> Any:
    """Work that must not be done."""
    raise AssertionError("this was known already")
