"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from tests.commandline import FASHION, done
from tests.graphs import GRAPHS


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Times measured by tests are kept beside them, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the example pruned to half of its MACs."""
    folder = tmp_path_factory.mktemp("pruned")
    done("prune", FASHION, folder / "small.onnx", "--macs", "50%")
    return folder


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A small residual network as a file."""
    path = tmp_path / "stage.onnx"
    onnx.save(GRAPHS["resnet_stage"](), path)
    return path
