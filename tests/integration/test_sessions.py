"""Whole sessions between processes: what works, what is refused, and what happens when either side dies."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import sample_policies as sample
from helpers import GIVE_UP_SECONDS, Child, eventually, open_descriptors, ours_in_shm, run_python

import shmbridge
from shmbridge.connecting import describe_host
from shmbridge.errors import (
    AuthenticationError,
    ClosedError,
    HostBusyError,
    HostExistsError,
    HostNotFoundError,
    PeerLostError,
    PolicyError,
    PolicyRaisedError,
    ShmbridgeError,
    SpecError,
    TimedOutError,
)
from shmbridge.memory import naming
from shmbridge.memory.posix import libc_version
from shmbridge.messages import PROTOCOL_VERSION, AnyMessage, Attached, Description, Failure, Hello, HostState, Ping, Query, Status, Welcome, encode
from shmbridge.protocol import Conversation, Role
from shmbridge.spec import TensorSpec

NUM_ENVS = 2
Q = TensorSpec("q", (3,), "float32")
SERVE = """
import json, sys
import sample_policies, shmbridge
name, policy, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
try:
    with shmbridge.serve(getattr(sample_policies, policy), f"shm://{name}", **options) as host:
        print("up")
        host.wait()
except KeyboardInterrupt:
    pass
print("ended")
"""
CLIENT = """
import os, sys, time
import numpy as np
import sample_policies as sample
import shmbridge
name = sys.argv[1]
def q(first, second=0.0):
    return {"q": np.full((2, 3), [first, second, 0.0], np.float32)}
