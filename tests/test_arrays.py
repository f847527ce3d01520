"""Samples from files as inputs of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from graphprune.api import load
from graphprune.data.arrays import BATCH, load_feeds
from graphprune.errors import InputError
from graphprune.graph.model import Graph
from tests.commandline import FASHION
from tests.graphs import Builder


def graph_of(*inputs: tuple[str, list[int | str], int]) -> Graph:
    """A model that passes each input through a Cast."""
    b = Builder("cast")
    names = [b.source(name, shape, dtype) for name, shape, dtype in inputs]
    return load(b.build(*(b.op("Cast", name, to=TensorProto.DOUBLE) for name in names)))


def test_a_free_batch_takes_a_few(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((21, 1, 28, 28), np.float32)
    np.savez(tmp_path / "d.npz", image=images, labels=np.zeros(21, np.int64))
    feeds = load_feeds(tmp_path / "d.npz", load(FASHION), limit=9)
    assert [len(f["image"]) for f in feeds] == [BATCH, BATCH, 21 - 2 * BATCH]
    assert np.array_equal(np.concatenate([f["image"] for f in feeds]), images)
    assert [list(f) for f in feeds] == [["image"]] * 3
    assert len(load_feeds(tmp_path / "d.npz", load(FASHION))) == 2


def test_a_fixed_batch_is_respected(tmp_path: Path) -> None:
    graph = graph_of(("x", [4, 3], TensorProto.FLOAT))
    np.save(tmp_path / "d.npy", np.arange(33, dtype=np.float32).reshape(11, 3))
    feeds = load_feeds(tmp_path / "d.npy", graph, limit=5)
    assert [f["x"].shape for f in feeds] == [(4, 3), (4, 3)]
    assert feeds[1]["x"][0, 0] == 12
    np.save(tmp_path / "d.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="x has 3 samples, the model's batch is fixed at 4"):
        load_feeds(tmp_path / "d.npy", graph)


def test_inputs_without_a_batch_are_stacked(tmp_path: Path) -> None:
    graph = graph_of(("x", ["n", 3], TensorProto.FLOAT), ("mask", [5, 5], TensorProto.BOOL))
    masks = np.random.default_rng(0).random((3, 5, 5)) > 0.5
    np.savez(tmp_path / "d.npz", x=np.ones((3, 3), np.float32), mask=masks)
    feeds = load_feeds(tmp_path / "d.npz", graph, limit=5)
    assert [(f["x"].shape, f["mask"].shape) for f in feeds] == [((1, 3), (5, 5))] * 3
    assert np.array_equal(feeds[2]["mask"], masks[2])


def test_several_inputs_need_as_many_samples(tmp_path: Path) -> None:
    graph = graph_of(("ids", ["n", "t"], TensorProto.INT64), ("mask", ["n", "t"], TensorProto.INT64))
    np.savez(tmp_path / "d.npz", ids=np.ones((9, 7), np.int64), mask=np.ones((9, 7), np.int64))
    assert [f["ids"].shape for f in load_feeds(tmp_path / "d.npz", graph)] == [(8, 7), (1, 7)]
    np.savez(tmp_path / "d.npz", ids=np.ones((9, 7), np.int64), mask=np.ones((10, 7), np.int64))
    with pytest.raises(InputError, match=r"different numbers of samples \(ids: 9, mask: 10\)"):
        load_feeds(tmp_path / "d.npz", graph)
    np.save(tmp_path / "d.npy", np.ones((9, 7), np.int64))
    with pytest.raises(InputError, match=r"has 2 inputs \(ids, mask\); give a .npz"):
        load_feeds(tmp_path / "d.npy", graph)


def test_strings(tmp_path: Path) -> None:
    graph = graph_of(("x", [2], TensorProto.STRING))
    np.save(tmp_path / "d.npy", np.array(["1", "2"]))
    (feed,) = load_feeds(tmp_path / "d.npy", graph)
    assert feed["x"].tolist() == ["1", "2"]
    assert feed["x"].dtype == object


def test_half_precision(tmp_path: Path) -> None:
    graph = graph_of(("x", ["n", 2], TensorProto.FLOAT16))
    np.save(tmp_path / "d.npy", np.ones((2, 2), np.float16))
    assert load_feeds(tmp_path / "d.npy", graph)[0]["x"].dtype == np.float16
    np.save(tmp_path / "d.npy", np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match="x is float32, the model's input is float16"):
        load_feeds(tmp_path / "d.npy", graph)


def test_opening_the_example() -> None:
    feeds = load_feeds(FASHION.with_name("calibration.npz"), load(FASHION))
    assert onnx.load(FASHION).graph.input[0].name in feeds[0]
