"""Ctrl-C: it stops the work until every file is in place, and comes too late after that."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_DONE = "done"


class Steps:
    """Passes the names of steps on; once the step "done" begins, an interrupt comes too late.

    Args:
        step: Where the other names go.
    """

    late = False

    def __init__(self, step: Callable[[str], None]) -> None:
        self.step = step

    def __call__(self, name: str) -> None:
        """A step begins."""
        if name == _DONE:
            Steps.late = True
        else:
            self.step(name)


@contextmanager
def interruptible(*, to_the_end: bool) -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C until the files are in place; then the run has succeeded, whatever comes.

    Args:
        to_the_end: Whether the process ends after the block, so that Ctrl-C keeps the meaning it has by then.
    """
    Steps.late = False
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if not Steps.late:
            signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if not to_the_end:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)
