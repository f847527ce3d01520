"""Who does the work of a sweep: this process, processes of this machine, or a cluster of Dask or Ray, by joblib."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from graphprune.errors import GraphPruneError, InputError
from graphprune.sweep.tasks import Outcome, Place, Task

BACKENDS = ("processes", "dask", "ray")
_SECONDS = 10  # to wait for a cluster

Attempt = Callable[[Place, Task], Outcome]
Run = Callable[[Callable[[Task], Outcome], Iterable[Task]], Iterator[Outcome]]

_DEATHS = {
    "BrokenProcessPool",
    "TerminatedWorkerError",
    "KilledWorker",
    "WorkerCrashedError",
    "RayActorError",
    "ActorDiedError",
}


class Lost(Exception):
    """A worker died over its task."""


@dataclass(frozen=True)
class Workers:
    """How many there are, and where.

    Attributes:
        jobs: How many tasks are worked on at once; None for one in this process, or all that a cluster has.
        backend: "processes", "dask" or "ray".
        address: Where the cluster's scheduler answers.

    Raises:
        InputError: There is no such backend, or the address is missing or out of place.
    """

    jobs: int | None = None
    backend: str = BACKENDS[0]
    address: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InputError(f"--backend {self.backend}: unknown; there are {', '.join(BACKENDS)}")
        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"--jobs {self.jobs}: there must be at least one")
        if (self.backend == BACKENDS[0]) != (self.address is None):
            said = "is for --backend dask and ray" if self.address else "is missing: say where the scheduler answers"
            raise InputError(f"--address {self.address or ''}".rstrip() + f" {said}")

    @property
    def here(self) -> bool:
        """Whether all is done in this process."""
        return self.backend == BACKENDS[0] and self.jobs in (None, 1)

    @property
    def threads(self) -> int:
        """Threads for each session; 0 for as many as there are."""
        if self.here:
            return 0
        return max(1, (os.cpu_count() or 1) // (self.jobs or 1)) if self.backend == BACKENDS[0] else 1

    @contextmanager
    def ready(self) -> Iterator[Run]:
        """What carries out tasks, in any order, while the context lasts.

        Raises:
            InputError: Nobody answers at the address, or a package is missing.
        """
        if self.here:
            yield map
            return
        with ExitStack() as stack:
            if self.backend == "dask":
                options = _dask(self.address or "", stack)
            elif self.backend == "ray":
                options = _ray(self.address or "", stack)
            else:
                options = {"backend": "loky"}
            yield partial(_shared_out, {"n_jobs": self.jobs or -1, **options})


def _shared_out(options: Any, work: Callable[[Task], Outcome], tasks: Iterable[Task]) -> Iterator[Outcome]:
    """Outcomes as they come.

    Raises:
        Lost: A worker died.
        GraphPruneError: What a worker says about its model or data, or that it could not begin.
    """
    import joblib

    try:
        with joblib.parallel_config(**options):
            parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
            yield from parallel(joblib.delayed(work)(task) for task in tasks)
    except GraphPruneError:
        raise
    except Exception as error:
        names = {c.__name__ for c in type(error).__mro__}
        text = " ".join(str(error).split())[:300]
        if names & _DEATHS:
            raise Lost(text) from None
        raise GraphPruneError(f"the workers failed: {type(error).__name__}: {text}; results so far are kept") from error


def _dask(address: str, stack: ExitStack) -> dict[str, Any]:
    try:
        import distributed
    except ImportError:
        raise InputError('--backend dask needs Dask: pip install "graphprune[dask]"') from None
    try:
        client: Any = distributed.Client
        client = stack.enter_context(client(address, timeout=_SECONDS, set_as_default=False))
        client.wait_for_workers(1, timeout=_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(f"--address {address}: no Dask scheduler with workers answers ({_short(error)})") from None
    from graphprune.sweep.cluster import dask_cluster

    return {"backend": dask_cluster(client)}


def _ray(address: str, stack: ExitStack) -> dict[str, Any]:
    try:
        import ray
    except ImportError:
        raise InputError('--backend ray needs Ray: pip install "graphprune[ray]"') from None
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        if host and port.isdigit():  # Ray itself asks for minutes, then ends the process
            socket.create_connection((host, int(port)), timeout=_SECONDS).close()
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except (Exception, SystemExit) as error:
        raise InputError(f"--address {address}: no Ray cluster answers ({_short(error)})") from None
    stack.callback(ray.shutdown)
    from graphprune.sweep.cluster import ray_cluster

    return {"backend": ray_cluster(ray)}


def _short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
