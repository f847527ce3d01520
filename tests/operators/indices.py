"""Operators that read, write or choose positions at indices."""

from __future__ import annotations

import numpy as np

from tests.operators.case import Array, Case, Sizes, case, one_of

_HALVES = {"sizes": {"c": 6}}
_FLAGS = np.array([True, False, True, True])


def _along(rows: Array, axis: int) -> object:
    """Index tensor for data (n, c) that depends on its place along ``axis`` only."""

    def index(d: Sizes) -> Array:
        return np.tile(rows[None], (d["n"], 1)) if axis == 1 else np.tile(rows[:, None], (1, d["c"]))

    return index


def _grid(*rows: list[int]) -> Array:
    """Coordinates (…, axes) of a box."""
    return np.stack(np.meshgrid(*(np.array(x) for x in rows), indexing="ij"), axis=-1)


CASES: tuple[Case, ...] = (
    case("Gather", "n c", np.array([3, 0, -1, 1]), free="n c", axis=1, **_HALVES),
    case("Gather", "n c", np.array(2), free="n c:5", axis=1, **_HALVES, note="scalar"),
    case("Gather", "n c", np.arange(6).reshape(1, 6, 1), free="n c", axis=1, **_HALVES, note="box"),
    case("Gather", "n c", np.array([[0, 1, 2], [3, 4, 5]]), free="n c:5", axis=1, **_HALVES, note="factors"),
    case("Gather", "n c", lambda d: np.repeat(np.arange(d["c"]), 3), free="n c", extra=3, axis=1, note="repeated"),
    case("Gather", "n c", lambda d: np.tile(np.arange(d["c"]), 2), free="n c", extra=2, axis=1, note="tiled"),
    case("Gather", "v c", "indices a", free="c", bound="v", note="computed"),
    case("Gather", "v c", "picked a b", free="c a b", bound="v", note="computed_and_free"),
    case("Gather", "n c", "indices a b", free="n", bound="c", axis=-1, note="computed_last"),
    case("GatherElements", "n c", "indices n 3", free="", bound="c", axis=1),
    case("GatherElements", "n c", lambda d: np.zeros((d["n"], 3), np.int64), free="n", extra=3, axis=1, note="fixed"),
    case("GatherND", "a b c", "indices 4 1", free="b c", bound="a"),
    case("GatherND", "a b c", "indices a 1", free="c", bound="b", batch_dims=1, note="batch"),
    case("ScatterND", "a b c", "indices 4 1", "4 b c", free="b c", bound="a", sizes={"a": 5}),
    case("ScatterElements", "n c", "indices n 2", "n 2", bound="1", axis=1),
    case("NonZero", "n c", fixed_shape=False),
    case("GatherElements", "n c", _along(np.array([4, 0, -2]), 1), free="n c", axis=1, **_HALVES, note="separable"),
    case(
        "GatherElements", "n c", np.array([[0, 1], [5, 2]]), free="n", extra=2, axis=one_of(1, -1), note="mixed",
        sizes={"n": 4, "c": 6},
    ),
    case(
        "GatherElements", "n c", np.array([[2, 2, 2]]), free="n:3 c", sizes={"n": 4, "c": 6}, note="one_row",
    ),
    case("GatherND", "a b c", np.array([[2], [0], [-1]]), free="a b c", sizes={"a": 5}, note="fixed"),
    case("GatherND", "a b c", _grid([2, 0], [1, 3, 0]), free="a b c", sizes={"a": 4, "b": 5}, note="box"),
    case("GatherND", "a b c", np.array([[0, 1], [1, 0], [3, 3]]), free="c", extra=3, sizes={"a": 4, "b": 5},
         note="pairs"),
    case("GatherND", "a b c", np.array([[0, 1], [0, 4]]), free="a:3 b c", sizes={"a": 4, "b": 5}, note="one_row"),
    case(
        "GatherND", "a b c", lambda d: np.tile(np.array([[2], [1]]), (d["a"], 1, 1)), free="a b c", batch_dims=1,
        sizes={"b": 5}, note="fixed_batch",
    ),
    case("ScatterND", "a b c", np.array([[2], [0], [-1]]), "?3 b c", free="a b c", sizes={"a": 5}, note="fixed"),
    case(
        "ScatterND", "a b c", _grid([2, 0], [1, 3, 0]), "?2 ?3 c", free="a b c", sizes={"a": 4, "b": 5}, opset=18,
        reduction=one_of("none", "add", "mul", "max"), note="box",
    ),
    case("ScatterND", "a b c", np.array([[0, 1], [1, 0], [3, 3]]), "3 c", free="c", sizes={"a": 4, "b": 5},
         note="pairs"),
    case("ScatterND", "a b", _grid([1], [1, 2]), "1 ?2", free="a:3 b", sizes={"a": 4, "b": 5}, note="one_row"),
    case(
        "ScatterElements", "n c", _along(np.array([4, 0, -2]), 1), "n ?3", free="n c", axis=one_of(1, -1), opset=18,
        reduction=one_of("none", "add", "mul", "min"), **_HALVES, note="separable",
    ),
    case(
        "ScatterElements", "n c", _along(np.array([1, 0]), 0), "?2 c", free="n c", sizes={"n": 4}, opset=11,
        note="default_axis",
    ),
    case("ScatterElements", "n c", np.array([[3, 1], [0, 2]]), "?2 2", free="n", axis=1, sizes={"n": 5, "c": 4},
         note="mixed"),
    case("Scatter", "n c", _along(np.array([4, 0, 2]), 1), "n ?3", free="n c", axis=1, opset=9, **_HALVES),
    case("OneHot", "int32 n c", np.array(30, np.int32), np.array([0, 1], np.float32), free="n c",
         axis=one_of(None, 0, 1, -1, -2)),
    case("Compress", "n c", _FLAGS, free="n", axis=one_of(1, -1), fixed_shape=False, sizes={"c": 4}),
    case("Compress", "n c", _FLAGS, fixed_shape=False, note="flat"),
    case("Compress", "n c", "bool c", free="n", axis=1, fixed_shape=False, note="computed"),
)  # fmt: skip
