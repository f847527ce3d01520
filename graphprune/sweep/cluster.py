"""Clusters as backends of joblib: every call is a future of the cluster's own, whose failure is told like its result.

Joblib's and Ray's own backends wait forever for a call whose worker died.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joblib.parallel import ParallelBackendBase

Submit = Callable[[Any], Any]


class Cluster(ParallelBackendBase):  # type: ignore[misc]
    """A backend that hands calls to a cluster.

    Args:
        submit: Starts a call, and gives a future with ``add_done_callback`` and ``result``.
        size: How many calls the cluster works on at once.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(self, submit: Submit, size: Callable[[], int], **options: Any) -> None:
        super().__init__(**options)
        self._submit, self._size = submit, size

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Calls at once: what the cluster can do, or fewer where fewer are asked for.

        Two at least, the second waits: of a single one joblib thinks that it can be done in this process.
        """
        size = self._size()
        return max(2, size if n_jobs is None or n_jobs < 1 else min(n_jobs, size))

    def submit(self, func: Any, callback: Any = None) -> Any:
        """Start a call; the callback gets its future, whatever becomes of it."""
        future = self._submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """What a call gave.

        Raises:
            Exception: What the call raised, or what became of its worker.
        """
        return out.result()


def dask_cluster(client: Any) -> Cluster:
    """The workers of a Dask client."""
    return Cluster(lambda call: client.submit(call, pure=False), lambda: sum(client.ncores().values()))


def ray_cluster(ray: Any) -> Cluster:
    """The processors of the Ray cluster that is connected; a call whose worker dies is not repeated by Ray."""
    remote = ray.remote(max_retries=0)(_called)
    return Cluster(lambda call: remote.remote(call).future(), lambda: int(ray.cluster_resources().get("CPU", 1)))


def _called(call: Any) -> Any:
    return call()
