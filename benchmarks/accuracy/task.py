"""What a task is: a trained file, unlabelled inputs to calibrate with, other inputs to measure on."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

if TYPE_CHECKING:
    from torch import nn

Array = npt.NDArray[Any]
Feed = dict[str, Array]
Predictor = Callable[[Feed], list[Array]]

ROOT = Path(__file__).parents[2]


def threads() -> int:
    """Threads of a runtime: `$OMP_NUM_THREADS`, or one."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def shared_data(name: str) -> Path:
    """A file of `$GRAPHPRUNE_DATA`, or of the folder `shared/data` in or above the repository.

    Raises:
        FileNotFoundError: It is in none of them.
    """
    chosen = os.environ.get("GRAPHPRUNE_DATA")
    folders = [Path(chosen)] if chosen else [up / "shared" / "data" for up in (ROOT, *ROOT.parents)]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name}: set GRAPHPRUNE_DATA to the folder that holds it")


def made_dir() -> Path:
    """Where exported models and decoded inputs are kept."""
    folder = Path(os.environ.get("GRAPHPRUNE_TASKS") or Path.home() / ".cache" / "graphprune" / "tasks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def made(name: str, make: Callable[[Path], None]) -> Path:
    """A file in `made_dir()`, written by `make` when it is not there yet."""
    path = made_dir() / name
    if not path.is_file():
        partial = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
        try:
            make(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def session(model: str | Path | bytes | onnx.ModelProto) -> ort.InferenceSession:
    """A runtime session on `threads()` threads, without warnings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 3
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def predictor(model: Any) -> Predictor:
    """A function from a feed to all outputs.

    Args:
        model: Path or bytes of an ONNX file, a ModelProto, a runtime session, a PyTorch module that takes the values
            of the feed in their order, or such a function already.
    """
    if isinstance(model, str | Path | bytes | onnx.ModelProto):
        model = session(model)
    if isinstance(model, ort.InferenceSession):
        return lambda feed: list(model.run(None, feed))
    if hasattr(model, "parameters"):
        return _module_predictor(model)
    run: Predictor = model
    return run


def _module_predictor(module: nn.Module) -> Predictor:
    import torch

    torch.set_num_threads(threads())
    module.eval()

    def run(feed: Feed) -> list[Array]:
        with torch.no_grad():
            out = module(*(torch.from_numpy(v) for v in feed.values()))
        return [v.numpy() for v in (out if isinstance(out, tuple | list) else [out])]

    return run


def batches(data: Mapping[str, Array], size: int) -> Iterable[Feed]:
    """Stacked samples in feeds of at most `size`."""
    count = len(next(iter(data.values())))
    for start in range(0, count, size):
        yield {name: value[start : start + size] for name, value in data.items()}


def stacked(model: Any, data: Mapping[str, Array], batch: int = 32, output: int = 0) -> Array:
    """One output for all stacked samples."""
    run = predictor(model)
    return np.concatenate([run(feed)[output] for feed in batches(data, batch)])


def percent(hits: npt.ArrayLike) -> float:
    """Share of true values."""
    return 100 * float(np.mean(np.asarray(hits)))


class Task(ABC):
    """A trained model with a way to tell how good a smaller one is.

    Attributes:
        name: Name of the task.
        metric: What `evaluate` measures.
        targets: What may remain of the MACs.
        aligns: Alignments to measure.
        samples: How many calibration samples the benchmark uses.
        sets: How many calibration sets the benchmark draws for the default.
        data_note: What the samples are.
        for_torch: Whether peers that prune PyTorch modules are measured too.
    """

    name: str
    metric: str
    targets: tuple[str, ...] = ("70%", "50%")
    aligns: tuple[int | str, ...] = ("auto",)
    samples: int = 256
    sets: int = 1
    data_note: str = ""
    for_torch: bool = False

    @abstractmethod
    def path(self) -> Path:
        """The trained ONNX file, fetched or exported on first use."""

    @abstractmethod
    def calibration(self, n: int, seed: int = 0) -> Feed | list[Feed]:
        """Unlabelled samples, none of which `measures` uses: stacked by input name, or a list of feeds.

        Args:
            n: How many.
            seed: Other samples for another seed; the evaluation stays the same.
        """

    @abstractmethod
    def measures(self, model: Any) -> dict[str, float]:
        """All metrics in percent, the one called `metric` first. `model`: see `predictor`."""

    def evaluate(self, model: Any) -> float:
        """The metric in percent."""
        return self.measures(model)[self.metric]

    def module(self) -> nn.Module | None:
        """The same model as a PyTorch module, for peers that want one."""
        return None

    def feeds(self, n: int, seed: int = 0, batch: int = 32) -> list[Feed]:
        """The samples of `calibration` as feeds of at most `batch` samples."""
        found = self.calibration(n, seed)
        return found if isinstance(found, list) else list(batches(found, batch))
