"""The example: a trained ResNet-20 is pruned, fine-tuned, saved, and read again in a fresh process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("GRAPHPRUNE_DATA") or ROOT.parent / "shared" / "data")
FILES = [DATA / "cifar10_resnet20.pth", DATA / "cifar10_jpeg_train.npz"]


@pytest.mark.long
@pytest.mark.skipif(not all(f.exists() for f in FILES), reason="needs a trained ResNet-20 and CIFAR-10")
def test_a_pruned_resnet_learns_again_and_is_read_by_another_process(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "finetune_resnet20.py"), *map(str, FILES)]
    command += ["--train", "8192", "--out", str(tmp_path / "small")]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    original, pruned, tuned = (float(v) for v in re.findall(r": ([\d.]+) %", done))
    assert original > 90
    assert tuned > pruned + 20
    assert "the same outputs" in done
