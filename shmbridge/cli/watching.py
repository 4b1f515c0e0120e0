"""What happens beside a run: the progress line and the video of the first episode."""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from shmbridge.cli.console import progress
from shmbridge.client import Client
from shmbridge.rollout import Moment

logger = logging.getLogger(__name__)

_PING_SECONDS = 1.0
_SHOW_SECONDS = 0.1
_FRAMES_PER_SECOND = 30


class Watcher:
    """Follows a run.

    Attributes:
        video: Where the first episode's video is; None while there is none.
    """

    def __init__(self, client: Client, num_episodes: int | None, num_steps: int | None, output_dir: Path | None) -> None:
        self._client = client
        self._by_episodes = num_episodes is not None
        self._progress = progress(num_episodes or num_steps or 0, "episodes" if self._by_episodes else "steps")
        self._video = _video(output_dir)
        self._finished = self._done = self._step = 0
        self._successes: list[float] = []
        self._state, self._asked = "", 0.0
        self._shown = 0.0
        self._started = time.monotonic()
        self.video: Path | None = None

    def watch(self, moment: Moment) -> None:
        """Take one step's moment in."""
        self._finished += len(moment.finished)
        self._successes += [episode.metrics["success_rate"] for episode in moment.finished if "success_rate" in episode.metrics]
        if self._video is not None:
            self._record(self._video, moment)
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
        if self._video is not None:
            self._video.drop()

    def _text(self, step: int) -> str:
        if time.monotonic() - self._asked >= _PING_SECONDS:
            self._asked = time.monotonic()
            status = self._client.ping(timeout=_PING_SECONDS)
            self._state = status.state.value if status else "silent"
        success = f"success {np.mean(self._successes):.2f}  " if self._successes else ""
        return f"{success}{step / (time.monotonic() - self._started):.1f} steps/s  host {self._state}"

    def _record(self, video: _Video, moment: Moment) -> None:
        first = next((episode for episode in moment.finished if episode.env_id == 0), None)
        if first is not None:
            self.video = video.finish(bool(first.metrics.get("success_rate")))
            self._video = None
        else:
            video.add({name: array[0] for name, array in moment.observation.items()})


def _video(folder: Path | None) -> _Video | None:
    if folder is None:
        return None
    if importlib.util.find_spec("imageio") is None:
        logger.info("no video: imageio is not installed here (pip install 'shmbridge[video]')")
        return None
    return _Video(folder)


class _Video:
    """An mp4 of one environment's cameras, side by side and at half size."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "episode_0.mp4"
        self._writer: Any = None

    def add(self, observation: dict[str, np.ndarray]) -> None:
        """Append one frame, if there are cameras in it."""
        frames = [array[::2, ::2] for array in observation.values() if array.ndim == 3 and array.shape[-1] == 3 and array.dtype == np.uint8]
        if not frames:
            return
        if self._writer is None:
            self._writer = self._open()
        self._writer.append_data(np.hstack([frame for frame in frames if frame.shape[0] == frames[0].shape[0]]))

    def finish(self, success: bool) -> Path | None:
        """Close the file and return it under a name that tells how the episode went; None if there was no camera."""
        if self._writer is None:
            return None
        self._writer.close()
        self._writer = None
        return self._path.rename(self._folder / f"episode_0_{'success' if success else 'failure'}.mp4")

    def drop(self) -> None:
        """Close and remove an unfinished file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._path.unlink(missing_ok=True)

    def _open(self) -> Any:
        import imageio  # optional: the extra 'video'; Watcher looked whether it is there

        self._folder.mkdir(parents=True, exist_ok=True)
        for older in self._folder.glob("episode_0_*.mp4"):
            older.unlink()
        return imageio.get_writer(self._path, fps=_FRAMES_PER_SECOND, macro_block_size=8)