client = shmbridge.connect(f"shm://{name}", example=q(0), num_envs=2, start_timeout=20.0, timeout=20.0)
"""


@pytest.fixture
def serve(unique_name: str) -> Iterator[Callable[..., Child]]:
    """Start hosts in processes of their own; those still there at the end are ended as by Ctrl-C."""
    hosts: list[Child] = []

    def serve_one(policy: str = "Commanded", *, name: str = unique_name, **options: Any) -> Child:
        text = str(options).replace("'", '"').replace("True", "true").replace("False", "false").replace("None", "null")
        hosts.append(Child(SERVE, name, policy, text))
        hosts[-1].expect("up")
        return hosts[-1]

    yield serve_one
    for host in hosts:
        if host.process.poll() is None:
            host.interrupt()
            host.finish()
        host.kill()


@pytest.fixture
def name(unique_name: str) -> str:
    return unique_name


def q(first: float, second: float = 0.0) -> dict[str, np.ndarray]:
    """Return an observation of two environments; a negative first number is a command to the policy."""
    return {"q": np.full((NUM_ENVS, 3), [first, second, 0.0], np.float32)}


def connect(name: str, **options: Any) -> shmbridge.Client:
    patient = {"start_timeout": GIVE_UP_SECONDS, "timeout": GIVE_UP_SECONDS}
    return shmbridge.connect(f"shm://{name}", **{"example": q(0), "num_envs": NUM_ENVS, **patient, **options})


def first(reply: shmbridge.Reply) -> float:
    return float(reply["action"].ravel()[0])


def test_a_session_infers_acts_plays_chunks_and_resets_by_row(name: str, serve: Callable[..., Child]) -> None:
    host = serve("Affine")
    with connect(name) as client:
        assert client.path == "shared memory"
        assert client.agreement.policy == "Affine"
        reply = client.infer(q(10))
        assert reply["action"].shape == (NUM_ENVS, 4, 3)
        assert reply["action"][1, :, 0].tolist() == [10, 11, 12, 13]
        assert [first(client.act(q(100 * step))) for step in range(8)] == [0, 1, 2, 3, 400, 401, 402, 403]
        client.act(q(1000))
        client.reset([1], "open the door")
        reply = client.act(q(2000))
        assert reply["action"][:, 0].tolist() == [1001, 2000]
        assert reply.age.tolist() == [1, 0]
    host.interrupt()
    assert host.finish() == 0
    assert ours_in_shm(name) == []


def test_a_session_carries_large_images_rendered_in_place(name: str, serve: Callable[..., Child]) -> None:
    serve("TakesAll")
    specs = [TensorSpec("camera/rgb", (240, 320, 3), "uint8"), TensorSpec("q", (3,), "float32"), TensorSpec("task", (), "utf8[32]")]
    with connect(name, example=None, observation_specs=specs) as client:
        for step in range(20):
            slot = client.loan()
            slot["camera/rgb"][...], slot["q"][...], slot["task"][...] = step, step, b"open"
            assert client.infer(slot)["action"].shape == (NUM_ENVS, 4, 3)


def test_submitted_observations_are_answered_in_order(name: str, serve: Callable[..., Child]) -> None:
    serve("Affine")
    with connect(name, slots=3) as client:
        for start in range(0, 30, 3):
            for number in range(start, start + 3):
                client.submit(q(number))
            for number in range(start, start + 3):
                reply = client.poll(timeout=GIVE_UP_SECONDS)
                assert reply is not None and first(reply) == number


def test_with_latest_only_a_slow_policy_sees_what_is_new_and_the_loop_goes_on(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with connect(name, latest_only=True) as client:
        steps: list[int | None] = []
        replies: list[shmbridge.Reply] = []
        end = time.monotonic() + GIVE_UP_SECONDS
        while len(replies) < 5 and time.monotonic() < end:
            steps.append(client.submit(q(sample.SLEEP, 0.05)))
            reply = client.poll()
            replies += [] if reply is None else [reply]
            time.sleep(0.005)
        statistics = client.statistics()
    assert len(replies) == 5, "the policy was starved"
    answered = [int(reply.step[0]) for reply in replies]
    assert answered == sorted(set(answered)) and all(steps[step] == step for step in answered)
    assert statistics.dropped == steps.count(None) > 0
    assert statistics.requests == len(steps) - steps.count(None)


def test_an_instruction_that_the_policy_does_not_take_is_refused_by_name_until_a_reset(name: str, serve: Callable[..., Child]) -> None:
    serve("Affine")
    with connect(name) as client:
        client.act(q(0))
        client.instruct([1], "push")
        for _ in range(2):
            with pytest.raises(PolicyError, match="Affine takes one at its beginning only"):
                client.act(q(1))
        client.reset([1], "push")
        assert client.act(q(100))["action"][:, 0].tolist() == [1, 100]
        assert client.statistics().requests == 4


def test_instructions_and_past_observations_cross_as_in_one_process(name: str, serve: Callable[..., Child]) -> None:
    serve("Telling")
    told = []
    for host in (f"shm://{name}", sample.Telling()):
        with shmbridge.connect(host, example=q(0), num_envs=NUM_ENVS, start_timeout=GIVE_UP_SECONDS) as client:
            told.append([])
            for number in range(12):
                if number == 3:
                    client.reset([1], "öffne")
                if number == 6:
                    client.instruct([0], "push")
                told[-1].append(client.act(q(number))["action"].tolist())
    assert told[0] == told[1]
    assert told[0][11] != told[0][5], "neither the past nor the instruction shows"


def test_a_policy_that_raises_is_told_with_its_traceback_and_the_session_goes_on(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with connect(name) as client:
        with pytest.raises(PolicyRaisedError, match="told to raise") as error:
            client.infer(q(sample.RAISE))
        assert error.value.error_type == "ValueError"
        assert 'raise ValueError("told to raise")' in error.value.remote_traceback
        assert first(client.infer(q(5))) == 5


@pytest.mark.parametrize("command", [sample.WRONG_SHAPE, sample.WRONG_NAME, sample.NAN, sample.KEEP_VIEW, sample.WRITE])
def test_a_policy_that_breaks_its_contract_is_told_and_the_session_goes_on(name: str, serve: Callable[..., Child], command: int) -> None:
    serve()
    with connect(name) as client:
        with pytest.raises(PolicyRaisedError):
            client.infer(q(command))
        assert first(client.infer(q(5))) == 5


def test_a_wrong_shape_is_refused_at_warm_up_before_step_one(name: str, serve: Callable[..., Child]) -> None:
    serve("WrongAtWarmUp")
    for _ in range(2):
        with pytest.raises(PolicyRaisedError, match=r"returned 'action' as \(2, 3, 3\) float32; its specs promise \(2, 4, 3\)"):
            connect(name)


def test_a_timeout_leaves_the_session_usable_and_the_late_answer_is_discarded(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with connect(name) as client:
        for round_number in range(3):
            with pytest.raises(TimedOutError, match=r"for the action for observation \d+; host .* is BUSY for .*The session is still good"):
                client.infer(q(sample.SLEEP, 0.4), timeout=0.1)
            assert first(client.infer(q(round_number))) == round_number


def test_many_timeouts_in_a_row_do_not_wedge_the_session(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with connect(name) as client:
        for _ in range(5):
            with pytest.raises(TimedOutError):
                client.infer(q(sample.SLEEP, 0.3), timeout=0.02)
        for number in range(5):
            assert first(client.infer(q(number))) == number


def test_a_second_client_is_refused_by_name(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with connect(name) as client:
        with pytest.raises(HostBusyError, match=rf"takes 1 client\(s\) at a time .*and serves client {os.getpid()} on .* for \d+ s"):
            connect(name)
        assert first(client.infer(q(1))) == 1
    connect(name).close()


def test_clients_one_after_another_are_served_at_once(name: str, serve: Callable[..., Child]) -> None:
    serve()
    for number in range(10):
        with connect(name) as client:
            assert first(client.infer(q(number))) == number


def test_a_second_host_of_one_name_is_refused(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with pytest.raises(HostExistsError, match="is running already"):
        shmbridge.serve(sample.Affine(), f"shm://{name}")
    connect(name).close()


def test_a_wrong_name_lists_those_there_are(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with pytest.raises(HostNotFoundError, match=rf"there are: .*{name}"):
        connect(f"{name}x", start_timeout=0.2)


def test_a_client_waits_for_a_host_that_starts_later(name: str, serve: Callable[..., Child]) -> None:
    found: list[float] = []

    def infer() -> None:
        with connect(name) as client:
            found.append(first(client.infer(q(7))))

    thread = threading.Thread(target=infer)
    thread.start()
    serve()
    thread.join()
    assert found == [7]


def test_specs_that_do_not_fit_are_refused_in_two_columns(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with pytest.raises(SpecError) as error:
        connect(name, example={"qq": np.zeros((NUM_ENVS, 3), np.float32)})
    text = str(error.value)
    assert "offered by the simulator" in text and "wanted by the policy" in text
    assert "did you mean 'qq'?" in text
    with pytest.raises(SpecError, match=r"given by the policy and those taken by the simulator(.|\n)*differs"):
        connect(name, action_specs=[TensorSpec("action", (7,), "float32")])
    connect(name).close()


@pytest.mark.parametrize(("expected", "text"), [({"policy_type": "other"}, "'other', there 'Affine'"), ({"config_digest": "ffff"}, "ffff here, abcd there")])
def test_another_policy_than_expected_is_refused_with_both(name: str, serve: Callable[..., Child], expected: dict[str, str], text: str) -> None:
    serve("Affine", config_digest="abcd")
    with pytest.raises(SpecError, match=text):
        connect(name, **expected)
    connect(name, policy_type="Affine", config_digest="abcd").close()


def test_loading_and_warming_up_are_visible_and_are_no_timeout(name: str, serve: Callable[..., Child]) -> None:
    serve("SlowToLoad")
    states: list[Status] = []
    with connect(name, on_status=states.append, timeout=0.5) as client:
        assert first(client.infer(q(3), timeout=GIVE_UP_SECONDS)) == 3
    seen = [status.state for status in states]
    assert HostState.LOADING in seen and HostState.WARMING_UP in seen
    assert seen.index(HostState.WARMING_UP) > seen.index(HostState.LOADING)
    assert max(status.seconds for status in states if status.state is HostState.LOADING) > 0.5


def test_a_state_can_be_asked_for_while_the_policy_infers(name: str, serve: Callable[..., Child]) -> None:
    serve()
    with connect(name) as client:
        client.submit(q(sample.SLEEP, 0.8))
        eventually(lambda: (status := client.ping()) is not None and status.state is HostState.BUSY)
        assert client.poll(timeout=GIVE_UP_SECONDS) is not None
        eventually(lambda: (status := client.ping()) is not None and status.state is HostState.READY)


def test_a_host_that_is_killed_is_lost_with_peer_phase_and_sequence(name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    client = connect(name)
    client.infer(q(1))
    with pytest.raises(PeerLostError) as error:
        client.infer(q(sample.KILL))
    assert (error.value.peer, error.value.phase, error.value.sequence) == (f"host '{name}'", "waiting for an action", 2)
    for _ in range(2):
        with pytest.raises(PeerLostError, match="reconnect"):
            client.infer(q(1))
    client.close()
    assert host.finish() == -signal.SIGKILL
    assert ours_in_shm(name) == [f"shmbridge.{name}.lock", f"shmbridge.{name}.sock"]
    again = serve()
    with connect(name) as client:
        assert first(client.infer(q(2))) == 2
    again.interrupt()
    again.finish()
    assert ours_in_shm(name) == []


def test_a_host_that_is_killed_while_idle_is_lost_at_the_next_call(name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    with connect(name) as client:
        client.infer(q(1))
        host.kill()
        with pytest.raises(PeerLostError):
            client.infer(q(2))
    serve()


def test_a_policy_that_forked_does_not_keep_a_killed_host_alive(name: str, start: Callable[..., Child], serve: Callable[..., Child]) -> None:
    source = SERVE.replace("import sample_policies, shmbridge", "import os, time, signal\nimport sample_policies, shmbridge").replace(
        "host.wait()", "pid = os.fork()\n        print('forked', pid) if pid else time.sleep(600)\n        host.wait()"
    )
    host = start(source, name, "Commanded", "{}")
    grandchild = int(host.expect("forked"))
    client = connect(name)
    client.infer(q(1))
    os.kill(host.pid, signal.SIGKILL)
    host.process.wait()
    with pytest.raises(PeerLostError):
        client.infer(q(2))
    os.kill(grandchild, 0)  # it lives
    client.close()
    serve()
    connect(name).close()


def test_a_client_that_is_killed_makes_room_at_once(name: str, serve: Callable[..., Child], start: Callable[..., Child]) -> None:
    serve()
    for _ in range(3):
        child = start(CLIENT + "client.infer(q(1))\nprint('inferred')\nslot = client.loan()\ninput()", name)
        child.expect("inferred")
        child.kill()
        with connect(name) as client:
            assert first(client.infer(q(4))) == 4


def test_clients_that_were_killed_are_counted_as_lost_and_those_that_left_are_not(name: str, start: Callable[..., Child]) -> None:
    with shmbridge.serve(sample.Affine(), f"shm://{name}") as host:
        for lost in (1, 2):
            child = start(CLIENT + "client.infer(q(1))\nprint('inferred')\ninput()", name)
            child.expect("inferred")
            child.kill()
            eventually(lambda lost=lost: host.statistics().lost == lost)
            connect(name).close()
        eventually(lambda: not host.statistics().clients)
        assert (host.statistics().served, host.statistics().lost, host.statistics().refused) == (4, 2, 0)


def test_a_client_that_is_killed_while_it_waits_makes_room(name: str, serve: Callable[..., Child], start: Callable[..., Child]) -> None:
    serve()
    child = start(CLIENT + "client.submit(q(sample.SLEEP, 0.5))\nprint('submitted')\ninput()", name)
    child.expect("submitted")
    child.kill()
    with connect(name) as client:
        assert first(client.infer(q(4))) == 4


def test_a_forked_child_of_the_client_does_not_keep_its_session(name: str, serve: Callable[..., Child], start: Callable[..., Child]) -> None:
    serve()
    source = """
