"""Samples from Python: items of every form, things that go by only once, and functions of the user."""

from __future__ import annotations

import pickle
from collections import UserDict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader
from torch.utils.data import DataLoader, TensorDataset

from graphprune import trace
from graphprune.api import load
from graphprune.data import records, samples
from graphprune.errors import InputError
from tests.commandline import FASHION
from tests.test_arrays import FREE, graph_of, numbers, rows

PAIR = (("ids", ["n", "t"], TensorProto.INT64), ("mask", ["n", "t"], TensorProto.INT64))


class Reader(CalibrationDataReader):
    """Gives rows one by one, once."""

    def __init__(self, count: int = 7) -> None:
        self.left = iter([{"x": r[None]} for r in rows(count)])

    def get_next(self) -> Any:
        return next(self.left, None)


# -- forms of an item ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [
        rows(1),
        rows(1)[0],
        {"x": rows(1), "label": 3},
        UserDict(x=rows(1)),
        (rows(1), np.array([3])),
        [torch.tensor(rows(1)), torch.tensor([3])],
        (torch.tensor(rows(1), requires_grad=True),),
        ({"x": rows(1)}, 3),
        [0.0, 0.0, 0.0],
        [[0, 0, 0]],
    ],
    ids=repr,
)
def test_items_of_a_model_with_one_input(item: Any) -> None:
    (feed,) = samples([item], graph_of(FREE))
    assert feed["x"].tolist() == [[0, 0, 0]]
    assert feed["x"].dtype == np.float32


@pytest.mark.parametrize(
    "item",
    [
        {"mask": np.ones(4, np.int64), "ids": np.arange(4), "token_type_ids": 0},
        (np.arange(4), np.ones(4, np.int64)),
        [np.arange(4), np.ones(4, np.int64), "label"],
        ((np.arange(4), np.ones(4, np.int64)), 3),
        ({"ids": [0, 1, 2, 3], "mask": [1, 1, 1, 1]}, 3),
    ],
    ids=repr,
)
def test_items_of_a_model_with_two_inputs(item: Any) -> None:
    (feed,) = samples([item], graph_of(*PAIR))
    assert feed["ids"].tolist() == [[0, 1, 2, 3]]
    assert feed["mask"].tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("item", "pattern"),
    [
        ({"y": rows(1)}, "item 1: no array for input x; it has y, the model's inputs are x"),
        (rows(1).astype(np.float64), "item 1: x is float64, the model's input is float32"),
        (rows(1).astype(np.uint8), "item 1: x is uint8"),
        (rows(1, 4), r"item 1: x has shape \(1, 4\), the model's input is \[\?, 3\]"),
        (np.zeros((1, 1, 1, 3), np.float32), r"item 1: x has shape \(1, 1, 1, 3\)"),
        (rows(0), r"item 1: x is empty"),
        (np.full((2, 3), np.inf, np.float32), "item 1.*: x holds infinity"),
        ("text", "item 1: x is <U4"),
        ([[1.0], [1.0, 2.0]], "item 1: x is no array"),
        (object(), "item 1: x is a object, no array"),
        (None, "item 1: x is a NoneType, no array"),
        ([1e300, 0, 0], "item 1.*: x holds infinity"),
    ],
)
@pytest.mark.parametrize("kind", [list, iter])
def test_items_that_do_not_fit(item: Any, pattern: str, kind: Any) -> None:
    with pytest.raises(InputError, match=pattern):
        samples(kind([rows(1), item]), graph_of(FREE))


def test_too_few_arrays_for_the_inputs() -> None:
    with pytest.raises(InputError, match=r"one ndarray for the 2 inputs ids, mask; give a dictionary by name"):
        samples([np.ones((1, 4), np.int64)], graph_of(*PAIR))
    with pytest.raises(InputError, match="1 arrays for the 2 inputs ids, mask"):
        samples([(np.ones((1, 4), np.int64),)], graph_of(*PAIR))
    with pytest.raises(InputError, match=r"different numbers of samples \(ids: 2, mask: 1\)"):
        samples([(np.ones((2, 4), np.int64), np.ones((1, 4), np.int64))], graph_of(*PAIR))


@pytest.mark.parametrize("value", [2**31, -1, 1.5])
def test_plain_numbers_that_do_not_fit_keep_their_type(value: float) -> None:
    with pytest.raises(InputError, match=r"the model's input is (uint8|bool)"):
        samples([[value]], graph_of(("x", ["n", 1], TensorProto.UINT8 if value != 1.5 else TensorProto.BOOL)))


# -- where items come from -------------------------------------------------------------------------------


def thrice() -> Iterator[Any]:
    yield from rows(7)


