"""Host and client of two different users: shared by a group where both say so, refused otherwise."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest
from helpers import Child, ours_in_shm, run_python

from shmbridge.memory import naming

pytestmark = pytest.mark.needs_root
HOST_USER, CLIENT_USER, GROUP = 12_345, 23_456, 34_567
BECOME = """
import os, sys
import numpy as np
import sample_policies as sample
import shmbridge
from shmbridge.connecting import describe_host
from shmbridge.transport import shm
name, uid, groups, shm_group = sys.argv[1], int(sys.argv[2]), [int(group) for group in sys.argv[3].split(",") if group], int(sys.argv[4]) or None
os.setgroups(groups); os.setgid(uid); os.setuid(uid)
"""
HOST = (
    BECOME
    + """
os.umask(0o777)
with shmbridge.serve(sample.Affine(), f"shm://{name}", shm_group=shm_group) as host:
    print("up")
    host.wait()
"""
)
# What a member of the group could do with the descriptors of the rings, beside using them.
REOPENING = """
class Reopening(shm.Segment):
    def __init__(self, layout, slots, descriptor, *, writable):
        try:
            os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR))
            print("reopened", writable)
        except PermissionError:
            print("not reopened", writable)
        super().__init__(layout, slots, descriptor, writable=writable)
shm.Segment = Reopening
"""
CLIENT = """
q = {"q": np.full((2, 3), 10.0, np.float32)}
try:
    with shmbridge.connect(f"shm://{name}", example=q, num_envs=2, start_timeout=20.0, timeout=20.0, shm_group=shm_group) as client:
        print("action", client.infer(q)["action"].shape, describe_host(name, 20.0, shm_group=shm_group).clients[0].uid)
except (shmbridge.AuthenticationError, shmbridge.SpecError) as error:
    print("refused", error)
"""


def run_client(name: str, *, uid: int = CLIENT_USER, groups: str = str(GROUP), shm_group: int = GROUP, before: str = "") -> str:
    return run_python(BECOME + before + CLIENT, name, uid, groups, shm_group)


@pytest.fixture
def serve(unique_name: str, start: Callable[..., Child]) -> Callable[..., Child]:
    """Start the host as a user of its own; to be ended by the test."""

    def serve_one(*, shm_group: int = GROUP) -> Child:
        host = start(HOST, unique_name, HOST_USER, GROUP, shm_group)
        host.expect("up")
        return host

    return serve_one


def end(host: Child, name: str) -> None:
    host.interrupt()
    host.finish()
    assert ours_in_shm(name) == []


def test_two_users_of_a_group_share_where_both_say_so(unique_name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    found = os.stat(naming.socket_path(unique_name))
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, HOST_USER, GROUP)
    for _ in range(2):
        assert run_client(unique_name) == f"action (2, 4, 3) {CLIENT_USER}\n"
    assert ours_in_shm(unique_name) == [f"shmbridge.{unique_name}.lock", f"shmbridge.{unique_name}.sock"]
    end(host, unique_name)


def test_the_hosts_own_user_needs_no_flag(unique_name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    assert run_client(unique_name, uid=HOST_USER, groups="", shm_group=0).startswith("action")
    end(host, unique_name)


def test_what_only_reads_stays_so_for_a_member_of_the_group(unique_name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    observations, actions, last = run_client(unique_name, before=REOPENING).splitlines()
    # Nobody but the owner can open either file anew; the descriptor of the observations can be written because it was passed so.
    assert (observations, actions) == ("not reopened True", "not reopened False")
    assert last.startswith("action")
    end(host, unique_name)


@pytest.mark.parametrize(
    ("host_group", "client", "expected"),
    [
        (0, {"groups": ""}, [f"--shm_group {GROUP}: this process is no member"]),
        (0, {"groups": "", "shm_group": 0}, [f"uid {HOST_USER}", f"uid {CLIENT_USER}", "it is for one user only", "--shm_group GID", "--user"]),
        (0, {}, [f"uid {HOST_USER}", "for one user only", "--shm_group GID"]),
        (GROUP, {"shm_group": 0}, [f"uid {HOST_USER}", f"shared with the members of group {GROUP}", f"give this side --shm_group {GROUP} too"]),
        (GROUP, {"groups": "", "shm_group": 0}, [f"uid {HOST_USER}", f"--group-add {GROUP}", f"--shm_group {GROUP}"]),
        (GROUP, {"uid": 0, "groups": ""}, [f"--shm_group {GROUP}: this process is no member"]),
        (GROUP, {"uid": 0, "groups": "", "shm_group": 0}, ["root (uid 0)", f"uid {HOST_USER}", f"--group-add {GROUP}"]),
    ],
)
def test_whoever_is_not_trusted_is_told_which_user_file_and_flag(
    unique_name: str, serve: Callable[..., Child], host_group: int, client: dict[str, object], expected: list[str]
) -> None:
    host = serve(shm_group=host_group)
    output = run_client(unique_name, **client)  # type: ignore[arg-type]  # a table of cases
    assert output.startswith("refused")
    for part in expected:
        assert part in output
    end(host, unique_name)


def test_a_member_waits_a_moment_for_a_socket_that_is_not_open_to_it_yet(unique_name: str, start: Callable[..., Child]) -> None:
    dead = start(HOST, unique_name, HOST_USER, GROUP, 0)
    dead.expect("up")
    dead.kill()
    client = start(BECOME + "print('waiting')\n" + CLIENT, unique_name, CLIENT_USER, GROUP, GROUP)
    client.expect("waiting")
    host = start(HOST, unique_name, HOST_USER, GROUP, GROUP)
    host.expect("up")
    output = client.expect("")
    assert output.startswith("action") or "is for one user only" in output  # the latter where the new host took longer than that moment
    end(host, unique_name)


def test_root_is_refused_by_the_host_too_where_it_is_no_member(unique_name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    trusting = "import shmbridge.connecting as connecting\nconnecting.check_peer = lambda *_: None\n"
    output = run_client(unique_name, uid=0, groups="", shm_group=0, before=trusting)
    assert output.startswith("refused the client runs as root (uid 0)")
    end(host, unique_name)