def say(text):
    os.write(1, f"{text}\\n".encode())  # at once, so that the two do not talk into each other
pid = os.fork()
if pid == 0:
    try:
        client.infer(q(1))
    except shmbridge.ClosedError as error:
        say(f"child {error}")
    client.close()
    time.sleep(600)
say(f"forked {pid}")
client.infer(q(1))
say("parent goes on")
input()
"""
    child = start(CLIENT + "client.infer(q(0))\n" + source, name)
    said = [child.process.stdout.readline() for _ in range(3)]  # type: ignore[union-attr]  # it is a pipe
    grandchild = next(int(line.split()[1]) for line in said if line.startswith("forked"))
    assert any("belongs to the parent process" in line for line in said)
    assert "parent goes on\n" in said
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()
    os.kill(grandchild, 0)  # it lives
    connect(name).close()


def test_ctrl_c_in_a_blocked_call_comes_through_and_ends_the_session(name: str, serve: Callable[..., Child], start: Callable[..., Child]) -> None:
    serve()
    source = """
try:
    client.infer(q(sample.SLEEP, 2.0))
except KeyboardInterrupt:
    print("interrupted")
for call in (lambda: client.infer(q(1)), lambda: client.act(q(1)), client.loan):
    try:
        call()
    except shmbridge.ClosedError as error:
        print("closed", error)
