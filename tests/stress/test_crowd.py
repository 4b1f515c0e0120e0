"""Twenty clients that join and leave, in every way there is, leave the host as it was.

Twenty seconds of it, or as many as ``SHMBRIDGE_CROWD_SECONDS`` says; 600 is the real thing.
"""

import collections
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import TESTS, eventually, ours_in_shm
from stress.crowd_player import Player, connect

from shmbridge.connecting import describe_host
from shmbridge.errors import HostNotFoundError

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("SHMBRIDGE_CROWD_SECONDS", "20"))
PLACES = 20
SEED = 7
GROWTH_BYTES = 16 << 20
"""How much larger the host may be afterwards: its allocator keeps some of what the largest crowd needed. A session's rings are not counted in, they
are mappings and must be gone."""
SAMPLES = 10
BEGINS = " begins: "
"""What the host's log says of each session."""
EXIT_STATUSES = {0, -signal.SIGKILL}


class Holdings(NamedTuple):
    """What a process holds."""

    descriptors: dict[str, int]
    threads: int
    rings: int
    resident: int

    @property
    def is_alone(self):
        """Whether there is no socket but the one that listens, and no ring."""
        return self.descriptors["socket:[N]"] == 1 and self.rings == 0

    @classmethod
    def of(cls, pid):
        folder = Path("/proc", str(pid))
        links = (re.sub(r"\d+", "N", link) for link in _links(folder / "fd"))
        rings = re.findall(r" /(?:dev/shm/)?#\d+ \(deleted\)$", (folder / "maps").read_text(), re.MULTILINE)
        resident = int(re.search(r"^VmRSS:\s+(\d+) kB$", (folder / "status").read_text(), re.MULTILINE)[1])
        return cls(dict(collections.Counter(links)), len(list((folder / "task").iterdir())), len(rings), resident << 10)


def _links(folder):
    """Yield where the links of a folder lead, but for those that are gone before they are looked at."""
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(entry)


class Crowd:
    """Clients, at most so many at a time."""

    def __init__(self, name, folder, seed):
        self._name, self._folder = name, folder
        self._rng = random.Random(seed)
        self._here = {}
        self.came = self.replies = self.most_sessions = 0
        self.resident = []
        self.ended = collections.Counter()
        self.wrong = []

    def fill(self, places):
        """See off who has ended, and let others in."""
        for process, output in list(self._here.items()):
            if process.poll() is not None:
                self._see_off(process, output)
        while len(self._here) < places:
            self._let_in()

    def empty(self):
        """Wait until all have ended by themselves."""
        eventually(lambda: [self.fill(0), not self._here][1], "the end of the crowd")

    def end(self):
        for process in self._here:
            process.kill()
            process.wait()

    def _let_in(self):
        output = self._folder / str(self.came)
        words = [sys.executable, str(HERE / "crowd_client.py"), self._name, str(self._rng.randrange(1 << 30))]
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        with output.open("w") as file:
            process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
        self._here[process] = output
        self.came += 1

    def _see_off(self, process, output):
        said = output.read_text()
        self.ended[process.returncode] += 1
        if process.returncode not in EXIT_STATUSES or "wrong" in said:
            self.wrong.append(f"status {process.returncode}: {said[-2000:]}")
        right = re.findall(r"^right (\d+)$", said, re.MULTILINE)
        self.replies += int(right[-1]) if right else 0
        output.unlink()
        del self._here[process]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_a_crowd_that_joins_and_leaves_leaves_the_host_as_it_was(unique_name, tmp_path, record_property):
    log = tmp_path / "host"
    policy = ["--policy_type", f"{HERE / 'crowd_policy.py'}:Remembering", "--infer_ms", "0.5"]
    words = [sys.executable, "-m", "shmbridge", "serve", "--name", unique_name, *policy, "--max_sessions", "64", "--timeout_ms", "1000"]
    with log.open("w") as stderr, subprocess.Popen(words, stderr=stderr) as host:
        try:
            eventually(lambda: _sessions(unique_name) == 0, "the host")
            before = _after_a_crowd(unique_name, host.pid, tmp_path, seconds=4.0)[0]
            begun = log.read_text().count(BEGINS)
            after, crowd = _after_a_crowd(unique_name, host.pid, tmp_path, seconds=SECONDS)
            assert is_served(unique_name)
        finally:
            host.terminate()
            host.wait(30)
    said = log.read_text()
    sessions = f"{said.count(BEGINS) - begun} sessions, at most {crowd.most_sessions} at a time"
    resident = [f"{size / 1e6:.1f}" for size in (before.resident, *crowd.resident, after.resident)]
    figures = f"{crowd.came} clients ({dict(crowd.ended)}), {sessions}, {crowd.replies} replies compared; MB resident {' '.join(resident)}; after {after}"
    record_property("crowd", figures)
    print(figures)
    assert crowd.wrong == []
    assert after._replace(resident=0) == before._replace(resident=0)
    assert after.rings == 0
    assert after.resident - before.resident < GROWTH_BYTES
    assert not re.search("Traceback|fault of this host|could not be opened", said), said
    assert host.returncode == 143
    assert ours_in_shm(unique_name) == []


def _after_a_crowd(name, pid, folder, seconds):
    """Let a crowd in for so long, and return what the host holds when all have gone."""
    crowd = Crowd(name, folder, SEED)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            crowd.fill(PLACES)
            crowd.most_sessions = max(crowd.most_sessions, _sessions(name))
            if end - time.monotonic() < seconds * (1 - len(crowd.resident) / SAMPLES):
                crowd.resident.append(Holdings.of(pid).resident)
            time.sleep(0.05)
        crowd.empty()
    finally:
        crowd.end()
    eventually(lambda: _sessions(name) == 0, "the end of the last session")
    assert ours_in_shm(name) == [f"shmbridge.{name}.lock", f"shmbridge.{name}.sock"]
    eventually(lambda: Holdings.of(pid).is_alone, "the end of the last connection and mapping")
    return Holdings.of(pid), crowd


def _sessions(name):
    """Return how many sessions there are; None before there is a host."""
    try:
        return len(describe_host(name, timeout=20.0).clients)
    except HostNotFoundError:
        return None


def is_served(name):
    with connect(name, SEED) as client:
        player = Player(client, SEED)
        player.play(50)
        return player.replies > 0
