"""``ls``, ``inspect``, ``gc`` and ``doctor`` on real hosts: living, killed, another user's, and starting at the same moment."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import GIVE_UP_SECONDS, Child, eventually, ours_in_shm, run_python

import shmbridge
from shmbridge.memory import naming
from shmbridge.memory.leftovers import collect
from shmbridge.memory.posix import libc_version
from shmbridge.messages import PROTOCOL_VERSION, Hello, Welcome
from shmbridge.protocol import Conversation, Role
from shmbridge.spec import TensorSpec

Q = TensorSpec("q", (3,), "float32")
OTHER_USER = 12345
SERVE = """
import sys
import sample_policies, shmbridge
with shmbridge.serve(sample_policies.TakesAll(), f"shm://{sys.argv[1]}", max_sessions=4) as host:
    print("up")
    host.wait()
"""
COMMAND = "import sys\nfrom shmbridge.cli import main\nstatus = main(sys.argv[1:])\nsys.stdout.flush()\nprint('status', status)"
AS_ANOTHER_USER = f"""
import importlib, os
for name in ("shmbridge", "shmbridge.cli.gc", "shmbridge.cli.doctor", "sample_policies", "psutil", "email.parser"):
    importlib.import_module(name)
os.setgid({OTHER_USER}); os.setuid({OTHER_USER})
"""
"""Everything is imported before: that user may not be able to read it."""
Start = Callable[..., Child]


def run_command(*words: object, prefix: Any = ()) -> tuple[int, str]:
    """Run a command in a process of its own; return its status and what it printed."""
    out, _, status = run_python(COMMAND, *words, prefix=prefix).rstrip().rpartition("status ")
    return int(status), out


def run_json(*words: object, prefix: Any = ()) -> tuple[int, Any]:
    status, out = run_command(*words, "--json", prefix=prefix)
    return status, json.loads(out)


@pytest.fixture
def host(start: Start, unique_name: str) -> Iterator[Child]:
    """A living host called ``unique_name``; what is left of it is removed in the end."""
    child = start(SERVE, unique_name)
    child.expect("up")
    yield child
    child.kill()
    collect(unique_name)


def half_attach(name: str) -> socket.socket:
    """Begin a session and stop before its semaphores' names go."""
    conversation = Conversation(Role.CLIENT)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(GIVE_UP_SECONDS)
    sock.connect(naming.socket_path(name))
    sock.sendall(conversation.send(Hello(PROTOCOL_VERSION, "0", libc_version(), "half a client", 2, 2, [Q])))
    while True:
        data, descriptors, _, _ = socket.recv_fds(sock, 65536, 8)
        for descriptor in descriptors:
            os.close(descriptor)
        assert data, "the host hung up"
        if any(isinstance(message, Welcome) for message in conversation.receive(data)):
            return sock


def test_what_a_host_leaves_that_was_killed_while_a_client_attached_is_removed(host: Child, unique_name: str) -> None:
    with half_attach(unique_name):
        assert len(ours_in_shm(unique_name)) == 6
        host.kill()
        assert len(ours_in_shm(unique_name)) == 6
        assert run_command("ls", "--name", unique_name)[0] == 1
        status, out = run_command("gc", "--dry-run", "--name", unique_name)
        assert status == 0 and out.count("would be removed") == 6 and len(ours_in_shm(unique_name)) == 6
        status, found = run_json("gc", "--name", unique_name)
    assert status == 0
    assert sorted(file["kind"] for file in found["files"] if file["fate"] == "removed") == ["lock", *["semaphore"] * 4, "socket"]
    assert ours_in_shm(unique_name) == []


def test_nothing_of_a_living_host_is_removed_not_even_what_a_client_is_about_to_open(host: Child, unique_name: str) -> None:
    with half_attach(unique_name):
        before = ours_in_shm(unique_name)
        status, found = run_json("gc", "--name", unique_name)
        assert status == 0
        assert {file["fate"] for file in found["files"]} == {"held"}
        assert ours_in_shm(unique_name) == before
    with shmbridge.connect(f"shm://{unique_name}", observation_specs=[Q], num_envs=2) as client:
        client.infer({"q": np.zeros((2, 3), np.float32)})


@pytest.mark.needs_root
def test_a_living_host_is_known_as_such_from_another_pid_namespace(host: Child, unique_name: str) -> None:
    before = ours_in_shm(unique_name)
    status, out = run_command("gc", "--name", unique_name, prefix=["unshare", "--pid", "--fork", "--mount-proc"])
    assert (status, out) == (0, f"in use, left alone: {unique_name}\nnothing to remove\n")
    assert ours_in_shm(unique_name) == before
    assert run_command("ls", "--name", unique_name, prefix=["unshare", "--pid", "--fork", "--mount-proc"])[0] == 0