client.close()
print("done")
"""
    child = start(CLIENT + source, name)
    eventually(lambda: os.path.exists(naming.socket_path(name)) and describe_host(name, timeout=5.0).status.state is HostState.BUSY)
    child.interrupt()
    child.expect("interrupted")
    for _ in range(3):
        assert "reconnect" in child.expect("closed")
    child.expect("done")
    assert child.finish() == 0
    with connect(name) as client:
        assert first(client.infer(q(4))) == 4


INTERRUPTED_ANYWHERE = """
for number in range(25):
    try:
        print("looping")
        while True:
            client.act(q(1))
    except KeyboardInterrupt:
        pass
    try:
        client.infer(q(1))
        print("good")
    except shmbridge.ClosedError as error:
        print("over", error)
        client.close()
        client = shmbridge.connect(f"shm://{name}", example=q(0), num_envs=2, start_timeout=20.0, timeout=20.0)
client.close()
print("done")
"""


def test_ctrl_c_at_any_moment_leaves_a_good_session_or_one_that_says_it_is_over(name: str, serve: Callable[..., Child], start: Callable[..., Child]) -> None:
    serve("Affine")
    child = start(CLIENT + INTERRUPTED_ANYWHERE, name)
    rng = np.random.default_rng(0)
    for _ in range(25):
        child.expect("looping")
        time.sleep(rng.uniform(0.001, 0.01))
        child.interrupt()
        line = child.process.stdout.readline()  # type: ignore[union-attr]  # it is a pipe
        assert line.startswith(("good", "over the session is over: it was interrupted")), line + child.errors
    child.expect("done")
    assert child.finish() == 0


def test_ctrl_c_at_the_host_ends_it_cleanly_also_while_it_infers(name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    client = connect(name)
    client.submit(q(sample.SLEEP, 30.0))
    eventually(lambda: (status := client.ping()) is not None and status.state is HostState.BUSY)
    host.interrupt()
    with pytest.raises(PeerLostError, match="the host is stopping"):
        client.poll(timeout=GIVE_UP_SECONDS)
    client.close()
    assert host.finish() == 0
    assert ours_in_shm(name) == []


def test_a_policy_that_exits_ends_the_host_and_says_so(name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    client = connect(name)
    with pytest.raises(ShmbridgeError, match=r"SystemExit|stopping"):
        client.infer(q(sample.EXIT))
    client.close()
    assert host.finish() != 0
    assert "the policy ended its thread by SystemExit" in host.errors
    assert ours_in_shm(name) == []


def test_closing_from_another_thread_ends_a_blocked_call(name: str, serve: Callable[..., Child]) -> None:
    serve()
    client = connect(name)
    errors: list[ShmbridgeError] = []

    def infer() -> None:
        try:
            client.infer(q(sample.SLEEP, 1.0))
        except ShmbridgeError as error:
            errors.append(error)

    thread = threading.Thread(target=infer)
    thread.start()
    eventually(lambda: describe_host(name, timeout=5.0).status.state is HostState.BUSY)
    client.close()
    thread.join()
    assert [type(error) for error in errors] == [ClosedError]


@pytest.mark.parametrize("call", ["infer", "act", "submit", "loan", "poll", "ping", "stop_host", "close"])
def test_every_call_after_close_says_so_and_none_hangs(name: str, serve: Callable[..., Child], call: str) -> None:
    serve()
    client = connect(name)
    client.submit(q(1))
    client.close()
    calls: dict[str, Callable[[], Any]] = {
        "infer": lambda: client.infer(q(1)),
        "act": lambda: client.act(q(1)),
        "submit": lambda: client.submit(q(1)),
    }
    if call == "close":
        client.close()
    else:
        with pytest.raises(ClosedError):
            calls.get(call, getattr(client, call))()


def test_a_client_may_stop_the_host(name: str, serve: Callable[..., Child]) -> None:
    host = serve()
    client = connect(name)
    client.stop_host()
    assert host.finish() == 0
    assert ours_in_shm(name) == []
    with pytest.raises(ShmbridgeError):
        client.infer(q(1))


def test_a_host_may_refuse_to_be_stopped_and_lives_on(name: str, serve: Callable[..., Child]) -> None:
    host = serve(remote_kill=False)
    client = connect(name)
    with pytest.raises(AuthenticationError, match="--no_remote_kill"):
        client.stop_host()
    assert host.process.poll() is None
    connect(name).close()


def test_a_session_that_asks_for_nothing_is_ended_if_the_host_says_so(name: str, serve: Callable[..., Child]) -> None:
    serve(idle_timeout=0.6)
    started = time.monotonic()
    client = connect(name)
    eventually(lambda: not describe_host(name, timeout=5.0).clients)
    assert time.monotonic() - started >= 0.6
    with pytest.raises(ClosedError, match="--idle_timeout_s"):
        client.infer(q(1))
    client.close()
    connect(name).close()


def test_a_session_that_keeps_asking_is_not_idle(name: str, serve: Callable[..., Child]) -> None:
    serve(idle_timeout=1.0)
    with connect(name) as client:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            assert first(client.infer(q(1))) == 1


def test_a_slow_inference_is_not_taken_for_idleness(name: str, serve: Callable[..., Child]) -> None:
    serve(idle_timeout=0.6)
    with connect(name) as client:
        client.infer(q(sample.SLEEP, 2.0))


class RawClient:
    """A socket to a host, and what a client could say on it."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(GIVE_UP_SECONDS)
        self.socket.connect(naming.socket_path(name))
        self.conversation = Conversation(Role.CLIENT)
        self._heard: list[AnyMessage] = []

    def say(self, message: AnyMessage) -> None:
        self.socket.sendall(self.conversation.send(message))

    def hear(self) -> AnyMessage | None:
        """Return the next message; None once the host hung up."""
        while not self._heard:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 8)
            except ConnectionError:
                return None
            for descriptor in descriptors:
                os.close(descriptor)
            if not data:
                return None
            self._heard = self.conversation.receive(data)
        return self._heard.pop(0)

    def hear_a(self, kind: type) -> Any:
        while not isinstance(message := self.hear(), kind):
            assert message is not None, f"the host hung up before it said {kind.__name__}"
        return message

    def hello(self, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "protocol": PROTOCOL_VERSION,
            "version": "0",
            "libc": libc_version(),
            "client": "raw",
            "num_envs": 2,
            "slots": 2,
            "observation": [Q],
        }
        self.say(Hello(**{**fields, **changes}))

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def raw(name: str) -> Iterator[Callable[[], RawClient]]:
    clients: list[RawClient] = []

    def open_one() -> RawClient:
        clients.append(RawClient(name))
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


