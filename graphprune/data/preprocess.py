"""How an image becomes an input: sizes, colours, scale and layout, by default those that the graph's input suggests."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np

from graphprune.data.wanted import Layout, Wanted
from graphprune.errors import InputError

COLORS = {"rgb": 3, "bgr": 3, "gray": 1, "rgba": 4}
LAYOUTS = ("nchw", "nhwc")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Steps in this order; None takes the default.

    Attributes:
        resize: The short side in pixels, or height and width. By default the image just covers the crop.
        crop: What is cut out of the middle, height and width or one number for both; by default the input's size.
        color: rgb, bgr, gray or rgba; by default rgb, or gray for one channel, rgba for four.
        scale: What values of 0 to 255 are multiplied with: 1/255 by default, 1 for integer inputs.
        mean: Taken off after scaling, one number or one per channel (0).
        std: Divided by after that, one number or one per channel (1).
        layout: nchw or nhwc; by default where the input's axis of 1, 3 or 4 is.
        dtype: Type of the input; by default the graph's.
        interpolation: nearest, bilinear (default), bicubic or lanczos.
    """

    resize: tuple[int, ...] | None = None
    crop: tuple[int, ...] | None = None
    color: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    dtype: str | None = None
    interpolation: str = "bilinear"


def parse(block: Preprocess | Mapping[str, Any] | None) -> Preprocess:
    """A block as it stands in a recipe.

    Raises:
        InputError: It has an unknown key, or a value of the wrong kind.
    """
    if block is None or isinstance(block, Preprocess):
        return block or Preprocess()
    if not isinstance(block, Mapping):
        raise InputError(f"preprocess: {block!r} is no mapping of steps, such as 'resize: 256'")
    known = [f.name for f in fields(Preprocess)]
    out: dict[str, Any] = {}
    for raw, value in block.items():
        key = str(raw)
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"preprocess: unknown step {key!r}; {hint}")
        if value is not None:
            out[key] = _value(key, value)
    return Preprocess(**out)


def _value(key: str, value: Any) -> Any:
    choices = {"color": tuple(COLORS), "layout": LAYOUTS, "interpolation": INTERPOLATIONS}
    if key in choices:
        text = str(value).lower()
        if text not in choices[key]:
            raise InputError(f"preprocess: {key}: {value!r} is none of {', '.join(choices[key])}")
        return text
    if key == "dtype":
        return str(value)
    entries = list(value) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else [value]
    try:
        numbers = tuple(float(Fraction(v)) if isinstance(v, str) else float(v) for v in entries)
    except (TypeError, ValueError, ZeroDivisionError):
        numbers = ()
    if key in ("resize", "crop"):
        if len(numbers) not in (1, 2) or any(n != int(n) or n < 1 for n in numbers if math.isfinite(n)):
            raise InputError(f"preprocess: {key}: {value!r} is no size in pixels, such as 224 or [48, 320]")
        return tuple(int(n) for n in numbers)
    good = bool(numbers) and all(math.isfinite(n) for n in numbers) and (key != "scale" or len(numbers) == 1)
    if not good or (key in ("std", "scale") and 0.0 in numbers):
        raise InputError(
            f"preprocess: {key}: {value!r} is not {'a number' if key == 'scale' else 'a number per channel'}"
        )
    return numbers[0] if key == "scale" else numbers


@dataclass(frozen=True)
class Steps:
    """A block with nothing left open, for one input.

    Attributes:
        block: The steps.
        batched: Whether the input has a batch axis in front.
        channels: Number of channels.
    """

    block: Preprocess
    batched: bool
    channels: int

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing."""
        block = self.block
        if block.resize is not None and len(block.resize) == 2:
            return block.resize[1], block.resize[0]
        if block.resize is not None:
            factor = block.resize[0] / min(width, height)
        elif block.crop is not None:
            tall, wide = both(block.crop)
            factor = max(wide / width, tall / height)
        else:
            factor = 1.0
        return max(1, round(width * factor)), max(1, round(height * factor))


def both(size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width."""
    return size[0], size[-1]


def completed(block: Preprocess | Mapping[str, Any] | None, layout: Layout) -> Steps:
    """Fill in what a block leaves open from the graph's input.

    Raises:
        InputError: The graph takes no images, or the block does not fit its input.
    """
    block = parse(block)
    if len(layout.inputs) != 1:
        raise InputError(
            f"{layout.model}: has {len(layout.inputs)} inputs ({', '.join(layout.names)}), so that images alone are not"
            " enough; give arrays, or a loader script FILE.py:FUNCTION"
        )
    (wanted,) = layout.inputs
    shape = wanted.shape or ()
    if len(shape) not in (3, 4):
        raise InputError(f"{layout.model}: input {wanted.name} {wanted.text} takes no images")
    sizes = shape[-3:]
    order = block.layout or _layout(sizes, wanted)
    channels, tall, wide = sizes if order == "nchw" else (sizes[2], sizes[0], sizes[1])
    count = channels or COLORS[block.color or "rgb"]
    color = block.color or {1: "gray", 3: "rgb", 4: "rgba"}.get(count)
    if color is None or COLORS[color] != count:
        raise InputError(
            f"{layout.model}: input {wanted.name} {wanted.text} has {count} channels, not those of"
            f" {color or 'an image'}"
        )
    dtype = wanted.dtype or np.dtype(block.dtype or "float32")
    if block.dtype is not None and block.dtype != dtype.name:
        raise InputError(f"preprocess: dtype: {block.dtype}, but the model's input {wanted.name} is {dtype}")
    for key in ("mean", "std"):
        given = getattr(block, key)
        if given is not None and len(given) not in (1, count):
            raise InputError(f"preprocess: {key}: {len(given)} numbers for {count} channels")
    crop = block.crop or ((tall, wide) if tall and wide and not (block.resize and len(block.resize) == 2) else None)
    scale = block.scale if block.scale is not None else 1 / 255 if dtype.kind not in "iu" else 1.0
    return Steps(
        replace(block, layout=order, color=color, crop=crop, scale=scale, dtype=dtype.name), len(shape) == 4, count
    )


def _layout(sizes: tuple[int | None, ...], wanted: Wanted) -> str:
    first, last = sizes[0] in (1, 3, 4), sizes[2] in (1, 3, 4)
    if first or (not last and sizes[0] is None):
        return "nchw"
    if last:
        return "nhwc"
    raise InputError(f"input {wanted.name} {wanted.text} has no axis of 1, 3 or 4 channels; it takes no images")
