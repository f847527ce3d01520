"""Samples from images, from what Polygraphy saves, and from scripts."""

from __future__ import annotations

import base64
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from PIL import Image

from graphprune.api import load
from graphprune.data import samples
from graphprune.data.preprocess import completed, parse
from graphprune.data.wanted import layout_of
from graphprune.errors import InputError
from graphprune.graph.model import Graph
from tests.commandline import FASHION
from tests.test_arrays import FREE, graph_of, numbers, rows

NCHW = ("x", ["n", 3, 8, 12], TensorProto.FLOAT)


def photos(folder: Path, *sizes: tuple[int, int], mode: str = "RGB") -> list[Any]:
    """Writes images with random pixels, and returns these."""
    rng = np.random.default_rng(0)
    out = []
    for k, (wide, tall) in enumerate(sizes):
        pixels = rng.integers(0, 256, (tall, wide, 3) if mode == "RGB" else (tall, wide), np.uint8)
        Image.fromarray(pixels, mode).save(folder / f"{k}.png")
        out.append(pixels)
    return out


# -- images ----------------------------------------------------------------------------------------------


def test_images_at_the_size_of_the_input(tmp_path: Path) -> None:
    pixels = photos(tmp_path, (12, 8), (12, 8))
    (feed,) = samples(tmp_path, graph_of(NCHW))
    assert np.allclose(feed["x"], np.stack(pixels).transpose(0, 3, 1, 2) / 255, atol=1e-6)
    assert feed["x"].dtype == np.float32


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_steps_in_their_order(tmp_path: Path, color: str) -> None:
    (pixels,) = photos(tmp_path, (12, 8))
    block = {"color": color, "scale": "1/255", "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}
    (feed,) = samples(tmp_path, graph_of(NCHW), preprocess=block)
    ordered = pixels[..., ::-1] if color == "bgr" else pixels
    wanted = (ordered / 255 - [0.4, 0.5, 0.6]) / [0.1, 0.2, 0.3]
    assert np.allclose(feed["x"][0], wanted.transpose(2, 0, 1), atol=1e-5)


def test_other_inputs_change_the_defaults(tmp_path: Path) -> None:
    (pixels,) = photos(tmp_path, (12, 8), mode="L")
    (gray,) = samples(tmp_path, graph_of(("x", ["n", 8, 12, 1], TensorProto.UINT8)))
    assert gray["x"].dtype == np.uint8
    assert np.array_equal(gray["x"][0, :, :, 0], pixels)
    (single,) = samples(tmp_path, graph_of(("x", [1, 8, 12], TensorProto.FLOAT16)))
    assert single["x"].shape == (1, 8, 12)
    assert single["x"].dtype == np.float16


def test_a_large_image_is_scaled_to_cover_and_cut_in_the_middle(tmp_path: Path) -> None:
    Image.fromarray(np.repeat(np.arange(60, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)).save(
        tmp_path / "w.png"
    )
    (feed,) = samples(tmp_path, graph_of(NCHW), preprocess={"scale": 1})
    columns = feed["x"][0, 0, 4]
    assert feed["x"].shape == (1, 3, 8, 12)
    assert abs(columns.mean() - 29.5) < 0.6
    assert 1.9 < np.diff(columns).mean() < 2.1


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        ({"resize": [8, 12]}, (8, 12)),
        ({"resize": 16, "crop": 10}, (10, 10)),
        ({"resize": 20, "crop": [8, 12]}, (8, 12)),
        ({"resize": 7}, (7, 14)),
        ({}, (16, 32)),
    ],
)
def test_sizes_for_a_model_that_takes_any(tmp_path: Path, block: Any, shape: tuple[int, int]) -> None:
    photos(tmp_path, (32, 16))
    (feed,) = samples(tmp_path, graph_of(("x", ["n", 3, "h", "w"], TensorProto.FLOAT)), preprocess=block)
    assert feed["x"].shape[2:] == shape


def test_images_of_all_sizes_keep_their_own_batches(tmp_path: Path) -> None:
    photos(tmp_path, (12, 8), (12, 8), (9, 9))
    made = samples(tmp_path, graph_of(("x", ["n", 3, "h", "w"], TensorProto.FLOAT)))
    assert [f["x"].shape for f in made] == [(2, 3, 8, 12), (1, 3, 9, 9)]


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path, (12, 8), (12, 8))
    (tmp_path / "sub").mkdir()
    photos(tmp_path / "sub", (12, 8))
    (tmp_path / "labels.json").write_text("{}")
    made = samples(tmp_path, graph_of(NCHW), batch=2)
    first = list(made)
    monkeypatch.setattr("graphprune.data.images.prepared", lambda *_: pytest.fail("decoded again"))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, made, strict=True))
    monkeypatch.undo()
    again = list(pickle.loads(pickle.dumps(made)))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, again, strict=True))
    assert samples(tmp_path, graph_of(NCHW), limit=2).count == 2