@pytest.mark.needs_root
def test_what_belongs_to_another_user_is_named_and_left_even_by_root(start: Start, unique_name: str) -> None:
    child = start(AS_ANOTHER_USER + SERVE, unique_name)
    try:
        child.expect("up")
        status, out = run_command("ls", "--name", unique_name)
        assert status == 1 and "another user's" in out and str(OTHER_USER) in out
        child.kill()
        before = ours_in_shm(unique_name)
        assert len(before) == 2
        status, out = run_command("gc", "--name", unique_name)
        assert status == 0
        assert f"of {OTHER_USER}, left alone: {unique_name} (2 files)" in out
        assert ours_in_shm(unique_name) == before
        assert run_python(AS_ANOTHER_USER + COMMAND, "gc", "--name", unique_name).splitlines()[-2:] == ["removed 2 files, 0 B", "status 0"]
        assert ours_in_shm(unique_name) == []
    finally:
        for name in ours_in_shm(unique_name):
            os.unlink(f"{naming.SHM}/{name}")


@pytest.mark.needs_root
def test_another_user_leaves_what_is_ours(host: Child, unique_name: str) -> None:
    host.kill()
    out = run_python(AS_ANOTHER_USER + COMMAND, "gc", "--name", unique_name)
    assert "of root (0), left alone" in out
    assert len(ours_in_shm(unique_name)) == 2


COLLECT = """
import sys, time
from shmbridge.memory.leftovers import Fate, collect
print("collecting")
end = time.monotonic() + 2.0
while time.monotonic() < end:
    assert not [finding for finding in collect(sys.argv[1]) if finding.fate is Fate.FAILED]
print("collected")
"""
LISTEN = """
import os, sys, time
from shmbridge.errors import HostExistsError
from shmbridge.memory import naming
from shmbridge.transport.listener import LocalListener
name, begun, refused = sys.argv[1], 0, 0
end = time.monotonic() + 2.0
while time.monotonic() < end:
    try:
        listener = LocalListener(name)
    except HostExistsError:
        refused += 1
        continue
    begun += 1
    lock = os.fstat(listener._lock)
    for _ in range(20):
        assert os.path.exists(naming.socket_path(name)), "the socket of a living host is gone"
        assert os.path.samestat(lock, os.stat(naming.lock_path(name))), "the lock of a living host is gone"
    listener.close()
print("listened", begun, refused)
"""


def test_two_that_collect_while_hosts_come_and_go_never_take_anything_from_a_living_one(start: Start, unique_name: str) -> None:
    collectors = [start(COLLECT, unique_name) for _ in range(2)]
    for collector in collectors:
        collector.expect("collecting")
    begun, _ = map(int, start(LISTEN, unique_name).expect("listened").split())
    assert begun > 0
    for collector in collectors:
        collector.expect("collected")
    assert ours_in_shm(unique_name) == []


CLIENT = """
import sys, time
import numpy as np
import shmbridge
name, num_envs = sys.argv[1], int(sys.argv[2])
with shmbridge.connect(f"shm://{name}", observation_specs=[shmbridge.TensorSpec("q", (3,), "float32")], num_envs=num_envs) as client:
    print("connected")
    while True:
        client.infer({"q": np.zeros((num_envs, 3), np.float32)})
"""


def test_two_busy_clients_are_shown_without_a_contradiction(host: Child, start: Start, unique_name: str) -> None:
    for num_envs in (2, 5):
        start(CLIENT, unique_name, num_envs).expect("connected")
    for _ in range(5):
        status, found = run_json("inspect", unique_name)
        assert status == 0, found
        assert sorted(client["num_envs"] for client in found["clients"]) == [2, 5]
        for client in found["clients"]:
            assert client["problems"] == []
            assert all(len(ring["states"]) == 2 and ring["digest"] == ring["digest_told"] for ring in client["rings"].values())
    status, found = run_json("ls", "--name", unique_name)
    (listed,) = found["hosts"]
    assert status == 0
    assert {client["uid"] for client in listed["clients"]} == {os.geteuid()}
    assert all(client["counters"]["requests"] > 0 for client in listed["clients"])


def test_a_client_that_hangs_holding_a_slot_is_seen_to(host: Child, unique_name: str) -> None:
    with shmbridge.connect(f"shm://{unique_name}", observation_specs=[Q], num_envs=2) as client:
        slot = client.loan()
        _, found = run_json("inspect", unique_name, "--client", str(os.getpid()))
        assert found["clients"][0]["rings"]["observation"]["states"] == ["being written", "free"]
        slot["q"][...] = 0
        client.infer(slot)
        eventually(lambda: run_json("inspect", unique_name)[1]["clients"][0]["rings"]["observation"]["states"] == ["free", "free"])


