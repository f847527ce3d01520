"""Timing in onnxruntime: sessions under one setting, and time per node."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.errors import InputError
from graphprune.graph.custom import libraries
from graphprune.graph.model import Array
from graphprune.graph.run import CannotRun

Clock = Callable[[], float]
CPU = "CPUExecutionProvider"
_UNDISTURBED = 2  # shortest times whose mean stands for all: what disturbs a run only ever makes it longer


@dataclass(frozen=True, slots=True)
class Setting:
    """How onnxruntime runs.

    Attributes:
        provider: Execution provider.
        threads: Threads of one run, 0 for as many as the machine has.
    """

    provider: str = CPU
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise InputError(f"--threads {self.threads}: must be 0 or more")

    @property
    def clock(self) -> Clock:
        """What to time runs with: on one thread of the processor its own time, which other programs do not add to."""
        return time.thread_time if self.threads == 1 and self.provider == CPU else time.perf_counter

    def check(self) -> None:
        """Refuse a provider that this onnxruntime does not have.

        Raises:
            InputError: It is unknown.
        """
        import onnxruntime as ort

        known = ort.get_available_providers()
        if self.provider not in known:
            raise InputError(f"--provider {self.provider}: onnxruntime has {', '.join(known)} here")


@dataclass(frozen=True, slots=True)
class Machine:
    """What times depend on beside the model; times of another machine are not comparable."""

    cpu: str
    onnxruntime: str
    provider: str
    threads: int

    @classmethod
    def here(cls, setting: Setting) -> Machine:
        """This machine under a setting."""
        import onnxruntime as ort

        return cls(_processor(), ort.__version__, setting.provider, setting.threads or os.cpu_count() or 1)

    def __str__(self) -> str:
        return f"{self.cpu}, onnxruntime {self.onnxruntime}, {self.provider}, {self.threads} thread(s)"


@cache
def _processor() -> str:
    """Name of the processor, with the vector instructions that kernels are chosen by."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    found = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    flags = found.get("flags", "").split()
    wide = [f for f in ("avx512f", "avx2") if f in flags][:1]
    return " ".join([found.get("model name") or platform.processor() or platform.machine(), *wide])


def session(
    model: bytes | str,
    setting: Setting,
    *,
    trace: str = "",
    level: str = "all",
    written: str = "",
    without: Sequence[str] = (),
) -> Any:
    """A session on a serialised model or a path.

    Args:
        model: The model.
        setting: How it runs.
        trace: Where to write the profile, "" for none.
        level: "all" or "extended" optimisations.
        written: Where to write the optimised graph, "" for nowhere.
        without: Optimisations to leave out.

    Raises:
        CannotRun: onnxruntime refuses it.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = setting.threads
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if level == "all" else levels.ORT_ENABLE_EXTENDED
    if trace:
        options.enable_profiling, options.profile_file_prefix = True, trace
    if written:
        options.optimized_model_filepath = written
    try:
        for library in libraries():
            options.register_custom_ops_library(library)
        return ort.InferenceSession(model, options, providers=[setting.provider], disabled_optimizers=list(without))
    except Exception as error:
        raise CannotRun(" ".join(str(error).split())[:300]) from None


@dataclass(frozen=True)
class NodeTime:
    """A node as the runtime ran it.

    Attributes:
        name: Its name in the optimised graph.
        op: Its operator.
        seconds: Its time in a run that nothing disturbed.
        inputs: Shapes of the inputs that are there.
        outputs: Shapes of the outputs.
    """

    name: str
    op: str
    seconds: float
    inputs: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()


def node_times(
    model: bytes | str, feed: Mapping[str, Array], setting: Setting, runs: int, **options: Any
) -> list[NodeTime]:
    """Time of every node of the optimised graph, in the order in which they run.

    Raises:
        CannotRun: onnxruntime refuses the model or the inputs.
    """
    with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
        traced = session(model, setting, trace=str(Path(folder) / "trace"), **options)
        try:
            for _ in range(runs + 1):
                traced.run(None, dict(feed))
        except Exception as error:
            raise CannotRun(" ".join(str(error).split())[:300]) from None
        events = json.loads(Path(traced.end_profiling()).read_bytes())
    return _by_node(events)


def _by_node(events: Sequence[Mapping[str, Any]]) -> list[NodeTime]:
    spent: dict[str, list[float]] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            name = name.removesuffix("_kernel_time")
            first.setdefault(name, event["args"])
            spent.setdefault(name, []).append(float(event["dur"]) * 1e-6)
    return [
        NodeTime(
            name,
            str(args.get("op_name", "")),
            undisturbed(spent[name][1:] or spent[name]),
            _shapes(args.get("input_type_shape", ())),
            _shapes(args.get("output_type_shape", ())),
        )
        for name, args in first.items()
    ]


def _shapes(listed: Sequence[Mapping[str, Sequence[int]]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(shape) for entry in listed for shape in entry.values())


def undisturbed(times: Sequence[float]) -> float:
    """What a repeated run takes when nothing comes between."""
    return float(np.sort(np.asarray(times))[:_UNDISTURBED].mean())