@pytest.mark.parametrize(
    ("block", "pattern"),
    [
        ({"resise": 3}, "unknown step 'resise'; did you mean resize?"),
        ({"color": "hsv"}, "color: 'hsv' is none of rgb, bgr, gray, rgba"),
        ({"std": [1, 0, 1]}, r"std: \[1, 0, 1\] is not a number per channel"),
        ({"scale": "1/0"}, "scale: '1/0' is not a number"),
        ({"scale": "large"}, "scale: 'large' is not a number"),
        ({"mean": [0.5, 0.5]}, "mean: 2 numbers for 3 channels"),
        ({"crop": -3}, "crop: -3 is no size in pixels"),
        ({"crop": "inf"}, "crop: 'inf' is no size in pixels"),
        ({"resize": [1, 2, 3]}, "is no size in pixels"),
        ({"crop": 40, "resize": 20}, r"0\.png: 30x20 pixels, less than the crop of 40x40; set resize"),
        ({"crop": 6}, r"0\.png: becomes \[3, 6, 6\], the model's input x is \[\?, 3, 8, 12\]"),
        ({"layout": "nhwc"}, "has 12 channels, not those of an image"),
        ({"color": "gray"}, "has 3 channels, not those of gray"),
        ({"dtype": "uint8"}, "dtype: uint8, but the model's input x is float32"),
        ("resize", "is no mapping of steps"),
    ],
)
def test_blocks_that_do_not_fit(tmp_path: Path, block: Any, pattern: str) -> None:
    photos(tmp_path, (12, 8))
    with pytest.raises(InputError, match=pattern):
        samples(tmp_path, graph_of(NCHW), preprocess=block)


def test_folders_of_images_that_do_not_fit(tmp_path: Path) -> None:
    photos(tmp_path, (12, 8))
    with pytest.raises(InputError, match="has 2 inputs"):
        samples(tmp_path, graph_of(NCHW, ("y", ["n", 3, 8, 8], TensorProto.FLOAT)))
    with pytest.raises(InputError, match="takes no images"):
        samples(tmp_path, graph_of(FREE))
    with pytest.raises(InputError, match="is one image; give a folder"):
        samples(tmp_path / "0.png", graph_of(NCHW))
    with pytest.raises(InputError, match="preprocess is for folders of images"):
        samples(np.zeros((1, 3, 8, 12), np.float32), graph_of(NCHW), preprocess={"crop": 8})
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:150])
    with pytest.raises(InputError, match=r"1\.png: cannot be decoded"):
        list(samples(tmp_path, graph_of(NCHW)))
    (tmp_path / "2.png").write_text("no image")
    with pytest.raises(InputError, match=r"2\.png: is no readable image"):
        samples(tmp_path, graph_of(NCHW))
    np.save(tmp_path / "3.npy", rows(2))
    with pytest.raises(InputError, match=r"several kinds of data \(3\.npy and 0\.png\)"):
        samples(tmp_path, graph_of(NCHW))


def test_images_without_pillow(tmp_path: Path) -> None:
    photos(tmp_path, (28, 28), mode="L")
    code = "import sys; sys.modules['PIL'] = None\nfrom graphprune.cli import main\nsys.exit(main(sys.argv[1:]))"
    arguments = [str(FASHION), str(tmp_path / "o.onnx"), "--macs", "50%", "--data", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'images need Pillow: pip install "graphprune[images]"' in done.stderr
    assert not (tmp_path / "o.onnx").exists()


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_an_image_always_covers_the_crop(wide: int, tall: int, height: int, width: int) -> None:
    steps = completed({"crop": [height, width]}, _ANY)
    made = steps.resized(wide, tall)
    assert made[0] >= width
    assert made[1] >= height
    assert made[0] == width or made[1] == height


_ANY = layout_of(graph_of(("x", ["n", 3, "h", "w"], TensorProto.FLOAT)))


def test_a_block_may_be_parsed_twice() -> None:
    block = parse({"resize": 256, "crop": [224, 224], "mean": 0.5})
    assert parse(block) == block


# -- Polygraphy ------------------------------------------------------------------------------------------


def encoded(array: Any, **save: Any) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array, **save)
    return base64.b64encode(buffer.getvalue()).decode()


def entry(array: Any) -> dict[str, str]:
    """An array as Polygraphy's encoder writes it."""
    return {"array": encoded(array), "polygraphy_class": "ndarray"}


def test_saved_inputs(tmp_path: Path) -> None:
    runs = [{"x": entry(r[None]), "other": entry(r)} for r in rows(5)]
    (tmp_path / "inputs.json").write_text(json.dumps(runs, indent=4))
    made = samples(tmp_path / "inputs.json", graph_of(FREE), batch=4)
    assert [numbers([f]) for f in made] == [[0, 1, 2, 3], [4]] == [numbers([f]) for f in made]
    assert samples(tmp_path / "inputs.json", graph_of(FREE), limit=3).count == 3
    (tmp_path / "one.json").write_text(json.dumps(runs[2]))
    assert numbers(samples(tmp_path / "one.json", graph_of(FREE))) == [2]