def in_a_mount_namespace(mount: str) -> list[str]:
    return ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]


def problems_of(found: Any) -> dict[str, str]:
    return {finding["check"]: finding["found"] for finding in found["findings"] if finding["level"] == "problem"}


@pytest.mark.needs_root
def test_everything_that_dead_hosts_left_goes_at_once_where_there_is_nothing_else() -> None:
    lie = "touch /dev/shm/shmbridge.a.lock /dev/shm/shmbridge.a.sock /dev/shm/sem.shmbridge.b.0.x /dev/shm/shmbridge.c.txt /dev/shm/other"
    shell = in_a_mount_namespace(f"mount -t tmpfs tmpfs /dev/shm && {lie}")
    look = "import os\nprint('left', *sorted(os.listdir('/dev/shm')))"
    out = run_python(f"{COMMAND}\n{look}", "gc", prefix=shell)
    assert "removed 3 files" in out
    assert "nothing that this version makes; left alone: /dev/shm/shmbridge.c.txt" in out
    assert out.splitlines()[-1] == "left other shmbridge.c.txt"
    status, found = run_json("ls", prefix=shell)
    assert status == 1
    assert [(entry["host"], entry["kind"]) for entry in found["leftovers"]] == [("", "unknown"), ("a", "lock"), ("a", "socket"), ("b", "semaphore")]


@pytest.mark.needs_root
def test_a_healthy_tmpfs_has_no_problem_and_is_as_it_was() -> None:
    shell = in_a_mount_namespace("mount -t tmpfs -o mode=1777 tmpfs /dev/shm")
    out = run_python(f"{COMMAND}\nimport os\nprint('left', os.listdir('/dev/shm'))", "doctor", prefix=shell)
    assert "no problems" in out
    assert out.splitlines()[-1] == "left []"


@pytest.mark.needs_root
def test_a_full_tmpfs_is_a_problem_that_names_who_fills_it() -> None:
    fill = "mount -t tmpfs -o size=2m,mode=1777 tmpfs /dev/shm && (dd if=/dev/zero of=/dev/shm/hog bs=4k 2>/dev/null || true)"
    status, found = run_json("doctor", prefix=in_a_mount_namespace(fill))
    assert status == 1
    problems = problems_of(found)
    assert problems["size of /dev/shm"] == "0 B free of 2.1 MB"
    assert "filled up" in problems["use of /dev/shm"] and "no page left for a semaphore" in problems["use of /dev/shm"]
    assert any("hog (2.1 MB, root (0))" in finding["do"] for finding in found["findings"])


@pytest.mark.needs_root
def test_a_folder_on_a_disk_is_a_problem(tmp_path: Path) -> None:
    kind = os.popen(f"stat -f -c %T {tmp_path}").read().strip()
    if kind == "tmpfs":
        pytest.skip("the folder for temporary files is a tmpfs here")
    status, found = run_json("doctor", prefix=in_a_mount_namespace(f"mount --bind {tmp_path} /dev/shm"))
    assert status == 1
    assert "lies in a file system of type" in problems_of(found)["/dev/shm"]


@pytest.mark.needs_root
def test_a_read_only_tmpfs_is_a_problem() -> None:
    status, found = run_json("doctor", prefix=in_a_mount_namespace("mount -t tmpfs -o ro tmpfs /dev/shm"))
    assert status == 1
    assert problems_of(found)["/dev/shm"] == "is mounted read-only"


@pytest.mark.needs_root
def test_a_user_who_may_not_write_there_has_a_problem() -> None:
    shell = in_a_mount_namespace("mount -t tmpfs -o mode=755 tmpfs /dev/shm")
    out = run_python(AS_ANOTHER_USER + COMMAND, "doctor", prefix=shell)
    assert out.endswith("status 1\n")
    text = " ".join(out.split())
    assert "mode 0755, owner root (0); closed to this user" in text
    assert "cannot be made or used: memory without a name" in text


ENVIRONMENT = """
import time
import shmbridge

class Cameras(shmbridge.Environment):
    specs = shmbridge.EnvironmentSpecs([shmbridge.TensorSpec("camera", (480, 640, 3), "uint8")], [shmbridge.TensorSpec("action", (1,), "float32")])

    def __init__(self, config, *, num_envs, **options):
        self.num_envs = num_envs

    reset = step = episode_metrics = close = lambda self, *args, **options: None


class Slow(Cameras):
    def __init__(self, config, **options):
        print("building", flush=True)
        open("building", "w").close()
        time.sleep(1000)
"""


