"""SIGKILL of either side while the other waits, and at arbitrary moments; on one machine, and with both halves in namespaces of their own."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shmbridge.connecting import describe_host
from shmbridge.memory.naming import lock_path
from shmbridge.memory.posix import lock_file
from shmbridge.testing import leftovers, unique_name
from shmbridge.transport.listener import LocalListener

HERE = Path(__file__).parent
NAMESPACES = ["unshare", "--pid", "--net", "--mount", "--ipc", "--fork", "--mount-proc", "--kill-child"]
SEED = 7


def _can_unshare():
    return shutil.which("unshare") is not None and subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(params=["plain", "namespaces"])
def prefix(request):
    if request.param == "plain":
        return []
    if os.geteuid() != 0 or not _can_unshare():
        pytest.skip("private namespaces need root and unshare")
    return NAMESPACES


@contextlib.contextmanager
def started(prefix, *words):
    """Run a process, perhaps in namespaces of its own; yield it and the process to kill."""
    with subprocess.Popen([*prefix, sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            kill(process)
            process.communicate(timeout=30)


def kill(process):
    """SIGKILL the innermost process and wait until it is gone; return when the signal was sent."""
    with contextlib.suppress(psutil.NoSuchProcess):
        inner = _inner(process)
        sent = time.monotonic()
        inner.kill()
        process.wait(30)
        return sent
    return time.monotonic()


def host_words(name):
    return ["-m", "shmbridge", "serve", "--name", name, "--policy_type", f"{HERE / 'sleepy_policy.py'}:SleepyPolicy"]


def client_words(name, mode):
    return [str(HERE / "killed_client.py"), name, mode]


def _inner(process):
    """Return the Python process: the child of ``unshare``, or the process itself."""
    found = psutil.Process(process.pid)
    return next(iter(found.children(recursive=True)), found)


def is_served(name, prefix):
    """Whether a fresh client is answered, and leaves in peace."""
    with started(prefix, *client_words(name, "once")) as client:
        return client.stdout.readline() == "answered\n" and client.wait(30) == 0


def clean_up(name):
    """Be the next of that name, as the next host would be."""
    LocalListener(name).close()


def test_killed_host_is_noticed_by_the_waiting_client_which_names_it(prefix, record_property):
    name = unique_name()
    with started(prefix, *host_words(name)) as host, started(prefix, *client_words(name, "wait")) as client:
        assert client.stdout.readline() == "answered\n"
        _until_busy(name)
        sent = kill(host)
        found = json.loads(client.stdout.readline())
    record_property("noticed_after_ms", round((found["at"] - sent) * 1e3, 2))
    print(f"client noticed after {(found['at'] - sent) * 1e3:.1f} ms: {found['text']}")
    assert (found["peer"], found["phase"], found["sequence"]) == (f"host '{name}'", "waiting for an action", 2)
    assert set(leftovers(name)) <= {f"shmbridge.{name}.lock", f"shmbridge.{name}.sock"}
    with started(prefix, *host_words(name)):
        assert is_served(name, prefix), "the next host of that name does not serve"
    clean_up(name)
    assert leftovers(name) == []


def test_killed_client_is_noticed_and_the_next_one_served_at_once(prefix):
    name = unique_name()
    with started(prefix, *host_words(name)) as host:
        for _ in range(5):
            with started(prefix, *client_words(name, "loop")) as client:
                assert client.stdout.readline() == "answered\n"
                kill(client)
            assert is_served(name, prefix), "the killed client still holds the place"
        assert set(leftovers(name)) == {f"shmbridge.{name}.lock", f"shmbridge.{name}.sock"}
        _terminate(host)
        said = host.stderr.read()
    assert said.count("is gone without a goodbye") == 5
    assert leftovers(name) == []


@pytest.mark.slow
def test_clients_killed_at_any_moment_leave_nothing_and_do_not_hurt_the_next():
    name = unique_name()
    moments = random.Random(SEED)
    with started([], *host_words(name)) as host:
        assert is_served(name, [])
        for _ in range(25):
            with started([], *client_words(name, "loop")) as client:
                time.sleep(moments.uniform(0.05, 0.45))
                kill(client)
        assert is_served(name, [])
        assert describe_host(name).clients == []
        assert set(leftovers(name)) == {f"shmbridge.{name}.lock", f"shmbridge.{name}.sock"}
        _terminate(host)
    assert leftovers(name) == []


@pytest.mark.slow
def test_hosts_killed_at_any_moment_are_replaced_and_leave_nothing():
    name = unique_name()
    moments = random.Random(SEED)
    for _ in range(15):
        with started([], *host_words(name)) as host, started([], *client_words(name, "loop")) as client:
            time.sleep(moments.uniform(0.1, 0.6))
            kill(host)
            kill(client)
    lock = lock_file(lock_path(name))
    assert lock is not None, "a dead host still holds its name"
    os.close(lock)
    with started([], *host_words(name)) as host:
        assert is_served(name, [])
        _terminate(host)
    assert leftovers(name) == []


def _until_busy(name):
    for _ in range(500):
        status = describe_host(name).status
        if status.state.value == "BUSY":
            return
        time.sleep(0.01)
    raise AssertionError(f"the host never got busy: {status}")


def _terminate(host):
    _inner(host).send_signal(signal.SIGTERM)
    host.wait(30)