def test_what_polygraphy_itself_writes(tmp_path: Path) -> None:
    polygraphy = pytest.importorskip("polygraphy.json")
    lazy = pytest.importorskip("polygraphy.comparator.struct").LazyArray
    path = tmp_path / "inputs.json"
    polygraphy.save_json([{"x": r[None]} for r in rows(3)], str(path))
    assert numbers(samples(path, graph_of(FREE))) == [0, 1, 2]
    polygraphy.save_json([{"x": lazy(r[None])} for r in rows(3)], str(path))
    assert numbers(samples(path, graph_of(FREE))) == [0, 1, 2]


def test_saved_inputs_in_a_folder(tmp_path: Path) -> None:
    for k, r in enumerate(rows(5)):
        (tmp_path / f"{k:010}.json").write_text(json.dumps({"x": entry(r[None])}))
    assert numbers(samples(tmp_path, graph_of(FREE))) == [0, 1, 2, 3, 4]
    assert samples(tmp_path, graph_of(FREE), limit=2).count == 2


def test_saved_inputs_of_old_versions(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, rows(2))
    old = {
        "array": buffer.getvalue().decode("latin-1"),
        "__polygraphy_encoded_ndarray": "polygraphy_serialized_json_type",
    }
    archive = io.BytesIO()
    np.savez(archive, rows(1) + 9)
    older = {**old, "array": archive.getvalue().decode("latin-1")}
    lazy = {"values": entry(rows(1) + 5), "polygraphy_class": "LazyArray"}
    (tmp_path / "d.json").write_text(json.dumps([{"x": old}, {"x": older}, {"x": lazy}]))
    assert numbers(samples(tmp_path / "d.json", graph_of(FREE))) == [0, 1, 9, 5]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("{", "not a readable JSON file"),
        ("[3]", "item 0: is no dictionary of arrays"),
        ("[]", "there are no samples"),
        ('[{"lst": [], "polygraphy_class": "RunResults"}]', "item 0: holds RunResults; save the inputs"),
        ('[{"x": {"tensor": "UEsD", "polygraphy_class": "Tensor"}}]', "x is a Tensor; save numpy arrays"),
        ('[{"x": [1, 2, 3]}]', "x is no array; save numpy arrays"),
        ('[{"x": {"array": "abc", "polygraphy_class": "ndarray"}}]', "x cannot be decoded"),
        (json.dumps([{"y": entry(rows(1))}]), "item 0: no array for input x; it has y"),
        (json.dumps([{"x": entry(rows(1).astype(int))}]), "item 0: x is int64"),
        (
            json.dumps([{"x": {**entry(rows(1)), "array": encoded(np.array([{}], object), allow_pickle=True)}}]),
            "pickled objects are refused",
        ),
    ],
)
def test_saved_inputs_that_cannot_be_used(tmp_path: Path, content: str, pattern: str) -> None:
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(InputError, match=rf"d\.json: .*{pattern}|d\.json: {pattern}"):
        samples(tmp_path / "d.json", graph_of(FREE))


# -- scripts ---------------------------------------------------------------------------------------------

SCRIPT = """
import numpy as np
from neighbour import COUNT

class Reader:
    def __init__(self): self.left = COUNT
    def get_next(self):
        self.left -= 1
        return {"x": np.zeros((1, 3), np.float32)} if self.left >= 0 else None

def load_data():
    for k in range(COUNT):
        yield {"x": np.full((1, 3), k, np.float32)}

def listed(): return list(load_data())
def broken(): raise RuntimeError("the disk is on fire")
def wrong(): return load_data
number = 3
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("COUNT = 6\n")
    (tmp_path / "loader.py").write_text(SCRIPT)
    return tmp_path / "loader.py"


@pytest.mark.parametrize(("suffix", "last"), [("", 5), (":load_data", 5), (":listed", 5), (":Reader", 0)])
def test_loader_scripts(script: Path, suffix: str, last: int) -> None:
    made = samples(f"{script}{suffix}", graph_of(FREE), batch=4)
    assert numbers(made)[-1] == last
    assert (made.count, len(made)) == (6, 2)
    sys.modules.pop("neighbour", None)


@pytest.mark.parametrize(
    ("suffix", "pattern"),
    [
        (":nothing", "has no function nothing; it has Reader, broken, listed, load_data, wrong"),
        (":number", "has no function number"),
        (":broken", "RuntimeError: the disk is on fire"),
        (":wrong", "gives a function; it has to give samples"),
        (":a-b", "names no function"),
    ],
)
def test_scripts_that_fail(script: Path, suffix: str, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        samples(f"{script}{suffix}", graph_of(FREE))
    sys.modules.pop("neighbour", None)


def test_scripts_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.py: no such file"):
        samples(tmp_path / "none.py", graph_of(FREE))
    (tmp_path / "bad.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(InputError, match=r"bad\.py: ModuleNotFoundError"):
        samples(f"{tmp_path / 'bad.py'}:f", graph_of(FREE))


def test_the_example_has_images_too(tmp_path: Path) -> None:
    photos(tmp_path, (28, 28), (30, 40), mode="L")
    graph: Graph = load(FASHION)
    assert samples(tmp_path, graph).head(1)[0]["image"].shape == (2, 1, 28, 28)