@pytest.mark.parametrize("data", [b"", b"\x10", b"\x10\0\0\0", b"\x10\0\0\0half"])
def test_a_client_that_says_nothing_or_half_a_message_is_dropped_after_the_timeout(
    name: str, serve: Callable[..., Child], raw: Callable[[], RawClient], data: bytes
) -> None:
    serve(timeout=0.4)
    started = time.monotonic()
    client = raw()
    client.socket.sendall(data)
    failure = client.hear()
    assert isinstance(failure, Failure) and "--timeout_ms" in failure.text
    assert client.hear() is None
    assert time.monotonic() - started >= 0.4
    connect(name).close()


def test_half_a_message_in_an_old_session_has_the_whole_timeout(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient]) -> None:
    serve(timeout=1.0)
    client = raw()
    client.hello()
    client.hear_a(Welcome)
    client.say(Attached())
    client.say(Ping())
    client.hear_a(Status)
    threading.Event().wait(1.3)  # the session is now older than the timeout
    data = client.conversation.send(Ping())
    client.socket.sendall(data[:5])
    threading.Event().wait(0.6)  # longer than the host's tick, shorter than the timeout
    client.socket.sendall(data[5:])
    client.hear_a(Status)


def test_a_client_that_does_not_attach_is_dropped_and_its_names_go(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient]) -> None:
    serve(timeout=0.4)
    client = raw()
    client.hello()
    client.hear_a(Welcome)
    assert len(ours_in_shm(name)) == 6
    while client.hear() is not None:
        pass
    eventually(lambda: len(ours_in_shm(name)) == 2, "the end of the names")
    connect(name).close()


