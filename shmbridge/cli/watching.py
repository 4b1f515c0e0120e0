"""What a person sees while a run goes on: the progress line."""

from __future__ import annotations

import time
from types import TracebackType

import numpy as np

from shmbridge.cli.console import progress
from shmbridge.client import Client
from shmbridge.rollout import Moment

_PING_SECONDS = 1.0
_SHOW_SECONDS = 0.1


class Watcher:
    """Follows a run and says how far it is. Use it in a ``with`` block around the run."""

    def __init__(self, client: Client, num_episodes: int | None, num_steps: int | None) -> None:
        self._client = client
        self._by_episodes = num_episodes is not None
        self._progress = progress(num_episodes or num_steps or 0, "episodes" if self._by_episodes else "steps")
        self._finished = self._done = self._step = 0
        self._successes: list[float] = []
        self._state, self._asked = "", 0.0
        self._shown = 0.0
        self._started = time.monotonic()

    def watch(self, moment: Moment) -> None:
        """Take one step's moment in."""
        self._finished += len(moment.finished)
        self._successes += [episode.metrics["success_rate"] for episode in moment.finished if "success_rate" in episode.metrics]
        self._step = moment.step
        self._done = self._finished if self._by_episodes else moment.step
        if moment.finished or time.monotonic() - self._shown >= _SHOW_SECONDS:
            self._shown = time.monotonic()
            self._progress.show(self._done, self._text(moment.step))

    def __enter__(self) -> Watcher:
        self._progress.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self._progress.show(self._done, self._text(self._step))
        self._progress.__exit__(kind, value, traceback)

    def _text(self, step: int) -> str:
        if time.monotonic() - self._asked >= _PING_SECONDS:
            self._asked = time.monotonic()
            status = self._client.ping(timeout=_PING_SECONDS)
            self._state = status.state.value if status else "silent"
        success = f"success {np.mean(self._successes):.2f}  " if self._successes else ""
        return f"{success}{step / (time.monotonic() - self._started):.1f} steps/s  host {self._state}"