@pytest.mark.parametrize(
    "source",
    [
        lambda: rows(7),
        lambda: {"x": rows(7)},
        lambda: torch.tensor(rows(7)),
        lambda: list(rows(7)),
        lambda: iter(rows(7)),
        lambda: (r for r in rows(7)),
        lambda: thrice,
        lambda: lambda: list(rows(7)),
        Reader,
        lambda: Reader,
        lambda: TensorDataset(torch.tensor(rows(7)), torch.zeros(7)),
        lambda: DataLoader(TensorDataset(torch.tensor(rows(7)), torch.zeros(7)), batch_size=3),
        lambda: [rows(7)[:5], rows(7)[5:]],
    ],
)
def test_every_source_gives_the_same(source: Any) -> None:
    made = samples(source(), graph_of(FREE), batch=4)
    assert [numbers([f]) for f in made] == [[0, 1, 2, 3], [4, 5, 6]]
    assert numbers(made) == list(range(7))
    assert made.count == 7
    assert numbers(made.head(1)) == [0, 1, 2, 3]
    few = samples(source(), graph_of(FREE), limit=5, batch=4)
    assert (few.count, len(few)) == (5, 2)
    assert numbers(few) == numbers(few)


def test_a_shuffling_loader_gives_the_same_in_every_pass() -> None:
    loader = DataLoader(TensorDataset(torch.tensor(rows(50)), torch.zeros(50)), batch_size=8, shuffle=True)
    made = samples(loader, graph_of(FREE))
    assert numbers(made) == numbers(made)
    assert sorted(numbers(made)) == list(range(50))


def test_an_endless_generator_needs_a_limit() -> None:
    def endless() -> Iterator[Any]:
        k = 0
        while True:
            yield np.full(3, k, np.float32)
            k += 1

    for source in (endless, endless()):
        assert numbers(samples(source, graph_of(FREE), limit=40)) == list(range(40))


def test_a_stream_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="say how many samples to take"):
        samples(iter(rows(50)), graph_of(FREE))


def test_a_generator_function_has_to_repeat_itself() -> None:
    lengths = iter([5, 6])

    def changing() -> Iterator[Any]:
        yield np.ones((1, next(lengths)), np.int64)

    made = samples(changing, graph_of(("ids", ["n", "t"], TensorProto.INT64)))
    with pytest.raises(InputError, match="gives other samples when it is called again"):
        list(made)


def test_errors_of_the_user() -> None:
    def broken() -> Iterator[Any]:
        yield rows(1)
        raise KeyError("no such file in the archive")

    for source in (broken, broken()):
        with pytest.raises(InputError, match="KeyError: 'no such file in the archive'"):
            samples(source, graph_of(FREE))
    with pytest.raises(InputError, match="ZeroDivisionError"):
        samples(lambda: 1 / 0, graph_of(FREE))
    with pytest.raises(InputError, match="float is no source of samples"):
        samples(3.5, graph_of(FREE))
    with pytest.raises(InputError, match="there are no samples"):
        samples([], graph_of(FREE))
    with pytest.raises(InputError, match="there are no samples"):
        samples(iter(()), graph_of(FREE))


def test_lists_can_be_pickled() -> None:
    made = samples(list(rows(5)), graph_of(FREE), limit=3)
    assert numbers(pickle.loads(pickle.dumps(made))) == numbers(made)


def test_strings_and_brain_floats_go_through_a_file() -> None:
    graph = graph_of(("s", ["n", 2], TensorProto.STRING), ("v", ["n", 2], TensorProto.BFLOAT16))
    values = torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)
    (feed,) = samples(iter([{"s": [["a", "längst"], ["", "c"]], "v": values}]), graph)
    assert feed["s"].tolist() == [["a", "längst"], ["", "c"]]
    assert feed["v"].astype(np.float32).tolist() == values.float().tolist()


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=12), st.integers(1, 6))
def test_texts_keep_their_order_whatever_their_length(shapes: list[tuple[int, int]], batch: int) -> None:
    """Neighbours of one length share feeds, and every row arrives."""
    start, items = 0, []
    for count, length in shapes:
        items.append(np.tile(np.arange(start, start + count)[:, None], (1, length)))
        start += count
    for source in (items, iter(items)):
        feeds = [f["ids"] for f in samples(source, _TOKENS, batch=batch)]
        assert [int(v) for f in feeds for v in f[:, 0]] == list(range(start))
        assert all(len(f) <= batch for f in feeds)
        assert all(len(a) == batch or a.shape[1] != b.shape[1] for a, b in pairwise(feeds))


_TOKENS = graph_of(("ids", ["n", "t"], TensorProto.INT64))


# -- modules, random -------------------------------------------------------------------------------------


def test_modules_take_samples_by_placeholder() -> None:
    class Net(torch.nn.Module):
        def forward(self, image: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
            return image * shift

    graph = trace(Net(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    feeds = list(samples([(rows(2), rows(2)), (rows(2), rows(2))], graph))
    assert [sorted(f) for f in feeds] == [["image", "shift"]] * 2
    rests = list(samples(iter([(r, r) for r in rows(5)]), graph))
    assert [f["image"].shape for f in rests] == [(2, 3)] * 2


def test_random_is_drawn_only_when_asked_for() -> None:
    graph = load(FASHION)
    made = samples("random", graph, limit=40)
    first, again = list(made), list(samples("random", graph, limit=40))
    assert [f["image"].shape for f in made] == [(32, 1, 28, 28), (8, 1, 28, 28)]
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0]["image"], samples("random", graph, seed=1).head(1)[0]["image"])
    assert len(np.unique(first[0]["image"][:, 0, 0, 0])) == 32


def test_no_inputs_no_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no inputs"):
        samples("random", graph_of())
