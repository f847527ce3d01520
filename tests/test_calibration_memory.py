"""What calibration takes in memory, told by the operating system in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.graphs import Builder

_LAYERS, _CHANNELS, _SIDE, _BATCH = 24, 64, 128, 8  # 32 MiB per value, 800 MiB together
_BUDGET = 384 << 20

_SCRIPT = """
import resource, sys
import numpy as np
import graphprune as gp
from graphprune.calibration import Calibration
from graphprune.graph.run import Runner

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
deps = gp.analyze(sys.argv[1])
feeds = [{"x": np.full((int(sys.argv[3]), 64, 128, 128), k, np.float32)} for k in range(3)]
Runner(deps.source.source)({"x": feeds[0]["x"][:1]})
before = peak()
grams = Calibration(deps, feeds, memory=int(sys.argv[2])).grams([(s.node, 0) for s in deps.sites if s.slot == 0])
print(len(grams), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is that of Linux")
def test_sums_and_values_keep_to_the_budget(tmp_path: Path) -> None:
    b = Builder()
    x = b.source("x", ("n", _CHANNELS, _SIDE, _SIDE))
    for _ in range(_LAYERS):
        x = b.silu(b.conv(x, _CHANNELS, _CHANNELS, 1))
    onnx.save(b.build(x), tmp_path / "net.onnx")
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "net.onnx"), str(_BUDGET), str(_BATCH)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    matrices, grown = map(int, done.stdout.split())
    assert matrices == _LAYERS
    assert grown < _BUDGET < _BATCH * _CHANNELS * _SIDE**2 * 4 * _LAYERS