def test_a_client_that_has_not_attached_yet_is_said_to_be_attaching(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient]) -> None:
    serve(max_sessions=2)
    client = raw()
    client.hello()
    client.hear_a(Welcome)
    (described,) = describe_host(name, timeout=GIVE_UP_SECONDS, details=True).clients
    assert (described.client, described.state, described.rate) == ("raw", "attaching", 0.0)
    assert described.session is not None and described.session.observation_ring.free == 2
    client.say(Attached())
    eventually(lambda: describe_host(name, timeout=GIVE_UP_SECONDS).clients[0].state == "idle")


def test_clients_that_call_themselves_alike_are_told_apart(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient]) -> None:
    serve(max_sessions=3)
    for _ in range(3):
        client = raw()
        client.hello()
        client.hear_a(Welcome)
    assert [described.client for described in describe_host(name, timeout=GIVE_UP_SECONDS).clients] == ["raw", "raw (2)", "raw (3)"]


def test_a_client_that_is_killed_before_it_attaches_leaves_nothing(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient]) -> None:
    serve()
    client = raw()
    client.hello()
    client.hear_a(Welcome)
    assert len(ours_in_shm(name)) == 6
    client.close()
    eventually(lambda: len(ours_in_shm(name)) == 2, "the end of the names")
    connect(name).close()


