"""ResNet-20 on small pictures, MobileNetV2 on photos."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.packages import folder
from benchmarks.accuracy.task import Array, Feed, Task, made, percent, shared_data, stacked
from tests.assets import fetch

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
SIZE = 224
HELD_OUT = 5000  # pictures at the front of the example's fixed order; calibration takes later ones


def planes(pixels: npt.NDArray[np.uint8]) -> Array:
    """Pixels (..., H, W, 3) as normalised float planes (..., 3, H, W)."""
    return np.ascontiguousarray(np.moveaxis((pixels.astype(np.float32) / 255 - MEAN) / STD, -1, -3))


def export(module: nn.Module, path: Path, example: tuple[int, ...]) -> None:
    """Write a module with one image input `x` and a dynamic batch."""
    import torch

    batch = torch.export.Dim("n", min=1, max=4096)
    torch.onnx.export(
        module.eval(),
        (torch.zeros(example),),
        path,
        dynamo=True,
        external_data=False,
        input_names=["x"],
        output_names=["scores"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )


@functools.cache
def small_pictures(first: int, last: int) -> tuple[Array, Array]:
    """CIFAR pictures of a fixed random order: normalised (n, 3, 32, 32) and their classes."""
    from examples.finetune_resnet20 import pictures

    images, classes = pictures(shared_data("cifar10_jpeg_train.npz"), first, last)
    return images.numpy(), classes.numpy()


class ResNet20(Task):
    """The literature's CIFAR network with its residual stream; labels are for measuring only."""

    name = "resnet20"
    metric = "top-1"
    targets = ("80%", "70%", "60%", "50%")
    aligns = (1, "auto")
    for_torch = True
    samples = 4096
    sets = 3
    data_note = "CIFAR-10 pictures; 5,000 others, which the network never saw, to measure on"

    def module(self) -> nn.Module:
        """Trained on the pictures that are not held out."""
        import torch

        from benchmarks.accuracy.train import WEIGHTS
        from examples.finetune_resnet20 import ResNet20 as Network

        network = Network()
        network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
        return network.eval()

    def path(self) -> Path:
        """Exported on first use."""
        return made("resnet20-heldout.onnx", lambda path: export(self.module(), path, (2, 3, 32, 32)))

    def calibration(self, n: int, seed: int = 0) -> Feed:
        """Pictures that are not held out."""
        if HELD_OUT + n * (seed + 1) > 50_000:
            raise ValueError(f"{n} samples for seed {seed} are more pictures than there are")
        first = HELD_OUT + n * seed
        return {"x": small_pictures(first, first + n)[0]}

    def measures(self, model: Any) -> dict[str, float]:
        """Top-1 on the held-out pictures."""
        images, classes = small_pictures(0, HELD_OUT)
        return {"top-1": percent(stacked(model, {"x": images}, 250).argmax(1) == classes)}


def photo(path: Path) -> Image:
    """A photo in colour."""
    from PIL import Image

    return Image.open(path).convert("RGB")


def centre(image: Image, short: int = 256, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """The middle of an image whose short side was scaled to `short` pixels."""
    scale = short / min(image.size)
    image = image.resize((max(size, round(image.width * scale)), max(size, round(image.height * scale))), 2)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def crop(image: Image, rng: np.random.Generator, least: float, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """A random square part of an image, mirrored half of the time.

    Args:
        image: The photo.
        rng: Source of chance.
        least: Smallest side of the part, as a share of the short side.
        size: Side of the result in pixels.
    """
    side = int(min(image.size) * rng.uniform(least, 1))
    left, top = rng.integers(0, image.width - side + 1), rng.integers(0, image.height - side + 1)
    part = image.resize((size, size), 2, (int(left), int(top), int(left) + side, int(top) + side))
    pixels = np.asarray(part)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


@functools.cache
def held_back(crops: int = 19) -> tuple[Array, Array]:
    """The labelled photos: their middles and random parts (n, 3, 224, 224), and their ImageNet classes."""
    rng = np.random.default_rng(0)
    pixels, classes = [], []
    for path in sorted(folder("foolbox").iterdir()):
        image = photo(path)
        pixels += [centre(image), *(crop(image, rng, 0.6) for _ in range(crops))]
        classes += [int(path.stem.split("_")[2])] * (crops + 1)
    return planes(np.stack(pixels)), np.array(classes)


def unlabelled_photos(n: int, seed: int) -> Array:
    """Parts of sample photos and scaled-up CIFAR pictures by turns (n, 3, 224, 224)."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    names = [p for package in ("skimage", "sklearn") for p in sorted(folder(package).iterdir())]
    photos = [image for image in map(photo, names) if min(image.size) >= SIZE]
    small = small_pictures(HELD_OUT + n * seed, HELD_OUT + n * (seed + 1))[0][: n // 2]
    pixels = [crop(photos[i % len(photos)], rng, 0.3) for i in range(n - len(small))]
    back = np.clip((np.moveaxis(small, 1, -1) * STD + MEAN) * 255 + 0.5, 0, 255).astype(np.uint8)
    pixels += [np.asarray(Image.fromarray(p).resize((SIZE, SIZE), 3)) for p in back]
    return planes(np.stack(pixels)[rng.permutation(n)])


class MobileNetV2(Task):
    """torchvision's ImageNet network with its trained weights."""

    name = "mobilenet_v2"
    metric = "top-1 agreement"
    targets = ("90%", "80%", "70%", "60%")
    aligns = (1,)
    for_torch = True
    samples = 512
    data_note = "parts of sample photos and scaled-up CIFAR pictures, 400 parts of 20 other photos held back"

    def module(self) -> nn.Module:
        """With its trained weights."""
        import torch

        from benchmarks.zoo.models import build

        network = build("mobilenet_v2").get_submodule("model")
        network.load_state_dict(torch.load(fetch("mobilenet_v2"), weights_only=True))
        return network.eval()

    def path(self) -> Path:
        """Exported on first use."""
        return made("mobilenet_v2.onnx", lambda path: export(self.module(), path, (2, 3, SIZE, SIZE)))

    def calibration(self, n: int, seed: int = 0) -> Feed:
        """Photos and scaled-up pictures, none of the held-back ones."""
        return {"x": unlabelled_photos(n, seed)}

    @functools.cached_property
    def _original(self) -> Array:
        def make(path: Path) -> None:
            np.save(path, stacked(self.path(), {"x": held_back()[0]}).argmax(1))

        found: Array = np.load(made("mobilenet_v2-classes.npy", make))
        return found

    def measures(self, model: Any) -> dict[str, float]:
        """How often the class is the original's, and how often it is the label."""
        images, classes = held_back()
        found = stacked(model, {"x": images}).argmax(1)
        return {"top-1 agreement": percent(found == self._original), "top-1": percent(found == classes)}


class ResNet50(MobileNetV2):
    """torchvision's network with weights drawn at random: its time counts and the error of its outputs, no metric."""

    name = "resnet50"

    def module(self) -> nn.Module:
        """The zoo's."""
        from benchmarks.zoo.models import build

        return build("resnet50").get_submodule("model")

    def path(self) -> Path:
        """Exported on first use."""
        return made("resnet50.onnx", lambda path: export(self.module(), path, (2, 3, SIZE, SIZE)))

    def measures(self, model: Any) -> dict[str, float]:  # noqa: ARG002 - there is nothing to measure
        """Nothing: it never saw a picture."""
        return {}
