"""Trains a small network of grouped convolutions on Fashion-MNIST, so that fibres can be measured on real weights.

    python -m benchmarks.grouped_net [--steps 450]

Debian's package `dataset-fashion-mnist` has the data; needs torch; minutes on two CPU cores. The result,
`grouped_fashion.onnx`, goes to the zoo's folder and is left alone when it is there.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.zoo.export import zoo_dir

DATA = Path("/usr/share/datasets/fashion-mnist")
BATCH = 128
GROUPS = 8
STEPS = 450


def images(part: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Images [n, 1, 28, 28] in [0, 1] and labels of "train" or "t10k".

    Raises:
        FileNotFoundError: The data set is not installed.
    """
    pixels = gzip.decompress((DATA / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((DATA / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28).astype(np.float32) / 255
    return x, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)


class Block(nn.Module):
    """ResNeXt: 1x1, grouped 3x3, 1x1, and a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=GROUPS, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = inputs == outputs and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return functional.relu(self.body(x) + self.short(x))


def net() -> nn.Module:
    """Images in [0, 1] to ten logits; four blocks of 8 groups with 6 or 12 offsets each."""
    return nn.Sequential(
        nn.BatchNorm2d(1, affine=False),
        nn.Conv2d(1, 24, 3, 2, 1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        Block(24, 48, 64, 2),
        Block(64, 96, 64, 1),
        Block(64, 96, 64, 1),
        Block(64, 96, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def train(model: nn.Module, steps: int) -> None:
    """SGD with one learning-rate cycle; images are flipped at random."""
    x, y = (torch.from_numpy(a.copy()) for a in images("train"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    model.train()
    began, total = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        pick = torch.randint(len(x), (BATCH,))
        batch = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, x[pick].flip(3), x[pick])
        loss = functional.cross_entropy(model(batch), y[pick])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        cycle.step()
        total += loss.item()
        if step % 50 == 0:
            print(f"step {step}/{steps}: loss {total / 50:.4f}, {time.perf_counter() - began:.0f} s", flush=True)
            total = 0.0


def grouped_fashion(steps: int = STEPS) -> Path:
    """Path of the trained network, made on first use."""
    path = zoo_dir() / "grouped_fashion.onnx"
    if path.exists():
        return path
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the same sums everywhere
    model = net()
    train(model, steps)
    model.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        model, (torch.rand(2, 1, 28, 28),), path, dynamo=False, opset_version=17, dynamic_axes=axes,
        input_names=["image"], output_names=["logits"],
    )  # fmt: skip
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grouped_net", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    print(grouped_fashion(parser.parse_args().steps))


if __name__ == "__main__":
    main()
