"""Prunes a trained ResNet-20, fine-tunes it for an epoch, saves it, and reads it again in a fresh process.

Usage: python examples/finetune_resnet20.py WEIGHTS.pth IMAGES.npz [--macs 50%] [--train 45000] [--out FOLDER]

WEIGHTS is a state_dict of the usual ResNet-20 for CIFAR-10 (16, 32 and 64 channels). IMAGES holds JPEG files one after
the other in "blob", where each begins in "off", and their classes in "y". 5,000 images drawn at random are held out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import graphprune as gp

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, TEST = 128, 5000


class Block(nn.Module):
    """Two convolutions and a shortcut; where the width doubles the shortcut is filled up with zeros."""

    def __init__(self, wide_in: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.stride, self.fill = stride, (wide - wide_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in and out."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.fill, self.fill))
        return F.relu(out + x)


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) to scores (N, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def pictures(path: Path, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Normalised images (N, 3, 32, 32) and their classes, in an order that is always the same."""
    with np.load(path) as data:
        blob, off = data["blob"], data["off"]
        order = np.random.default_rng(0).permutation(len(off) - 1)[first:last]
        classes = data["y"][order]
        files = [blob[off[i] : off[i + 1]].tobytes() for i in order]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(f)).convert("RGB")) for f in files])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    images.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))
    return images, torch.from_numpy(classes.astype(np.int64))


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Share of images whose highest score is their class, in percent."""
    model.eval()
    hits = [(model(x).argmax(1) == y).sum() for x, y in zip(images.split(500), classes.split(500), strict=True)]
    return 100 * float(sum(hits)) / len(images)


def finetune(model: nn.Module, images: Tensor, classes: Tensor) -> None:
    """One epoch of SGD with a rate that falls to zero; half of the images are mirrored."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for chosen in torch.randperm(len(images)).split(BATCH):
        x = images[chosen]
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        optimizer.zero_grad()
        F.cross_entropy(model(x), classes[chosen]).backward()
        optimizer.step()
        schedule.step()


def fingerprint(model: nn.Module, images: Tensor) -> str:
    """Hash of what a model makes of some images."""
    with torch.no_grad():
        return hashlib.sha256(model.eval()(images[:100]).numpy().tobytes()).hexdigest()[:16]


def reread(folder: Path, path: Path) -> None:
    """What the saved model makes of the first test images, in a process that never saw it."""
    model = gp.restore(ResNet20(), folder)
    images, _ = pictures(path, 0, 100)
    print(fingerprint(model, images))


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--macs", default="50%")
    parser.add_argument("--train", type=int, default=45000)
    parser.add_argument("--out", type=Path, default=Path("resnet20-pruned"))
    parser.add_argument("--reread", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.reread:
        reread(args.out, args.images)
        return
    model = ResNet20()
    model.load_state_dict(torch.load(args.weights, weights_only=True))
    test = pictures(args.images, 0, TEST)
    print(f"original: {accuracy(model, *test):.2f} % of {TEST:,} images")
    start = time.perf_counter()
    result = gp.prune(model, example_inputs=test[0][:2], macs=args.macs, align=8)
    macs, params = result.after.macs / result.before.macs, result.after.params / result.before.params
    print(f"pruned in {time.perf_counter() - start:.1f} s: MACs x {macs:.2f}, parameters x {params:.2f}")
    print(result.verdict.text)
    small = result.model
    print(f"pruned: {accuracy(small, *test):.2f} %")
    train = pictures(args.images, TEST, TEST + args.train)
    start = time.perf_counter()
    finetune(small, *train)
    print(
        f"after an epoch of {args.train:,} images ({time.perf_counter() - start:.0f} s): {accuracy(small, *test):.2f} %"
    )
    gp.save(small, args.out)
    command = [sys.executable, __file__, str(args.weights), str(args.images), "--out", str(args.out), "--reread"]
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    same = again == fingerprint(small, test[0])
    print(f"read again in a fresh process: {'the same' if same else 'OTHER'} outputs")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
