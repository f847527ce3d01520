"""Samples from a folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.data.preprocess import Preprocess, Steps, both, completed
from graphprune.data.records import Feed, Read, Size
from graphprune.data.wanted import Layout
from graphprune.errors import InputError
from graphprune.graph.model import Array

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
_MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L", "rgba": "RGBA"}


class Images:
    """Images of files, decoded when they are read.

    Args:
        path: The folder, for messages.
        files: The files.
        layout: What the graph takes.
        block: How an image becomes an input.

    Raises:
        InputError: Pillow is not installed, a file is no image, or the result does not fit the input.
    """

    cheap = False

    def __init__(
        self, path: Path, files: list[Path], layout: Layout, block: Preprocess | Mapping[str, Any] | None
    ) -> None:
        self.name, self._files, self._layout = str(path), files, layout
        self._steps = completed(block, layout)
        self.sizes: list[Size] = [self._size(file) for file in files]

    def _size(self, file: Path) -> Size:
        """Size of the input that a file gives, from its header."""
        with _opened(file) as image:
            width, height = image.size
        wide, tall = self._steps.resized(width, height)
        crop = self._steps.block.crop
        if crop is not None:
            high, broad = both(crop)
            if high > tall or broad > wide:
                raise InputError(
                    f"{file}: {wide}x{tall} pixels, less than the crop of {broad}x{high}; set resize in preprocess"
                )
            tall, wide = high, broad
        inner = (self._steps.channels, tall, wide)
        shape = inner if self._steps.block.layout == "nchw" else (*inner[1:], inner[0])
        (wanted,) = self._layout.inputs
        if not wanted.fits(shape, int(self._steps.batched)):
            raise InputError(
                f"{file}: becomes {list(shape)}, the model's input {wanted.name} is {wanted.text}; set resize, crop or"
                " layout in preprocess"
            )
        return Size(1, shape, whole=self._layout.batch in (None, 1) or not self._steps.batched)

    def reader(self) -> Read:
        """Decodes any file."""
        return self._read

    def _read(self, record: int) -> Feed:
        with _opened(self._files[record]) as image:
            try:
                array = prepared(image, self._steps)
            except Exception as error:  # whatever a broken file makes of the decoder
                raise InputError(f"{self._files[record]}: cannot be decoded ({error})") from None
        return {self._layout.names[0]: array[None] if self._steps.batched else array}

    def where(self, record: int, row: int) -> str:  # noqa: ARG002 - one image, one sample
        """See :class:`Records`."""
        return str(self._files[record])


def prepared(image: Image, steps: Steps) -> Array:
    """An image as an input without a batch axis."""
    block = steps.block
    picture = image.convert(_MODES[block.color or "rgb"])
    size = steps.resized(*picture.size)
    if size != picture.size:
        picture = picture.resize(size, _filter(block.interpolation))
    if block.crop is not None:
        tall, wide = both(block.crop)
        left, top = (picture.width - wide) // 2, (picture.height - tall) // 2
        picture = picture.crop((left, top, left + wide, top + tall))
    pixels = np.asarray(picture)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    pixels = pixels[..., ::-1] if block.color == "bgr" else pixels
    return _numbers(pixels if block.layout == "nhwc" else np.moveaxis(pixels, -1, 0), steps)


def _numbers(pixels: Array, steps: Steps) -> Array:
    """Scaled and normalised values in the input's type; integers are rounded."""
    block = steps.block
    shape = (-1,) if block.layout == "nhwc" else (-1, 1, 1)
    values = pixels * np.float32(block.scale or 1.0)
    values = values - np.array(block.mean or [0.0], np.float32).reshape(shape)
    values = values / np.array(block.std or [1.0], np.float32).reshape(shape)
    dtype = _dtype(block.dtype or "float32")
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return np.ascontiguousarray(values, dtype)


def _dtype(name: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def _filter(name: str) -> Any:
    from PIL import Image

    return Image.Resampling[name.upper()]


def _opened(file: Path) -> Image:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise InputError(f'{file.parent}: images need Pillow: pip install "graphprune[images]"') from None
    try:
        return Image.open(file)
    except Exception as error:
        raise InputError(f"{file}: is no readable image ({' '.join(str(error).split())[:150]})") from None
