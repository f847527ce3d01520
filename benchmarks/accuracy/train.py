"""Trains the ResNet-20 of the accuracy benchmarks on pictures that leave its validation split alone.

python -m benchmarks.accuracy.train [--again]

The weights that are handed around have seen every picture there is: with them no split is held out. These come with
the benchmarks, since training takes 45 minutes of one core and gives others for another number of threads.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from benchmarks.accuracy.task import shared_data
from examples.finetune_resnet20 import TEST, ResNet20, accuracy, pictures

WEIGHTS = Path(__file__).with_name("resnet20-heldout.pth")
_BATCH, _RATE, _DECAY, _EPOCHS = 128, 0.2, 5e-4, 14


def trained(epochs: int) -> ResNet20:
    """A network trained from nothing on all but the first 5,000 pictures of the example's order."""
    torch.manual_seed(0)
    network = ResNet20().to(memory_format=torch.channels_last)
    images, classes = pictures(shared_data("cifar10_jpeg_train.npz"), TEST, 50_000)
    optimizer = torch.optim.SGD(network.parameters(), lr=_RATE, momentum=0.9, weight_decay=_DECAY, nesterov=True)
    steps = epochs * -(-len(images) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.2)
    started = time.perf_counter()
    for epoch in range(epochs):
        network.train()
        for chosen in torch.randperm(len(images)).split(_BATCH):
            optimizer.zero_grad()
            F.cross_entropy(
                network(moved(images[chosen]).contiguous(memory_format=torch.channels_last)), classes[chosen]
            ).backward()
            optimizer.step()
            schedule.step()
        seen = accuracy(network, images[:5000], classes[:5000])
        print(f"epoch {epoch + 1}: {seen:.2f} % of seen pictures, {time.perf_counter() - started:.0f} s", flush=True)
    return network


def moved(images: Tensor) -> Tensor:
    """Pictures shifted by up to 4 pixels, all of a batch alike, half of them mirrored."""
    x = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    down, right = torch.randint(0, 9, (2,)).tolist()
    return F.pad(x, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]


def main() -> None:
    """Say how good the weights are; train them anew only when asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="train, and overwrite the weights")
    if parser.parse_args().again:
        torch.save(trained(_EPOCHS).state_dict(), WEIGHTS)
    network = ResNet20()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    images, classes = pictures(shared_data("cifar10_jpeg_train.npz"), 0, TEST)
    print(f"{accuracy(network, images, classes):.2f} % of {TEST:,} held-out pictures")


if __name__ == "__main__":
    main()
