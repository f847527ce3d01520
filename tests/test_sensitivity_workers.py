"""Sweeps shared out: processes, a local Dask cluster, workers that die, clusters that do not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphprune as gp
from graphprune.errors import GraphPruneError, InputError
from graphprune.sweep import measure
from graphprune.sweep.curves import Sensitivity
from tests.commandline import refused
from tests.sensitive import dies, planted, stage


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return stage(tmp_path)


def assert_same(a: Sensitivity, b: Sensitivity) -> None:
    for one, two in zip(a.groups, b.groups, strict=True):
        assert one.order == two.order
        np.testing.assert_allclose([p.error for p in one.points], [p.error for p in two.points], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("compensate", [False, True])
def test_processes_measure_the_same(files: tuple[Path, Path], tmp_path: Path, compensate: bool) -> None:
    here = gp.sensitivity(*files, compensate=compensate, cache=tmp_path / "here")
    there = gp.sensitivity(*files, compensate=compensate, cache=tmp_path / "there", jobs=2)
    assert_same(here, there)


@pytest.mark.parametrize("data", ["array", "function", "random"])
def test_data_and_models_that_are_no_files_reach_the_workers(tmp_path: Path, data: str) -> None:
    rng = np.random.default_rng(1)
    array = rng.standard_normal((40, 4, 6, 6)).astype(np.float32)

    def batches() -> Iterator[dict[str, Any]]:
        yield {"x": array[:7]}
        yield {"x": array[7:]}

    given: Any = {"array": array, "function": batches, "random": "random"}[data]
    here = gp.sensitivity(planted(), given, cache=tmp_path / "here")
    assert_same(here, gp.sensitivity(planted(), given, cache=tmp_path / "there", jobs=2))


def dying(monkeypatch: pytest.MonkeyPatch, group: str, tries: Path, times: int) -> None:
    monkeypatch.setattr(measure, "attempt", partial(dies, group, tries, times))


def test_a_worker_that_dies_once_loses_nothing(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, "quiet", tmp_path / "tries", 1)
    found = gp.sensitivity(*files, cache=tmp_path / "cache", jobs=2)
    assert (tmp_path / "tries").read_text() == "xx"
    assert_same(found, gp.sensitivity(*files, cache=tmp_path / "other"))


def test_a_worker_that_dies_twice_is_named_and_the_rest_is_kept(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, "quiet", tmp_path / "tries", 99)
    flags = ("--data", files[1], "--jobs", 2, "--cache", tmp_path / "cache", "--plot", tmp_path / "curves.svg")
    said = refused(
        1, "group quiet.*died twice.*all other results are kept", "analyze", files[0], "--sensitivity", *flags
    )
    assert "loud" not in said and "dead" not in said
    assert (tmp_path / "tries").read_text() == "xx"
    assert not (tmp_path / "curves.svg").exists()
    (file,) = (tmp_path / "cache").iterdir()
    assert len(file.read_text().splitlines()) == 1 + 8  # the head, and all but one of nine
    monkeypatch.undo()
    steps: list[str] = []
    gp.sensitivity(*files, cache=tmp_path / "cache", progress=steps.append)
    assert [s for s in steps if s.endswith("/9")] == ["quiet.out.weight[1] 9/9"]


def fails(place: Any, task: Any) -> Any:
    """Work that goes wrong in an unexpected way."""
    raise MemoryError("out of memory")


def test_what_goes_wrong_in_a_worker_is_said(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "attempt", fails)
    with pytest.raises(GraphPruneError, match=r"MemoryError.*out of memory.*kept"):
        gp.sensitivity(*files, cache=tmp_path / "cache", jobs=2)


def other_model(path: str, place: Any, task: Any) -> Any:
    """A worker on whose machine another model lies under the path."""
    from dataclasses import replace

    from graphprune.sweep.tasks import attempt

    return attempt(replace(place, model=path), task)


def test_a_worker_that_finds_another_model_says_so(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = planted()
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    onnx.save(other, tmp_path / "other.onnx")
    monkeypatch.setattr(measure, "attempt", partial(other_model, str(tmp_path / "other.onnx")))
    with pytest.raises(InputError, match="a worker finds another model"):
        gp.sensitivity(*files, cache=tmp_path / "cache", jobs=2)


# -- clusters --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
    alone = dask.config.set({"distributed.scheduler.allowed-failures": 0})  # a task that killed a worker is given up
    with alone, distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made:
        yield made.scheduler_address


def test_a_dask_cluster_measures_the_same(files: tuple[Path, Path], tmp_path: Path, cluster: str) -> None:
    options = {"compensate": True, "backend": "dask", "address": cluster}
    there = gp.sensitivity(*files, cache=tmp_path / "there", **options)
    assert_same(there, gp.sensitivity(*files, cache=tmp_path / "here", compensate=True))


def test_a_dask_worker_that_dies_loses_nothing(
    files: tuple[Path, Path], tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, "loud", tmp_path / "tries", 1)
    found = gp.sensitivity(*files, cache=tmp_path / "there", backend="dask", address=cluster)
    assert (tmp_path / "tries").read_text() == "xx"
    assert_same(found, gp.sensitivity(*files, cache=tmp_path / "here"))


def test_a_group_that_kills_every_dask_worker_is_named(
    files: tuple[Path, Path], tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, "loud", tmp_path / "tries", 999)
    with pytest.raises(GraphPruneError, match=r"group loud.*died twice"):
        gp.sensitivity(*files, cache=tmp_path / "there", backend="dask", address=cluster)
    (file,) = (tmp_path / "there").iterdir()
    assert len(file.read_text().splitlines()) == 1 + 8


def test_an_address_that_nobody_answers_on(files: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    flags = ("--data", files[1], "--backend", "dask", "--address", address, "--cache", tmp_path / "cache")
    refused(2, f"{address}: no Dask scheduler", "analyze", files[0], "--sensitivity", *flags)
    assert not (tmp_path / "cache").exists()


def test_a_missing_package_is_said(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name, extra in (("distributed", "dask"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=rf"graphprune\[{extra}\]"):
            gp.sensitivity(*files, backend=extra, address="nowhere:1")