def test_a_host_killed_in_the_handshake_leaves_nothing_after_the_next_start(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient]) -> None:
    host = serve()
    client = raw()
    client.hello()
    client.hear_a(Welcome)
    host.kill()
    assert len(ours_in_shm(name)) == 6
    again = serve()
    assert ours_in_shm(name) == [f"shmbridge.{name}.lock", f"shmbridge.{name}.sock"]
    connect(name).close()
    again.interrupt()
    again.finish()
    assert ours_in_shm(name) == []


def test_a_client_that_asked_and_stays_is_let_go(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient]) -> None:
    serve(timeout=0.4)
    client = raw()
    client.say(Query())
    assert isinstance(client.hear(), Description)
    client.socket.settimeout(5.0)
    assert client.hear() is None


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack("<I", 0),
        struct.pack("<I", 3) + b"\xc1\xc1\xc1",
        struct.pack("<I", 1 << 30) + b"x" * 100,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        struct.pack("<I", len(encode(Attached()))) + encode(Attached()),
        struct.pack("<I", len(encode(Welcome(1, "p", "d", [], [], 1, 1, 2, "", "", [])))) + encode(Welcome(1, "p", "d", [], [], 1, 1, 2, "", "", [])),
    ],
    ids=["ones", "empty", "no msgpack", "too long", "http", "attached first", "welcome from a client"],
)
def test_garbage_is_refused_and_the_host_lives_on(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient], data: bytes) -> None:
    serve()
    client = raw()
    client.socket.sendall(data)
    message = client.hear()
    assert message is None or (isinstance(message, Failure) and message.error == "RemoteProtocolError")
    connect(name).close()


def test_random_bytes_never_hurt_the_host(name: str, serve: Callable[..., Child], raw: Callable[[], RawClient]) -> None:
    serve(timeout=0.2)
    rng = np.random.default_rng(0)
    good = encode(Hello(PROTOCOL_VERSION, "0", libc_version(), "fuzz", 2, 2, [Q]))
    for _ in range(60):
        client = raw()
        damaged = bytearray(good)
        for place in rng.integers(0, len(damaged), rng.integers(1, 6)):
            damaged[place] = rng.integers(0, 256)
        client.socket.sendall(struct.pack("<I", len(damaged)) + bytes(damaged))
        client.close()
    eventually(lambda: not describe_host(name, timeout=5.0).clients)
    connect(name).close()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"protocol": 99}, "speaks protocol 99"),
        ({"libc": "musl 1.2"}, "not Alpine"),
        ({"num_envs": 0}, "num_envs must lie between"),
        ({"num_envs": -5}, "num_envs must lie between"),
        ({"num_envs": 1 << 40}, "num_envs must lie between"),
        ({"slots": 1}, "slots must lie between"),
        ({"slots": 1 << 40}, "slots must lie between"),
        ({"observation": []}, "do not agree"),
        ({"policy": "other"}, "'other'"),
        ({"client": "\x1b[2J\n" * 1000, "protocol": 99}, "speaks protocol"),
    ],
)
def test_an_impossible_hello_is_refused_with_the_reason(
    name: str, serve: Callable[..., Child], raw: Callable[[], RawClient], changes: dict[str, Any], text: str
) -> None:
    host = serve()
    client = raw()
    client.hello(**changes)
    failure = client.hear_a(Failure)
    assert text in failure.text
    connect(name).close()
    assert "\x1b" not in host.errors


