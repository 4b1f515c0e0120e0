"""What every test gets: a name of its own, and a look at /dev/shm afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers and sample policies, under every import mode of pytest

from helpers import SHM, Child, is_held, is_ours  # found through the line above

from shmbridge import testing  # likewise in order

_ANOTHER_RUN = re.compile(rf"(sem\.)?shmbridge\.test-(?!{os.getpid()}-)[0-9]+-.*")
"""Names of :func:`shmbridge.testing.unique_name` begin with the process, so that runs side by side do not accuse each other."""
_SETTLE_SECONDS = 2.0


# No deadline: how long an example takes says something about the machine, nothing about the library.
hypothesis.settings.register_profile("shmbridge", deadline=None, max_examples=40, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shmbridge")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("needs_root")]
    if marked and not _may_unshare():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a root that may unshare, to mount a tmpfs in a namespace of its own"))


def _may_unshare() -> bool:
    """Whether namespaces can be made here; root in an unprivileged container cannot."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def unique_name() -> str:
    """A host name that no other test uses."""
    return testing.unique_name()


@pytest.fixture
def another_name() -> str:
    """A second one."""
    return testing.unique_name()


@pytest.fixture(autouse=True)
def a_hangup_counts() -> Iterator[None]:
    """Let a SIGHUP have its usual meaning, for what a test starts too: under nohup it is ignored, and that is inherited."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def nothing_left_in_shared_memory() -> Iterator[None]:
    """Fail a test that leaves anything of ours in /dev/shm."""
    before = set(os.listdir(SHM))
    yield
    end = time.monotonic() + _SETTLE_SECONDS
    while (left := _left(before)) and time.monotonic() < end:
        time.sleep(0.05)  # what another run makes goes away by itself
    if left:
        for name in left:
            if f"test-{os.getpid()}-" in name:
                os.unlink(f"{SHM}/{name}")
        pytest.fail(f"left in {SHM}: {', '.join(left)}")


def _left(before: set[str]) -> list[str]:
    return sorted(name for name in set(os.listdir(SHM)) - before if is_ours(name) and not _is_of_another_run(name))


def _is_of_another_run(name: str) -> bool:
    return bool(_ANOTHER_RUN.fullmatch(name)) or (f"test-{os.getpid()}-" not in name and is_held(name))


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Start Python processes that end with the test: ``start(source, *args)``."""
    children: list[Child] = []

    def start_one(source: str, *args: object, **options: object) -> Child:
        children.append(Child(source, *map(str, args), **options))  # type: ignore[arg-type]  # passed on as they are
        return children[-1]

    yield start_one
    for child in children:
        child.kill()
