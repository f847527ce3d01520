"""Samples from arrays and their files as inputs of a model."""

from __future__ import annotations

import pickle
import resource
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from graphprune.api import load
from graphprune.data import samples
from graphprune.errors import InputError
from graphprune.graph.model import Graph
from tests.commandline import FASHION
from tests.graphs import Builder


def graph_of(*inputs: tuple[str, list[int | str], int]) -> Graph:
    """A model that passes each input through a Cast."""
    b = Builder("cast")
    names = [b.source(name, shape, dtype) for name, shape, dtype in inputs]
    return load(b.build(*(b.op("Cast", name, to=TensorProto.DOUBLE) for name in names)))


def rows(count: int, width: int = 3) -> Any:
    """Rows whose first entries are their numbers."""
    return np.arange(count, dtype=np.float32)[:, None] + np.zeros(width, np.float32)


FREE = ("x", ["n", 3], TensorProto.FLOAT)


def numbers(feeds: Any) -> list[int]:
    """The numbers of the rows in feeds, in order."""
    return [int(v) for feed in feeds for v in feed["x"][:, 0]]


# -- batches ---------------------------------------------------------------------------------------------


def test_a_free_batch_takes_a_few(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((21, 1, 28, 28), np.float32)
    np.savez(tmp_path / "d.npz", image=images, labels=np.zeros(21, np.int64))
    made = samples(tmp_path / "d.npz", load(FASHION), batch=8)
    assert (len(made), made.count) == (3, 21)
    assert [len(f["image"]) for f in made] == [8, 8, 5]
    assert np.array_equal(np.concatenate([f["image"] for f in made]), images)
    assert [list(f) for f in made] == [["image"]] * 3
    assert [len(f["image"]) for f in made.head(2, batch=10)] == [10, 10]


def test_a_fixed_batch_is_filled_and_the_rest_dropped(tmp_path: Path) -> None:
    graph = graph_of(("x", [4, 3], TensorProto.FLOAT))
    np.save(tmp_path / "d.npy", np.arange(33, dtype=np.float32).reshape(11, 3))
    feeds = list(samples(tmp_path / "d.npy", graph))
    assert [f["x"].shape for f in feeds] == [(4, 3), (4, 3)]
    assert feeds[1]["x"][0, 0] == 12
    assert len(samples(tmp_path / "d.npy", graph, limit=3)) == 1
    np.save(tmp_path / "d.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="x has 3 samples, the model's batch is fixed at 4"):
        samples(tmp_path / "d.npy", graph)


def test_inputs_without_a_batch_are_stacked(tmp_path: Path) -> None:
    graph = graph_of(("x", ["n", 3], TensorProto.FLOAT), ("mask", [5, 5], TensorProto.BOOL))
    masks = np.random.default_rng(0).random((3, 5, 5)) > 0.5
    np.savez(tmp_path / "d.npz", x=np.ones((3, 3), np.float32), mask=masks)
    feeds = list(samples(tmp_path / "d.npz", graph))
    assert [(f["x"].shape, f["mask"].shape) for f in feeds] == [((1, 3), (5, 5))] * 3
    assert np.array_equal(feeds[2]["mask"], masks[2])


def test_recordings_stay_whole() -> None:
    """A free axis 0 beside states of fixed size is time: nothing is cut along it."""
    graph = graph_of(("x", ["t", 576], TensorProto.FLOAT), ("h", [1, 1, 8], TensorProto.FLOAT))
    clips = [{"x": np.full((t, 576), t, np.float32), "h": np.zeros((1, 1, 8), np.float32)} for t in (50, 7, 90)]
    assert [f["x"].shape for f in samples(clips, graph)] == [(50, 576), (7, 576), (90, 576)]
    stacked = {"x": np.zeros((4, 20, 576), np.float32), "h": np.zeros((4, 1, 1, 8), np.float32)}
    assert [f["x"].shape for f in samples(stacked, graph)] == [(20, 576)] * 4
    one = {"x": np.zeros((20, 576), np.float32), "h": np.zeros((1, 1, 8), np.float32)}
    assert [f["x"].shape for f in samples(one, graph)] == [(20, 576)]


def test_time_of_a_recurrent_layer_is_no_batch() -> None:
    b = Builder("lstm")
    x = b.op("Unsqueeze", b.source("x", ["t", 5]), b.ints(1))
    weights = [b.weight(1, 12, n) for n in (5, 3)]
    graph = load(b.build(b.op("LSTM", x, *weights, hidden_size=3)))
    assert [f["x"].shape for f in samples(np.zeros((70, 5), np.float32), graph)] == [(70, 5)]


def test_time_of_a_convolution_is_no_batch() -> None:
    b = Builder("conv")
    x = b.op("Unsqueeze", b.source("x", ["t", 5]), b.ints(0, 1))
    graph = load(b.build(b.op("Conv", x, b.weight(4, 1, 3, 5), pads=[1, 0, 1, 0])))
    assert [f["x"].shape for f in samples(np.zeros((70, 5), np.float32), graph)] == [(70, 5)]


@pytest.mark.parametrize("source", ["stack", "list", "stream"])
def test_a_fixed_axis_0_that_is_no_batch_is_never_mixed(source: str) -> None:
    """Spectrograms of 4 frames: a limit draws spectrograms, not frames."""
    graph = graph_of(("x", [4, 3], TensorProto.FLOAT))
    clips = np.stack([np.full((4, 3), k, np.float32) for k in range(9)])
    given = {"stack": clips, "list": list(clips), "stream": iter(clips)}[source]
    made = samples(given, graph, limit=5)
    assert (len(made), made.count) == (5, 5)
    assert all(len(np.unique(f["x"])) == 1 for f in made)


def test_a_signal_stays_whole() -> None:
    graph = graph_of(("wave", ["t"], TensorProto.FLOAT))
    assert [f["wave"].shape for f in samples([np.zeros(700, np.float32)], graph)] == [(700,)]


def test_several_inputs_need_as_many_samples(tmp_path: Path) -> None:
    graph = graph_of(("ids", ["n", "t"], TensorProto.INT64), ("mask", ["n", "t"], TensorProto.INT64))
    np.savez(tmp_path / "d.npz", ids=np.ones((9, 7), np.int64), mask=np.ones((9, 7), np.int64))
    assert [f["ids"].shape for f in samples(tmp_path / "d.npz", graph, batch=8)] == [(8, 7), (1, 7)]
    np.savez(tmp_path / "d.npz", ids=np.ones((9, 7), np.int64), mask=np.ones((10, 7), np.int64))
    with pytest.raises(InputError, match=r"different numbers of samples \(ids: 9, mask: 10\)"):
        samples(tmp_path / "d.npz", graph)
    np.save(tmp_path / "d.npy", np.ones((9, 7), np.int64))
    with pytest.raises(InputError, match=r"has 2 inputs \(ids, mask\); give a .npz"):
        samples(tmp_path / "d.npy", graph)


def test_texts_of_different_length_are_not_mixed() -> None:
    graph = graph_of(("ids", ["n", "t"], TensorProto.INT64), ("mask", ["n", "t"], TensorProto.INT64))
    lengths = [5, 5, 5, 7, 7, 5]
    texts = [{"ids": np.full(n, k), "mask": np.ones(n, np.int64)} for k, n in enumerate(lengths)]
    assert [f["ids"].shape for f in samples(texts, graph, batch=2)] == [(2, 5), (1, 5), (2, 7), (1, 5)]


def test_a_number_is_shared_by_all_samples() -> None:
    graph = graph_of(FREE, ("rate", [], TensorProto.INT64))
    feeds = list(samples({"x": rows(5), "rate": np.int64(16000)}, graph, batch=2))
    assert [(f["x"].shape, f["rate"].shape, int(f["rate"])) for f in feeds] == [
        ((2, 3), (), 16000),
        ((2, 3), (), 16000),
        ((1, 3), (), 16000),
    ]
    feeds = list(samples({"x": rows(4), "rate": np.array([1, 1, 2, 2])}, graph))
    assert [(numbers([f]), int(f["rate"])) for f in feeds] == [([0, 1], 1), ([2, 3], 2)]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(0, 5), st.sampled_from(["n", 1, 4]))
def test_every_sample_comes_once_and_in_order(count: int, batch: int, limit: int, seed: int, axis: int | str) -> None:
    graph = _GRAPHS[axis]
    step = batch if axis == "n" else int(axis)
    if count < int(axis == 4) * 4:
        with pytest.raises(InputError, match="the model's batch is fixed at 4"):
            samples(rows(count), graph)
        return
    whole = samples(rows(count), graph, batch=batch)
    kept = count if axis == "n" else count // step * step
    assert numbers(whole) == list(range(kept)) == numbers(whole)
    assert (whole.count, len(whole)) == (1 if axis == count else kept, -(-kept // step))
    some = samples(rows(count), graph, limit=limit, batch=batch, seed=seed)
    wanted = min(kept, limit if axis == "n" else -(-limit // step) * step)
    drawn = numbers(some)
    assert len(set(drawn)) == len(drawn) == wanted
    assert drawn == sorted(drawn) == numbers(samples(rows(count), graph, limit=limit, batch=batch, seed=seed))


_GRAPHS = {axis: graph_of(("x", [axis, 3], TensorProto.FLOAT)) for axis in ("n", 1, 4)}


def test_a_draw_follows_the_seed() -> None:
    first, other = (numbers(samples(rows(99), graph_of(FREE), limit=5, seed=s)) for s in (0, 1))
    assert first != other


# -- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_archives_are_mapped(tmp_path: Path, packed: bool) -> None:
    save = np.savez_compressed if packed else np.savez
    columns = np.asfortranarray(np.random.default_rng(0).random((6, 3), np.float32))
    save(tmp_path / "d.npz", y=np.ones(6), x=columns)
    made = samples(tmp_path / "d.npz", graph_of(FREE), batch=4)
    assert np.array_equal(np.concatenate([f["x"] for f in made]), columns)
    assert all(f["x"].flags.writeable and f["x"].flags.c_contiguous for f in made)
    again = pickle.loads(pickle.dumps(made))
    assert len(pickle.dumps(made)) < 4000
    assert np.array_equal(np.concatenate([f["x"] for f in again]), columns)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    """Ten samples out of a sparse file of 8 GB."""
    array = np.lib.format.open_memmap(tmp_path / "d.npy", "w+", np.float32, (700_000, 3000))
    array[-1] = 5
    del array
    graph = graph_of(("x", ["n", 3000], TensorProto.FLOAT))
    assert [f["x"].shape for f in samples(tmp_path / "d.npy", graph, limit=10)] == [(10, 3000)]


def test_a_folder_of_stacks_and_single_samples(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", rows(4))
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "0.npz", x=rows(1)[0] + 7)
    (tmp_path / "README.txt").write_text("not data")
    (tmp_path / ".hidden.npy").write_text("not data")
    made = samples(tmp_path, graph_of(FREE), batch=3)
    assert [numbers([f]) for f in made] == [[7, 0, 1], [2, 3]]
    assert numbers(pickle.loads(pickle.dumps(made))) == numbers(made)
    assert numbers(samples(tmp_path, graph_of(FREE), limit=5)) == numbers(made)
    np.save(tmp_path / "c.npy", np.full((2, 3), np.nan, np.float32))
    with pytest.raises(InputError, match=r"c\.npy: sample 0: x holds NaN"):
        samples(tmp_path, graph_of(FREE))


def test_a_folder_of_more_files_than_may_be_open(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for k in range(200):
        np.savez(tmp_path / f"{k:03}.npz", x=rows(1) + k)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        made = samples(tmp_path, graph_of(FREE))
        assert numbers(made) == list(range(200))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_folders_without_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder has no"):
        samples(tmp_path, graph_of(FREE))
    with pytest.raises(InputError, match="no such file"):
        samples(tmp_path / "nowhere", graph_of(FREE))


def test_broken_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", x=rows(500))
    whole = (tmp_path / "whole.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        for place in (*rng.integers(0, 160, 2), *rng.integers(len(whole) - 120, len(whole), 2)):
            broken[place] = int(rng.integers(256))
        cut = int(rng.integers(1, len(whole))) if rng.random() < 0.3 else len(whole)
        (tmp_path / "d.npz").write_bytes(bytes(broken[:cut]))
        try:
            assert len(samples(tmp_path / "d.npz", graph_of(FREE), batch=500)) >= 1
        except InputError as error:
            assert str(error).startswith(str(tmp_path / "d.npz"))


# -- types -----------------------------------------------------------------------------------------------


def test_strings(tmp_path: Path) -> None:
    graph = graph_of(("x", [2], TensorProto.STRING))
    np.save(tmp_path / "d.npy", np.array(["1", "2"]))
    (feed,) = samples(tmp_path / "d.npy", graph)
    assert feed["x"].tolist() == ["1", "2"]
    assert feed["x"].dtype == object
    (again,) = samples(iter([["1", "2"]]), graph)
    assert again["x"].tolist() == ["1", "2"]
    with pytest.raises(InputError, match="x is int64, the model's input takes strings"):
        samples([np.array([1, 2])], graph)


def test_half_precision(tmp_path: Path) -> None:
    graph = graph_of(("x", ["n", 2], TensorProto.FLOAT16))
    np.save(tmp_path / "d.npy", np.ones((2, 2), np.float16))
    assert samples(tmp_path / "d.npy", graph).head(1)[0]["x"].dtype == np.float16
    np.save(tmp_path / "d.npy", np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match="x is float32, the model's input is float16"):
        samples(tmp_path / "d.npy", graph)


def test_brain_floats_come_back_from_files(tmp_path: Path) -> None:
    graph = graph_of(("x", ["n", 2], TensorProto.BFLOAT16))
    values = np.array([[1.5, -2], [3, 4]], ml_dtypes.bfloat16)
    np.save(tmp_path / "d.npy", values)
    for source in (tmp_path / "d.npy", iter([values])):
        (feed,) = samples(source, graph)
        assert feed["x"].dtype == ml_dtypes.bfloat16
        assert feed["x"].tolist() == values.tolist()
    with pytest.raises(InputError, match="sample 1: x holds NaN"):
        samples(np.array([[1, 2], [3, np.nan]], ml_dtypes.bfloat16), graph)


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_where_a_value_is_no_number(value: float, what: str) -> None:
    spoilt = rows(90)
    spoilt[77, 1] = value
    with pytest.raises(InputError, match=f"sample 77: x holds {what}"):
        samples(spoilt, graph_of(FREE))
    with pytest.raises(InputError, match=f"sample 77: x holds {what}"):
        samples(spoilt, graph_of(FREE), limit=89, seed=1)


def test_how_many_there_are() -> None:
    made = samples(rows(1), graph_of(FREE))
    with pytest.raises(InputError, match="only one sample; a re-fit needs at least 2"):
        made.require(2, "a re-fit")
    made.require(1, "a re-fit")
    for limit, batch in ((0, 1), (1, 0)):
        with pytest.raises(InputError, match="there must be at least one"):
            samples(rows(1), graph_of(FREE), limit=limit, batch=batch)


def test_opening_the_example() -> None:
    feeds = samples(FASHION.with_name("calibration.npz"), load(FASHION))
    assert onnx.load(FASHION).graph.input[0].name in feeds.head(1)[0]
