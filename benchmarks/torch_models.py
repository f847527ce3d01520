"""The networks of the PyTorch coverage run: all of torchvision's, and the transformers of the zoo."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.zoo.entries import SEQ, randomise
from benchmarks.zoo.models import TRANSFORMERS, build, sample

if TYPE_CHECKING:
    from torch import Tensor, nn

_KINDS = ("classification", "segmentation", "video")
_CLIP = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}


def names() -> list[str]:
    """All networks as "family/name"."""
    from torchvision import models

    parts = {"classification": models, "segmentation": models.segmentation, "video": models.video}
    found = [f"{kind}/{name}" for kind in _KINDS for name in models.list_models(module=parts[kind])]
    return [*found, *(f"transformers/{name}" for name in TRANSFORMERS)]


def made(full: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in evaluation mode with fully alive random weights, and inputs for it."""
    kind, _, name = full.partition("/")
    if kind == "transformers":
        inputs = sample(name, {"batch": 2, "seq": SEQ})
        return build(name).requires_grad_(requires_grad=True), inputs
    from torchvision import models

    torch.manual_seed(zlib.crc32(full.encode()))
    options: dict[str, Any] = {"weights_backbone": None} if kind == "segmentation" else {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False}
    model = models.get_model(name, weights=None, **options).eval()
    inputs = (torch.randn(_shape(kind, name)),)
    randomise(model, inputs)
    return model, inputs


def _shape(kind: str, name: str) -> tuple[int, ...]:
    if kind == "segmentation":
        return 2, 3, 128, 128
    if kind == "video":
        frames, size = _CLIP.get(name, (8, 112))
        return 1, 3, frames, size, size
    if name == "inception_v3":  # whose auxiliary classifier normalises one position per image in training
        return 2, 3, 299, 299
    return 1, 3, 224, 224