@pytest.fixture
def launch_file(tmp_path: Path, unique_name: str) -> Callable[..., Path]:
    """Write a launch file of a host and a runner."""
    (tmp_path / "code.py").write_text(ENVIRONMENT)

    def write(environment: str, num_envs: int) -> Path:
        here = {"python": sys.executable, "folder": ".", "variables": {"PYTHONPATH": os.pathsep.join([str(Path(shmbridge.__file__).parents[1]), *sys.path])}}
        programs = {
            "host": {**here, "shmbridge": f"serve --name {unique_name} --policy_type shmbridge.testing:MarkingPolicy"},
            "sim": {**here, "shmbridge": f"run --policy_deployment remote --name {unique_name} --num_envs {num_envs} code.py:{environment}"},
        }
        path = tmp_path / "pair.yaml"
        path.write_text(json.dumps({"programs": programs}))  # which is YAML too
        return path

    return write


@pytest.mark.needs_root
def test_a_launch_file_is_compared_with_the_room_there_is(launch_file: Callable[..., Path]) -> None:
    shell = in_a_mount_namespace("mount -t tmpfs -o size=8m,mode=1777 tmpfs /dev/shm")
    status, found = run_json("doctor", launch_file("Cameras", 4), prefix=shell)
    assert status == 0, found
    assert any("need at most 7.7 MB; /dev/shm has 8.4 MB free" in finding["found"] for finding in found["findings"])
    status, found = run_json("doctor", launch_file("Cameras", 5), prefix=shell)
    assert status == 1
    assert problems_of(found) == {"pair.yaml: memory": "/dev/shm has 8.4 MB free of 8.4 MB"}


def test_a_host_that_runs_already_is_found_before_the_launch(host: Child, launch_file: Callable[..., Path], unique_name: str) -> None:
    status, found = run_json("doctor", launch_file("Cameras", 1))
    assert status == 1
    assert problems_of(found) == {"pair.yaml: host": f"a host called {unique_name!r} is running already"}


def test_ctrl_c_ends_the_doctor_and_the_simulator_that_it_has_built(launch_file: Callable[..., Path], start: Start, tmp_path: Path) -> None:
    doctor = start(COMMAND, "doctor", launch_file("Slow", 1))
    eventually((tmp_path / "building").exists, "the building of the environment")
    doctor.interrupt()
    assert doctor.expect("status") == "130"
    assert doctor.finish() == 0
    assert "interrupted" in doctor.errors
    eventually(lambda: not processes_in(tmp_path), "the end of the runner that was asked")


def test_a_simulator_that_is_not_built_in_time_is_a_problem_and_ended(launch_file: Callable[..., Path], tmp_path: Path) -> None:
    status, found = run_json("doctor", launch_file("Slow", 1), "--describe_timeout_s", "3")
    assert status == 1
    assert problems_of(found) == {"pair.yaml: sim": "it does not say in time what it needs"}
    eventually(lambda: not processes_in(tmp_path), "the end of the runner that was asked")


def processes_in(folder: Path) -> list[str]:
    """Return the living processes whose working folder is ``folder``."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == str(folder):
                found.append(entry)
        except OSError:
            pass  # it ended, or belongs to another user
    return found


def test_watching_shows_a_host_go_and_ends_well_with_ctrl_c(host: Child, start: Start, unique_name: str) -> None:
    watch = start(COMMAND, "ls", "--name", unique_name, "--watch", "0.1")
    assert watch.process.stdout is not None
    assert any("READY" in line for line in watch.process.stdout)
    host.kill()
    assert any("dead" in line for line in watch.process.stdout)
    watch.interrupt()
    assert watch.expect("status") == "0"


def test_a_reader_that_has_enough_ends_a_listing_quietly(unique_name: str, start: Start) -> None:
    child = start("import sys\nfrom shmbridge.cli import main\nsys.exit(main(sys.argv[1:]))", "ls", "--name", unique_name, "--watch", "0.01")
    assert child.process.stdout is not None
    child.process.stdout.close()
    assert child.finish() == 1
    assert "Traceback" not in child.errors


def test_sigterm_ends_watching(start: Start, unique_name: str) -> None:
    watch = start(COMMAND, "ls", "--name", unique_name, "--watch", "0.1")
    assert watch.process.stdout is not None
    watch.process.stdout.readline()
    watch.process.send_signal(signal.SIGTERM)
    assert watch.finish() == 143
