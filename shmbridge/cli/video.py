"""Filming episodes: which of them, which pixels, and under which names. It costs the run one copy per filmed frame.

The encoding is done elsewhere, in a thread of its own; a frame that it has no room for is not copied.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from shmbridge.cli.encoding import Encoder
from shmbridge.errors import SpecError
from shmbridge.rollout import Episode, Moment
from shmbridge.spec import TensorSpec

logger = logging.getLogger(__name__)

VIDEOS = ("all", "failures", "first", "none")
"""Which episodes are filmed."""
MAX_FILMED = 16
"""Environments filmed at a time: each takes an ffmpeg of about 70 MB."""
HALVED_FROM = 240
"""Rows from which on a camera is filmed at half size."""
FOLDER = "videos"
INSTALL = "pip install 'shmbridge[video]'"
_OURS = re.compile(r"\.?episode_\d{4,}(_[a-z]+)?\.mp4")


class Film:
    """Films the episodes of a run, one mp4 each, named after how the episode went. Use it in a ``with`` block around the run.

    When the block ends, what is complete is written; after an exception only what was complete already is kept.

    Attributes:
        encoder: What became of the frames.
    """

    def __init__(self, encoder: Encoder, which: str, num_episodes: int | None) -> None:
        """Film nothing yet.

        Args:
            encoder: Belongs to the film from now on.
            which: One of :data:`VIDEOS`.
            num_episodes: How many count; None for all.
        """
        self.encoder = encoder
        self._which, self._num_episodes = which, num_episodes
        self._begun: set[int] = set()
        self._unfilmed = False

    def watch(self, moment: Moment) -> None:
        """Take one step's moment in."""
        self._unfilmed = len(moment.episodes) > MAX_FILMED and self._which != "first"
        for env_id in range(min(len(moment.episodes), MAX_FILMED)):
            if env_id in moment.last:
                self._film(int(moment.acted_in[env_id]), moment.last[env_id])
            if self._wants(index := int(moment.episodes[env_id])):
                self._film(index, {name: array[env_id] for name, array in moment.observation.items()})
        for episode in moment.finished:
            self._end(episode.index, outcome(episode))

    def lines(self) -> list[str]:
        """Return what there is to see, and what is missing from it, for people. To be called when the ``with`` block is over."""
        files, encoder = self.encoder.written, self.encoder
        ways = Counter(path.stem.rpartition("_")[2] for path in files)
        found = [f"Videos: {files[0].parent} ({', '.join(f'{count} {how}' for how, count in sorted(ways.items()))})"] if len(files) > 1 else []
        found += [f"Video: {files[0]}"] if len(files) == 1 else []
        found += [f"{encoder.dropped} frames are missing from the videos: the encoders were slower than the run"] if encoder.dropped else []
        found += [f"Only environments 0 to {MAX_FILMED - 1} were filmed"] if self._unfilmed else []
        return found + ([f"Filming stopped early: {encoder.failure}"] if encoder.failure else [])

    def report(self) -> dict[str, object]:
        """Return the same for the report."""
        encoder = self.encoder
        return {"files": sorted(path.name for path in encoder.written), "dropped_frames": encoder.dropped, "stopped": encoder.failure}

    def __enter__(self) -> Film:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None:
            self.encoder.abandon()
            return
        for index in sorted(self._begun):
            self._end(index, "unfinished")
        self.encoder.finish()

    def _wants(self, index: int) -> bool:
        if self._which == "first":
            return index == 0
        return self._num_episodes is None or index < self._num_episodes

    def _film(self, index: int, row: Mapping[str, np.ndarray]) -> None:
        frames = [array for array in row.values() if is_camera(array.shape, array.dtype)]
        step = row_step(frames)
        if frames and self._wants(index) and self.encoder.admit(sum(frame.nbytes for frame in frames) // step):
            self._begun.add(index)
            self.encoder.add(index, side_by_side(frames, step), "iw/2:ih:flags=area" if step == 2 else "")

    def _end(self, index: int, how: str) -> None:
        if index in self._begun:
            self._begun.remove(index)
            is_kept = self._which != "failures" or how not in ("success", "unfinished")
            self.encoder.end(index, f"episode_{index:04d}_{how}.mp4" if is_kept else None)


def outcome(episode: Episode) -> str:
    """Return how an episode went, in a word; ``ended`` where the environment does not say."""
    if "success_rate" not in episode.metrics:
        return "ended"
    return "success" if episode.metrics["success_rate"] else "failure"


def is_camera(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> bool:
    """Whether a tensor is a camera's picture: (height, width, 3) uint8."""
    return len(shape) == 3 and shape[-1] == 3 and dtype == np.uint8


def row_step(frames: Sequence[np.ndarray]) -> int:
    """Return 2 where every second row will do, else 1."""
    return 2 if max((frame.shape[0] for frame in frames), default=0) >= HALVED_FROM else 1


def side_by_side(frames: Sequence[np.ndarray], step: int) -> np.ndarray:
    """Return a copy of the cameras side by side, lower ones filled up with black.

    Only rows are left out here: whole rows are copied six times as fast as single pixels. ffmpeg does the same to the columns.

    Args:
        frames: (height, width, 3) uint8 each.
        step: Every how manieth row is taken.

    Returns:
        (height / step, all widths, 3) uint8, contiguous; the caller's.
    """
    picked = [frame[::step] for frame in frames]
    size = (max(frame.shape[0] for frame in picked), sum(frame.shape[1] for frame in picked), 3)
    is_even = all(frame.shape[0] == size[0] for frame in picked)
    canvas = np.empty(size, np.uint8) if is_even else np.zeros(size, np.uint8)
    column = 0
    for frame in picked:
        canvas[: frame.shape[0], column : column + frame.shape[1]] = frame
        column += frame.shape[1]
    return canvas


def open_film(
    which: str | None, folder: Path | None, observation: Sequence[TensorSpec], num_episodes: int | None, *, wants_cameras: bool = False
) -> Film | None:
    """Return a film of a run, or None where none is wanted or possible; then the reason is logged, unless nobody asked.

    Videos of an earlier run in the same folder are removed.

    Args:
        which: One of :data:`VIDEOS`, or None: all, if it can be.
        folder: Where the run writes; None for nowhere.
        observation: What the policy sees; nothing else is rendered.
        num_episodes: How many count; None for all.
        wants_cameras: Whether cameras were asked for, if videos were not.

    Raises:
        SpecError: An earlier run's videos cannot be removed.
    """
    if folder is None or which == "none":
        return None
    remove_older(folder / FOLDER)
    if not any(is_camera(spec.shape, spec.storage) for spec in observation):
        if which is not None or wants_cameras:
            level = logging.INFO if which is None else logging.WARNING
            logger.log(level, "no video: the policy asks for no camera, that is, for no tensor (height, width, 3) uint8")
        return None
    program = find_ffmpeg()
    if program is None:
        logger.info("no video: imageio-ffmpeg is not installed here (%s)", INSTALL)
        return None
    return Film(Encoder(folder / FOLDER, program), which or "all", num_episodes)


def check_video(which: str | None) -> None:
    """Refuse, before anything is built, a film that cannot be made here.

    Raises:
        SpecError: It was asked for by name, and what encodes it is not installed.
    """
    if which not in (None, "none") and find_ffmpeg() is None:
        raise SpecError(f"--video {which} needs imageio-ffmpeg, which is not installed here: {INSTALL}; or leave it out")


def find_ffmpeg() -> str | None:
    """Return the path of the ffmpeg that imageio-ffmpeg brings or finds, or None."""
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return None
    try:
        # Optional: the extra 'video'.
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except RuntimeError:  # it is there, without a program for this machine
        return None


def older(folder: Path) -> list[Path]:
    """Return the videos that an earlier run left in the folder."""
    return [path for path in folder.glob("*.mp4") if _OURS.fullmatch(path.name)]


def remove_older(folder: Path) -> None:
    """Remove the videos that an earlier run left: their names would stand beside this run's.

    Raises:
        SpecError: One cannot be removed.
    """
    for path in older(folder):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SpecError(f"{path} is of an earlier run and cannot be removed: {error.strerror}; give another --output_dir, or --video none") from None
