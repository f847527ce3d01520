"""The units of work of a sweep: one group cut alone to one width, in a form that any worker can take."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from graphprune import rules
from graphprune.budget.planner import POSITIONS
from graphprune.calibration import Calibration
from graphprune.calibration.cache import Digest, model_key
from graphprune.coupling.groups import DependencyGraph, analyze
from graphprune.data import samples
from graphprune.data.parts import Feeds, divided
from graphprune.errors import GraphPruneError, InputError
from graphprune.graph.onnx import load
from graphprune.graph.run import CannotRun
from graphprune.importance.obs import Grams, read_grams
from graphprune.plan import Plan, planned_cut
from graphprune.recover.evidence import Evidence


@dataclass(frozen=True)
class Task:
    """A group cut alone.

    Attributes:
        group: Its name.
        removed: Units that leave.
        plan: The plan that takes them, JSON.
    """

    group: str
    removed: int
    plan: str

    @cached_property
    def key(self) -> str:
        """Digest of what leaves, whatever chose it."""
        plan = json.loads(self.plan)
        content = {k: plan.get(k) for k in ("weights", "blocks", "io")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        key: The key of the task.
        group: Its group.
        removed: Units that left.
        error: Error of the outputs; infinite where the model that is left does not run.
        failed: What went wrong in the worker, "" when nothing did.
    """

    key: str
    group: str
    removed: int
    error: float = float("inf")
    failed: str = ""


@dataclass(frozen=True)
class Place:
    """Where a worker finds what it needs; paths must lead to the same files for every worker.

    Attributes:
        model: Path of the model.
        digest: Digest of its content.
        shapes: Sizes of inputs with dynamic axes, as pairs.
        allow_io: Patterns of inputs and outputs that may shrink.
        data: Path of the data, or the word random.
        content: Digest of the samples that outputs are compared on.
        samples: Samples to take, None for all.
        seed: Seed of what is drawn.
        preprocess: How images become inputs, JSON.
        grams: Folder with the sums that compensation works with, "" without.
        threads: Threads of a worker's sessions, 0 for as many as there are.
    """

    model: str
    digest: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    allow_io: tuple[str, ...]
    data: str
    content: str
    samples: int | None
    seed: int
    preprocess: str = "null"
    grams: str = ""
    threads: int = 1


class Bench:
    """A model ready for trial cuts.

    Args:
        deps: The model.
        data: What its outputs are compared on.
        grams: Gram matrices of the layers that make up for what leaves.
        threads: Threads of onnxruntime.

    Raises:
        InputError: The model does not run on the data.
    """

    def __init__(self, deps: DependencyGraph, data: Feeds, grams: Grams, threads: int) -> None:
        self.deps = deps
        try:
            self._evidence = Evidence(deps, grams, data, threads)
        except CannotRun as error:
            raise InputError(f"{deps.source.name}: does not run on the data: {error}") from None

    def __call__(self, task: Task) -> Outcome:
        """Carry out a task; what goes wrong is told, not raised."""
        try:
            cut = planned_cut(self.deps, Plan.model_validate_json(task.plan))
            return Outcome(task.key, task.group, task.removed, self._evidence.error(cut))
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            said = text if isinstance(error, GraphPruneError) else f"{type(error).__name__}: {text}"
            return Outcome(task.key, task.group, task.removed, failed=said)


_lock = threading.Lock()
_open: dict[Place, Bench] = {}  # of this worker, the last one alone


def attempt(place: Place, task: Task) -> Outcome:
    """Carry out a task in a worker; sessions are built with its first task and stay.

    Raises:
        InputError: The worker finds another model or other data there than the one who sent it.
    """
    with _lock:  # threads of one worker take turns
        if place not in _open:
            _open.clear()
            _open[place] = _opened(place)
        return _open[place](task)


def _opened(place: Place) -> Bench:
    graph = load(place.model, input_shapes=dict(place.shapes), ruled=rules.has_rule)
    if model_key(graph) != place.digest:
        raise InputError(f"{place.model}: a worker finds another model there")
    preprocess: Mapping[str, Any] | None = json.loads(place.preprocess)
    data = samples(place.data, graph, limit=place.samples, seed=place.seed, preprocess=preprocess)
    learn, judges = divided(data) if place.grams else (data, data)
    if content_of(judges) != place.content:
        raise InputError(f"{place.data}: a worker finds other data there")
    deps = analyze(graph, place.allow_io)
    found: Grams = {}
    if place.grams:
        kept = Calibration(deps, learn, seed=place.seed, positions=POSITIONS, cache=place.grams, threads=place.threads)
        found = read_grams(deps, kept)
    return Bench(deps, judges, found, place.threads)


def content_of(data: Feeds) -> str:
    """Digest of all samples."""
    digest = Digest()
    for feed in data:
        digest.add(feed)
    return str(digest)
