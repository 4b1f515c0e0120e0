"""The containers of one test: hosts and clients on one tmpfs, otherwise apart (their own PID, network and IPC namespaces)."""

from __future__ import annotations

import json
import os
import select
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from engine import Engine

WATCHDOG_SECONDS = 60.0
FILES = ["shmbridge.default.lock", "shmbridge.default.sock"]
"""What a living host has in /dev/shm, and a killed one leaves there."""
TELLING = "/inside/telling_policy.py:TellingPolicy"
COUNTING = "/inside/counting_environment.py:CountingEnvironment"
_INSIDE = Path(__file__).parent / "inside"
_LOOK_SECONDS = 0.05
_USED = """
import json, os
found = os.statvfs("/dev/shm")
print(json.dumps([(found.f_blocks - found.f_bfree) * found.f_frsize, sorted(os.listdir("/dev/shm"))]))
"""


class Ending(NamedTuple):
    """When, on the monotonic clock that all containers share, an end was asked for and the first process was gone."""

    asked: float
    gone: float


class Box:
    """One container.

    Attributes:
        name: What the engine calls it.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name

    @property
    def state(self) -> dict[str, Any]:
        """What the engine says of it: ``Status``, ``ExitCode``, ``OOMKilled``, ``Pid`` and more."""
        found: dict[str, Any] = json.loads(self._engine.inspect(self.name, "{{json .State}}"))
        return found

    @property
    def logs(self) -> str:
        """All that it wrote, over all its starts."""
        return self._engine.logs(self.name)

    @property
    def timed_logs(self) -> str:
        """The same, each line with the time at which the engine got it."""
        finished = self._engine.call("logs", "--timestamps", self.name)
        return finished.stdout + finished.stderr

    @property
    def events(self) -> list[dict[str, Any]]:
        """What an ``inside/client.py`` in it told."""
        return [json.loads(line) for line in self.logs.splitlines() if line.startswith('{"event"')]

    def wait(self) -> int:
        """Wait for its end and return its exit status."""
        return int(self._engine.call("wait", self.name, timeout=WATCHDOG_SECONDS).stdout)

    def ended(self) -> dict[str, Any]:
        """Wait for its end and return the last event, with the exit ``status`` in it."""
        status = self.wait()
        events = self.events
        assert events, f"{self.name} ended with status {status} and told nothing:\n{self.logs}"
        return {**events[-1], "status": status}

    def until_told(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until ``event`` was told so often; return the last one."""
        found: list[dict[str, Any]] = self._until(lambda: [each for each in self.events if each["event"] == event], count, event)
        return found[-1]

    def until_said(self, text: str, count: int = 1) -> None:
        """Wait until ``text`` was written so often."""
        self._until(lambda: [text] * self.logs.count(text), count, text)

    def _until(self, look: Callable[[], list[Any]], count: int, what: str) -> list[Any]:
        end = time.monotonic() + WATCHDOG_SECONDS
        while True:
            status = self.state["Status"]  # before the look: what was written until the end counts
            if len(found := look()) >= count:
                return found
            assert time.monotonic() < end and status != "exited", f"{self.name} never came to {what!r}: it is {status} and wrote\n{self.logs}"
            time.sleep(_LOOK_SECONDS)

    def run(self, *words: str) -> str:
        """Run a command in it and return what it printed on stdout."""
        return self._engine.call("exec", self.name, *words, timeout=WATCHDOG_SECONDS).stdout

    def call(self, *words: str) -> None:
        """Let the engine do something with it: ``stop``, ``kill``, ``start``, ``pause`` and so on, with its flags."""
        self._engine.call(*words, self.name, timeout=WATCHDOG_SECONDS)

    def end(self, *words: str) -> Ending:
        """Let the engine end it with ``words``, and look at the kernel meanwhile."""
        process = os.pidfd_open(self.state["Pid"])
        try:
            with ThreadPoolExecutor(1) as watch:
                gone = watch.submit(_gone, process)
                asked = time.monotonic()
                self.call(*words)
                return Ending(asked, gone.result())
        finally:
            os.close(process)

    def shared_memory(self) -> tuple[int, list[str]]:
        """Return the bytes used in its /dev/shm, and what has a name there."""
        used, names = json.loads(self.run("python", "-c", _USED))
        return used, names

    def until_nothing_but(self, names: Sequence[str]) -> None:
        """Wait until no byte of its /dev/shm is used, and nothing but ``names`` is there. A host takes a moment to let go of a client."""
        end = time.monotonic() + WATCHDOG_SECONDS
        while (found := self.shared_memory()) != (0, list(names)):
            assert time.monotonic() < end, f"{found[0]} bytes are left, and {found[1]}"
            time.sleep(_LOOK_SECONDS)


class Boxes:
    """Starts containers of both images on one volume. They are removed with the names that ``unique`` gave."""

    def __init__(self, engine: Engine, unique: Callable[[str], str], volume: str, images: tuple[str, str], inside: Path) -> None:
        self._engine = engine
        self._unique = unique
        self._policy_image, self._simulator_image = images
        self.shared = ("--volume", f"{volume}:/dev/shm")
        self._common = ("--network=none", "--volume", f"{inside}:/inside:ro")

    def host(self, *words: str, options: Sequence[str] | None = None, shell: str = "") -> Box:
        """Start ``shmbridge serve`` with ``words``.

        Args:
            words: Its further flags.
            options: For the engine, in place of the shared volume.
            shell: What a shell does, with the command as its arguments; by default the image's own entry point gets them.
        """
        command = ["serve", "--policy_type", TELLING, *words]
        if shell:
            return self._start("host", [self._policy_image, "-c", shell, "sh", "shmbridge", *command], options, "--entrypoint=sh")
        return self._start("host", [self._policy_image, *command], options)

    def ready_host(self, *words: str, options: Sequence[str] | None = None, shell: str = "") -> Box:
        """As :meth:`host`, and wait until it can serve."""
        box = self.host(*words, options=options, shell=shell)
        box.until_said("is ready")
        return box

    def client(self, mode: str, *words: str, options: Sequence[str] | None = None) -> Box:
        """Start ``inside/client.py`` in ``mode`` with a host called ``default``."""
        return self._start("client", [self._simulator_image, "/inside/client.py", "default", mode, *words], options, "--entrypoint=python")

    def runner(self, *words: str, options: Sequence[str] | None = None) -> Box:
        """Start ``shmbridge run`` with ``words``, against a host called ``default``."""
        command = ["run", "--policy_deployment", "remote", "--name", "default", *words, COUNTING]
        return self._start("runner", [self._simulator_image, *command], options)

    def watcher(self) -> Box:
        """Start something that only holds the volume, which would go with the last container, and can look into it."""
        wait = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"
        return self._start("watcher", [self._policy_image, "-c", wait], None, "--entrypoint=python")

    def _start(self, kind: str, command: Sequence[str], options: Sequence[str] | None, *more: str) -> Box:
        name = self._unique(kind)
        self._engine.call("run", "--detach", "--name", name, *self._common, *(self.shared if options is None else options), *more, *command)
        return Box(self._engine, name)


def readable_copy(target: Path) -> Path:
    """Copy ``inside/`` to where any user of a container can read it, whatever the umask that these sources were checked out with."""
    shutil.copytree(_INSIDE, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (target, *target.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def _gone(process: int) -> float:
    poller = select.poll()
    poller.register(process, select.POLLIN)
    assert poller.poll(WATCHDOG_SECONDS * 1000), "the container's first process is still there"
    return time.monotonic()
