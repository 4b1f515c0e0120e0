"""How a client finds a host: waiting, refusals, and what it says when there is none."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers import open_descriptors
from sample_policies import WAIT, Affine, Commanded, Remembering, TakesAll, Telling, WrongAtWarmUp

import shmbridge
from shmbridge import connecting
from shmbridge.connecting import connect, connect_local, describe_host
from shmbridge.counters import RingStatistics
from shmbridge.errors import HostNotFoundError, PeerLostError, PolicyRaisedError, RemoteProtocolError, ShmbridgeError, SpecError, TimedOutError
from shmbridge.memory import naming
from shmbridge.memory.mounts import memory_id
from shmbridge.messages import Close, Description, Failure, Hello, HostState, Query, Status, Welcome
from shmbridge.protocol import Conversation, Role
from shmbridge.session import Offer
from shmbridge.spec import TensorSpec
from shmbridge.testing import check_transport

Q = {"q": np.zeros((2, 3), np.float32)}


def test_a_policy_in_this_process_passes_the_suite_of_all_transports() -> None:
    check_transport(lambda policy, num_envs, **options: connect(policy, example=_marked(num_envs), num_envs=num_envs, **options))


def test_a_policy_in_another_thread_passes_the_suite_of_all_transports(unique_name: str) -> None:
    class Open:
        """A host and a client of it."""

        def __init__(self, policy: shmbridge.Policy, num_envs: int, **options: Any) -> None:
            self.host = shmbridge.serve(policy, f"shm://{unique_name}")
            self.client = connect(f"shm://{unique_name}", example=_marked(num_envs), num_envs=num_envs, **options)

        def __enter__(self) -> shmbridge.Client:
            return self.client

        def __exit__(self, *exception: object) -> None:
            self.client.close()
            self.host.close()

    check_transport(Open)


def _marked(num_envs: int) -> dict[str, np.ndarray]:
    return {"mark": np.zeros(num_envs), "unused": np.zeros((num_envs, 3), np.uint8)}


@pytest.mark.parametrize("ways", [{}, {"example": Q, "observation_specs": [TensorSpec("q", (3,), "float32")]}])
def test_what_can_be_observed_is_said_exactly_once(ways: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="say once what can be observed"):
        connect(Affine(), num_envs=2, **ways)


@pytest.mark.parametrize("ways", [{"example": {}}, {"observation_specs": []}])
def test_something_must_be_there_to_observe(ways: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="nothing to observe"):
        connect(Affine(), num_envs=2, **ways)


@pytest.mark.parametrize("num_envs", [0, -1, 70_000])
def test_an_impossible_number_of_environments_is_refused(num_envs: int) -> None:
    with pytest.raises(SpecError):
        connect(Affine(), observation_specs=[TensorSpec("q", (3,), "float32")], num_envs=num_envs)


def test_specs_a_space_and_an_example_offer_the_same() -> None:
    spaces = pytest.importorskip("gymnasium.spaces")
    ways: list[dict[str, Any]] = [
        {"example": {"q": np.zeros((2, 3), np.float32)}},
        {"observation_specs": [TensorSpec("q", (3,), "float32")]},
        {"observation_space": spaces.Dict({"q": spaces.Box(-1, 1, (3,), np.float32)})},
    ]
    for way in ways:
        with connect(Affine(), num_envs=2, **way) as client:
            assert client.act(Q)["action"].tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"refill": "none"}, "refill='none': expected 'empty' or 'all'"),
        ({"replan_steps": 0}, "replan_steps must be at least 1"),
        ({"latency_steps": -1}, "latency_steps must lie between 0 and"),
        ({"latency_steps": 0.5}, "latency_steps is a number of steps"),
    ],
)
def test_impossible_rules_for_chunks_are_refused_before_anybody_is_called(unique_name: str, options: dict[str, Any], text: str) -> None:
    for host in (Affine(), f"shm://{unique_name}"):
        with pytest.raises(SpecError, match=text):
            connect(host, example=Q, num_envs=2, start_timeout=0.0, **options)


def test_rules_for_chunks_reach_the_client() -> None:
    with connect(Affine(), example=Q, num_envs=2, refill="all", replan_steps=3, latency_steps=1) as client:
        steps = [int(client.act({"q": np.full((2, 3), 10 * step, np.float32)}).step[0]) for step in range(7)]
    assert steps == [0, 0, 0, 2, 2, 4, 4]


def test_a_policy_that_sees_several_steps_is_offered_single_ones(unique_name: str) -> None:
    with shmbridge.serve(Remembering(), f"shm://{unique_name}") as host, connect(str(host.address), example=Q, num_envs=2) as client:
        assert client.specs.observation_steps == 3
        assert client.infer(Q)["action"].shape == (2, 4, 3)


def _use_at_random(client: shmbridge.Client, steps: int) -> list[object]:
    """Use a client in every way; return all that came back, but for times."""
    rng = np.random.default_rng(0)
    returned: list[object] = []
    for step in range(steps):
        observation = {"q": rng.uniform(-1, 1, (2, 3)).astype(np.float32)}
        env_ids, text = np.flatnonzero(rng.random(2) < 0.5).tolist(), f"task {step}"
        for tell in (client.reset, client.instruct):
            if rng.random() < 0.15:
                tell(env_ids, text)
        if rng.random() < 0.5:
            slot = client.loan()
            slot["q"][...] = observation["q"]
            observation = slot  # type: ignore[assignment]  # likewise an observation
        kind = rng.integers(4)
        if kind == 3:
            client.submit(observation)
        reply = client.poll(timeout=20.0) if kind == 3 else client.infer(observation) if kind == 2 else client.act(observation)
        assert reply is not None
        returned += [reply["action"].tolist(), reply.step.tolist(), reply.age.tolist(), reply.valid.tolist(), dict(reply.info)]
    return [*returned, msgspec.structs.astuple(client.statistics())[:5]]


@pytest.mark.parametrize("rules", [{}, {"refill": "all"}, {"replan_steps": 2, "latency_steps": 1}, {"latest_only": True}], ids=str)
def test_random_use_gives_the_same_here_and_in_a_host(unique_name: str, rules: dict[str, Any]) -> None:
    with connect(Telling(), example=Q, num_envs=2, policy_type="p", **rules) as client:
        here = _use_at_random(client, 200)
    serve = shmbridge.serve(Telling(), f"shm://{unique_name}", policy_name="p")
    with serve as host, connect(str(host.address), example=Q, num_envs=2, **rules) as client:
        assert _use_at_random(client, 200) == here


def test_a_local_policy_is_warmed_up_and_checked_before_step_one() -> None:
    with pytest.raises(PolicyRaisedError, match="specs promise"):
        connect(WrongAtWarmUp(), example=Q, num_envs=2)


def test_a_local_policy_stays_the_callers_to_close() -> None:
    policy = Affine()
    with connect(policy, example=Q, num_envs=2):
        pass
    assert policy.closed == 0


def test_a_local_session_knows_its_policy_by_name() -> None:
    connection = connect_local(Commanded(), Offer([TensorSpec("q", (3,), "float32")], 2, 2))
    assert connection.agreement.policy == "Commanded"


def test_no_host_is_said_with_what_there_is_and_how_to_start_one(unique_name: str, another_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{another_name}"), pytest.raises(HostNotFoundError) as error:
        connect(f"shm://{unique_name}", example=Q, num_envs=2, start_timeout=0.1)
    text = str(error.value)
    assert f"no host called '{unique_name}' came up within 0.1 s" in text
    assert another_name in text
    assert f"shmbridge serve --name {unique_name}" in text


@pytest.mark.parametrize("made_by_an_engine", [False, True])
def test_who_finds_no_host_is_told_how_to_share_and_to_compare_the_memory(
    unique_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, made_by_an_engine: bool
) -> None:
    monkeypatch.setattr(connecting, "is_engines_own", lambda mount: made_by_an_engine)
    monkeypatch.setattr(connecting, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(HostNotFoundError) as error:
        connect(f"shm://{unique_name}", example=Q, num_envs=2, start_timeout=0.2)
    (waiting,) = caplog.messages
    for text in (waiting, str(error.value)):
        assert f"shmbridge doctor --peer {unique_name}" in text
        assert ("made by the container engine" in text) is made_by_an_engine
    assert "-v shmbridge-shm:/dev/shm" in str(error.value) and f"memory id {memory_id()}" in str(error.value)


def test_a_shared_memory_that_cannot_be_looked_into_has_no_hosts(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[str]:
        raise FileNotFoundError("/dev/shm")

    monkeypatch.setattr(naming, "host_names", refuse)
    with pytest.raises(HostNotFoundError, match="has no hosts at all"):
        describe_host(unique_name)


def test_a_host_that_is_not_waited_for_is_said_not_to_be_there(unique_name: str) -> None:
    with pytest.raises(HostNotFoundError, match=f"^there is no host called '{unique_name}' "):
        describe_host(unique_name)


def test_a_dead_hosts_socket_is_told_from_none(unique_name: str) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(naming.socket_path(unique_name))
    sock.close()
    try:
        with pytest.raises(HostNotFoundError, match="is there, but its host is dead"):
            connect(f"shm://{unique_name}", example=Q, num_envs=2, start_timeout=0.1)
    finally:
        os.unlink(naming.socket_path(unique_name))


class PlayedHost(threading.Thread):
    """Listens, answers one client with a script, and hangs up or stays."""

    def __init__(self, name: str, *script: object, stays: bool = True) -> None:
        super().__init__(daemon=True)
        self._path, self._script, self._stays = naming.socket_path(name), script, stays
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen()
        self.heard: list[object] = []
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        sock, _ = self._listener.accept()
        conversation = Conversation(Role.HOST)
        while not self.heard:
            self.heard += conversation.receive(sock.recv(65536))
        for message in self._script:
            sock.sendall(message if isinstance(message, bytes) else conversation.send(message))  # type: ignore[arg-type]  # a message
        if self._stays:
            self._done.wait(60)
        sock.close()

    def close(self) -> None:
        self._done.set()
        self.join()
        self._listener.close()
        os.unlink(self._path)


@pytest.fixture
def play(unique_name: str) -> Iterator[Any]:
    hosts: list[PlayedHost] = []

    def start(*script: object, stays: bool = True) -> PlayedHost:
        hosts.append(PlayedHost(unique_name, *script, stays=stays))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


def knock(name: str, **options: Any) -> shmbridge.Client:
    return connect(f"shm://{name}", **{"example": Q, "num_envs": 2, "start_timeout": 20.0, **options})


SPEC = TensorSpec("q", (3,), "float32")
WELCOME = Welcome(5, "p", "d", [SPEC], [TensorSpec("action", (3,), "float32")], 1, 1, 2, "0", "1", ["/a", "/b", "/c", "/d"])


def test_a_client_says_what_it_is_and_offers(unique_name: str, play: Any) -> None:
    host = play(Failure("SpecError", "no"))
    with pytest.raises(SpecError, match=r"^no$"):
        knock(unique_name, policy_type="mine", config_digest="abc", slots=3, action_specs=[SPEC])
    (hello,) = host.heard
    assert isinstance(hello, Hello)
    assert (hello.observation, hello.action, hello.num_envs, hello.slots, hello.policy, hello.config_digest) == ([SPEC], [SPEC], 2, 3, "mine", "abc")
    assert str(os.getpid()) in hello.client


def test_states_are_reported_while_waiting(unique_name: str, play: Any) -> None:
    states: list[Status] = []
    play(Status(HostState.LOADING, 1.0), Status(HostState.WARMING_UP, 2.0), Failure("PolicyRaisedError", "no weights"))
    with pytest.raises(PolicyRaisedError, match="no weights"):
        knock(unique_name, on_status=states.append)
    assert [status.state for status in states] == [HostState.LOADING, HostState.WARMING_UP]


def test_a_host_that_is_never_ready_is_given_up_with_its_state(unique_name: str, play: Any) -> None:
    play(Status(HostState.LOADING, 90.0))
    with pytest.raises(TimedOutError, match=r"while it is LOADING \(for 90 s\)"):
        knock(unique_name, start_timeout=0.3)


@pytest.mark.parametrize("script", [(), (Status(HostState.LOADING, 1.0),), (b"\x05\0\0\0abc",)])
def test_a_host_that_dies_in_the_handshake_is_lost(unique_name: str, play: Any, script: tuple[object, ...]) -> None:
    play(*script, stays=False)
    with pytest.raises(PeerLostError):
        knock(unique_name)


def test_a_host_that_stops_in_the_handshake_ends_it(unique_name: str, play: Any) -> None:
    play(Close("the host is stopping"))
    with pytest.raises(ShmbridgeError, match=r"ended the handshake|stopping"):
        knock(unique_name)


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": 3},
        {"generation": 0},
        {"observation": [TensorSpec("q", (4,), "float32")]},
        {"observation": [SPEC, SPEC]},
        {"horizon": 0},
        {"observation_steps": 0},
        {"observation_steps": 1 << 40},
        {"horizon": 1 << 40},
        {"action": [TensorSpec("action", (1 << 50,), "float32")]},
        {"observation": [TensorSpec("other", (3,), "float32")]},
    ],
)
def test_a_welcome_that_is_not_what_was_offered_is_refused_and_leaks_nothing(unique_name: str, play: Any, changes: dict[str, Any]) -> None:
    before = set(open_descriptors())
    play(msgspec.structs.replace(WELCOME, **changes))
    with pytest.raises(ShmbridgeError):
        knock(unique_name)
    of_the_played_host = 2
    assert len(set(open_descriptors()) - before) <= of_the_played_host


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x01\0\0\0\xc1", b"\0\0\0\0"])
def test_a_host_that_talks_garbage_is_at_fault(unique_name: str, play: Any, data: bytes) -> None:
    play(data)
    with pytest.raises(RemoteProtocolError):
        knock(unique_name)


def test_a_host_describes_itself_without_a_session(unique_name: str) -> None:
    with shmbridge.serve(TakesAll(), f"shm://{unique_name}", policy_name="mine") as host:
        found = describe_host(unique_name)
        assert isinstance(found, Description)
        assert (found.name, found.policy, found.pid, found.clients) == (unique_name, "mine", os.getpid(), [])
        with connect(str(host.address), example=Q, num_envs=2) as client:
            client.infer(Q)
            (described,) = describe_host(unique_name).clients
            assert (described.num_envs, described.uid, described.session) == (2, os.geteuid(), None)
            assert (described.counters.requests, described.counters.rows, described.counters.failures) == (1, 2, 0)
            assert described.nbytes == sum(layout.segment_size(2) for layout in client.agreement.layouts)
            assert str(os.getpid()) in described.client


def test_a_host_describes_tensors_and_rings_if_asked_to(unique_name: str) -> None:
    policy = Commanded()
    serve = shmbridge.serve(policy, f"shm://{unique_name}", max_sessions=3, config_digest="abc")
    with serve as host, connect(str(host.address), example=Q, num_envs=2, slots=3) as client:
        client.submit({"q": np.full((2, 3), WAIT, np.float32)})
        assert policy.entered.wait(60)
        client.submit(Q)
        found = describe_host(unique_name, details=True)
        policy.gate.set()
        assert (found.max_sessions, found.config_digest, found.uid) == (3, "abc", os.geteuid())
        assert found.seconds > 0
        (described,) = found.clients
        session, agreement = described.session, client.agreement
        assert session is not None
        assert (session.generation, session.horizon, session.observation_steps, session.slots) == (agreement.generation, 4, 1, 3)
        assert (tuple(session.observation), tuple(session.action)) == (agreement.specs.observation, agreement.specs.action)
        assert (session.observation_digest, session.action_digest) == tuple(layout.digest for layout in agreement.layouts)
        assert session.observation_ring == RingStatistics(slots=3, free=1, full=1, moved=1, held=1)
        assert session.action_ring == RingStatistics(slots=3, free=2, full=0, moved=0, held=1)


def test_a_query_that_is_refused_is_that_refusal(unique_name: str, play: Any) -> None:
    host = play()
    host.heard.clear()
    with pytest.raises(TimedOutError):
        describe_host(unique_name, timeout=0.2)
    assert host.heard == [Query()]


def test_describing_a_host_that_is_not_there_fails_at_once(unique_name: str) -> None:
    with pytest.raises(HostNotFoundError):
        describe_host(unique_name)
