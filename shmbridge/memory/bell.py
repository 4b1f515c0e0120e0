"""A bell: wakes a thread that sleeps in ``poll``. An eventfd, so it has no name, and may be lent to another process by descriptor."""

from __future__ import annotations

import contextlib
import os
import threading


class Bell:
    """Rung by anyone, answered by one thread. Rings while nobody listens add up to one."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._descriptor

    def ring(self) -> None:
        """Wake the listener. Does nothing once the bell is closed: then nobody listens."""
        with self._lock, contextlib.suppress(BlockingIOError):  # so often rung that it cannot count on: it rings all the same
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def silence(self) -> None:
        """Forget all rings so far. The listener looks at its work after this, never before, or it could miss some."""
        with contextlib.suppress(BlockingIOError):  # silent already: a peer that holds it too may have read it
            os.eventfd_read(self._descriptor)

    def close(self) -> None:
        """Close it, once its listener has ended. May be called twice."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
