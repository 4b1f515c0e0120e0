"""Encoding mp4 files beside a run: a thread that the run never waits for, and an ffmpeg per file. Both take their share of the cores."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

QUEUE_BYTES = 256 << 20
"""Frames that may wait. More than a run makes while an encoder starts, and bounded: an encoder that is slower than the run loses frames."""
MAX_BYTES = 2 << 30
"""Of all the files of a run together."""
MIN_FREE_BYTES = 256 << 20
"""Left free on the disk."""
FRAMES_PER_SECOND = 30
_LOOK_FRAMES = 200
"""How often the disk is looked at."""
_NICENESS = 10
"""Encoders stand back behind the simulator and the policy."""
_CLOSE_SECONDS = 30.0
_DRAIN_SECONDS = 120.0
_ABANDON_SECONDS = 5.0


class Encoder:
    """Writes frames into one mp4 per key, in a thread of its own. Only :meth:`finish` and :meth:`abandon` wait for it.

    A file gets its name when it is complete; until then it is hidden. What goes wrong in the thread ends the filming, not the run.

    Attributes:
        written: The complete files, in the order in which they ended.
        dropped: Frames left out because the encoders were slower than the run.
        failure: Why no more is filmed, for people; empty while all is well.
    """

    def __init__(self, folder: Path, program: str, *, queue_bytes: int = QUEUE_BYTES, max_bytes: int = MAX_BYTES) -> None:
        """Start the thread.

        Args:
            folder: Where the files go; made when the first begins.
            program: Path of ffmpeg.
            queue_bytes: Frames that may wait.
            max_bytes: Of all files together.
        """
        self._folder, self._program = folder, program
        self._queue_bytes, self._max_bytes = queue_bytes, max_bytes
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._open: dict[int, _Mp4] = {}
        self._frames = 0
        self._abandoned = False
        self.written: list[Path] = []
        self.dropped = 0
        self.failure = ""
        # A daemon, so that an ffmpeg that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="video", daemon=True)
        self._thread.start()

    def admit(self, nbytes: int) -> bool:
        """Return whether a frame of so many bytes can be taken now. One that cannot, although all is well, counts as dropped."""
        if self.failure:
            return False
        if self._waiting + nbytes > self._queue_bytes:
            self.dropped += 1
            return False
        return True

    def add(self, key: int, frame: np.ndarray, scale: str) -> None:
        """Append a frame to the file of ``key``, which begins with it.

        Args:
            key: Of the file; any number.
            frame: (height, width, 3) uint8, sRGB, contiguous; the encoder's from now on. All frames of a file have the same shape.
            scale: What ffmpeg's filter ``scale`` makes of it; empty to leave it as it is.
        """
        with self._lock:
            self._waiting += frame.nbytes
        self._jobs.put(lambda: self._encode(key, frame, scale))

    def end(self, key: int, name: str | None) -> None:
        """Complete the file of ``key`` under ``name``, or throw it away if that is None. Does nothing if there is no such file."""
        self._jobs.put(lambda: self._end(key, name))

    def finish(self) -> None:
        """Wait until everything is written, and throw away what was never ended; with a deadline, after which the rest is thrown away."""
        self._jobs.put(None)
        try:
            self._thread.join(_DRAIN_SECONDS)
        finally:
            if self._thread.is_alive():  # the deadline has passed, or we were interrupted
                self.failure = self.failure or f"the encoders were not done {_DRAIN_SECONDS:.0f} s after the run"
                self.abandon()

    def abandon(self) -> None:
        """Throw away what is not complete, and end the thread."""
        self._abandoned = True
        self._jobs.put(None)
        self._thread.join(_ABANDON_SECONDS)
        if self._thread.is_alive():  # in a write to an ffmpeg that does not read: without its reader the thread goes on, and tidies up
            for mp4 in list(self._open.values()):
                mp4.kill()
            self._thread.join(_ABANDON_SECONDS)

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # where it may not step back, it films all the same
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)  # and of what it starts
        while (job := self._jobs.get()) is not None and not self._abandoned:
            try:
                job()
            except Exception as error:  # whatever it is, the run is worth more than its videos
                self._stop(str(error))
        self._discard_all()

    def _encode(self, key: int, frame: np.ndarray, scale: str) -> None:
        with self._lock:
            self._waiting -= frame.nbytes
        if self.failure:
            return
        if self._frames % _LOOK_FRAMES == 0:
            self._look_at_disk()
        self._frames += 1
        if key not in self._open:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._open[key] = _Mp4(self._program, self._folder / f".episode_{key:04d}.mp4", frame.shape, scale)
        self._open[key].add(frame)

    def _end(self, key: int, name: str | None) -> None:
        mp4 = self._open.pop(key, None)
        if mp4 is None:
            return
        if name is None:
            mp4.discard()
        else:
            self.written.append(mp4.close(self._folder / name))

    def _look_at_disk(self) -> None:
        """Raise OSError if there is no room for more. What was filmed so far is kept."""
        used = sum(path.stat().st_size for path in [*self.written, *(mp4.path for mp4 in self._open.values())] if path.exists())
        if used > self._max_bytes:
            raise OSError(f"the videos take {used >> 20} MB, and a run may film {self._max_bytes >> 20} MB")
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if free < MIN_FREE_BYTES:
            raise OSError(f"only {free >> 20} MB are free in {self._folder}, and {MIN_FREE_BYTES >> 20} MB are to stay so")

    def _stop(self, why: str) -> None:
        self.failure = self.failure or why
        self._discard_all()

    def _discard_all(self) -> None:
        for mp4 in self._open.values():
            mp4.discard()
        self._open.clear()


class _Mp4:
    """One file being written by one ffmpeg.

    The program is started here and not by its Python package, which would fork with code to run in the child: in a process with
    threads that can hang, and with a simulator's memory it is slow.
    """

    def __init__(self, program: str, path: Path, shape: tuple[int, ...], scale: str) -> None:
        self.path = path
        # H.264 in the colours that every player knows needs even sides.
        filters = [f"scale={scale}"] * bool(scale) + ["pad=ceil(iw/2)*2:ceil(ih/2)*2"]
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}", "-r", str(FRAMES_PER_SECOND), "-i", "-"]
        codec = ["-vf", ",".join(filters), "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p", "-threads", "1"]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by discard, as the process is
        self._process = subprocess.Popen(
            [program, "-y", "-nostdin", "-loglevel", "error", *source, *codec, "-an", "-movflags", "+faststart", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is ours to deal with
        )

    def add(self, frame: np.ndarray) -> None:
        """Write one frame.

        Raises:
            OSError: ffmpeg ended; the text is its own.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame.data)
        except OSError:
            self._process.wait(_CLOSE_SECONDS)
            raise OSError(self._told()) from None

    def close(self, path: Path) -> Path:
        """Complete the file and move it to ``path``.

        Raises:
            OSError: ffmpeg failed; there is no file.
            subprocess.TimeoutExpired: It did not end.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            if self._process.wait(_CLOSE_SECONDS) != 0:
                raise OSError(self._told())
            return self.path.rename(path)
        finally:
            self.discard()

    def kill(self) -> None:
        """End ffmpeg at once. The file is worth nothing then; any thread may call it."""
        self._process.kill()

    def discard(self) -> None:
        """End ffmpeg, if it still runs, and remove the hidden file. May be called twice."""
        self.kill()
        self._process.wait(_CLOSE_SECONDS)
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # what could not be written is not wanted
        self._errors.close()
        self.path.unlink(missing_ok=True)

    def _told(self) -> str:
        self._errors.seek(0)
        text = self._errors.read(2000).decode(errors="replace").strip()
        return f"ffmpeg ended with status {self._process.returncode}{f': {text}' if text else ''}"