IN_A_SMALL_TMPFS: Sequence[str] = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=$0 tmpfs /dev/shm && exec "$@"', "4m"]
IN_ONE_PROCESS = """
import logging, os, time
logging.disable()
import numpy as np
import sample_policies as sample
import shmbridge
specs = [shmbridge.TensorSpec("camera", (480, 640, 3), "uint8"), shmbridge.TensorSpec("q", (3,), "float32")]
def connect(num_envs):
    return shmbridge.connect("shm://small", observation_specs=specs, num_envs=num_envs)
"""


@pytest.mark.needs_root
def test_too_small_a_tmpfs_is_an_error_with_numbers_and_flag_and_the_host_lives_on() -> None:
    output = run_python(
        IN_ONE_PROCESS
        + """
with shmbridge.serve(sample.TakesAll(), "shm://small"):
    try:
        connect(10)
    except shmbridge.SharedMemoryFullError as error:
        print(error)
    with connect(1) as client:
        client.infer({"camera": np.zeros((1, 480, 640, 3), np.uint8), "q": np.zeros((1, 3), np.float32)})
        print("served")
print(os.listdir("/dev/shm"))
""",
        prefix=IN_A_SMALL_TMPFS,
    )
    refusal, served, left = output.splitlines()
    assert "this session needs 18.5 MB of shared memory (10 environments: 2 slots of 9.2 MB for observations" in refusal
    assert "/dev/shm has 4." in refusal
    assert "--shm-size" in refusal
    assert (served, left) == ("served", "[]")


@pytest.mark.needs_root
def test_one_session_after_another_fits_where_one_does() -> None:
    output = run_python(
        IN_ONE_PROCESS
        + """
with shmbridge.serve(sample.TakesAll(), "shm://small"):
    first = connect(1)
    first.close()
    for patience in range(100):  # the host lets go a moment after goodbye
        try:
            second = connect(1)
            break
        except shmbridge.SharedMemoryFullError as error:
            refusal = error
            time.sleep(0.01)
    else:
        raise refusal
    second.close()
print("both")
""",
        prefix=[*IN_A_SMALL_TMPFS[:-1], "3m"],
    )
    assert output == "both\n"


AS_ANOTHER_USER = (
    CLIENT.replace("client = ", "os.setgid(12345); os.setuid(12345)\ntry:\n    client = ")
    + "except shmbridge.AuthenticationError as error:\n    print('refused', error)\n"
)


@pytest.mark.needs_root
def test_a_client_of_another_user_is_refused_with_both_users(name: str, serve: Callable[..., Child], start: Callable[..., Child]) -> None:
    serve()
    os.chmod(naming.socket_path(name), 0o666)  # as if the file's mode did not protect it
    refusal = start(AS_ANOTHER_USER, name).expect("refused")
    assert "uid 12345" in refusal and "same user" in refusal
    connect(name).close()


@pytest.mark.needs_root
def test_a_host_of_another_user_cannot_be_reached_and_it_is_said_why(name: str, serve: Callable[..., Child], start: Callable[..., Child]) -> None:
    serve()
    refusal = start(AS_ANOTHER_USER, name).expect("refused")
    assert "root (uid 0)" in refusal and "uid 12345" in refusal


def test_a_session_leaves_no_descriptor_behind_in_the_client(name: str, serve: Callable[..., Child]) -> None:
    serve()
    connect(name).close()
    before = sorted(open_descriptors())
    for _ in range(3):
        with connect(name) as client:
            client.infer(q(1))
        del client
    assert sorted(open_descriptors()) == before


def test_a_thousand_steps_keep_observations_and_actions_together(name: str, serve: Callable[..., Child]) -> None:
    serve("Affine")
    rng = np.random.default_rng(0)
    with connect(name, slots=3) as client:
        for step in range(1000):
            kind = rng.integers(3)
            if kind == 0:
                assert first(client.infer(q(step))) == step
            elif kind == 1:
                slot = client.loan()
                slot["q"][...] = step
                assert first(client.infer(slot)) == step
            else:
                client.submit(q(step))
                reply = client.poll(timeout=GIVE_UP_SECONDS)
                assert reply is not None and first(reply) == step
