"""A host in this process: starting, states, stopping, and what it leaves behind."""

from __future__ import annotations

import gc
import socket
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import sample_policies as sample
from helpers import eventually, mapped_segments, open_descriptors, ours_in_shm
from sample_policies import Affine, CannotLoad, Commanded

import shmbridge
from shmbridge.connecting import describe_host
from shmbridge.errors import HostBusyError, HostExistsError, LocalProtocolError, PolicyRaisedError
from shmbridge.host_guests import RateMeter, distinct
from shmbridge.layout import ObservationHeader
from shmbridge.memory import naming
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import HostState
from shmbridge.spec import TensorSpec

Q = {"q": np.zeros((2, 3), np.float32)}


def connect(host: shmbridge.PolicyHost, **options: Any) -> shmbridge.Client:
    return shmbridge.connect(str(host.address), **{"example": Q, "num_envs": 2, "start_timeout": 20.0, **options})


def test_a_host_is_ready_once_its_policy_is_loaded(unique_name: str) -> None:
    gate = threading.Event()

    def load() -> Affine:
        gate.wait(60)
        return Affine()

    with shmbridge.serve(load, f"shm://{unique_name}") as host:
        assert host.status.state is HostState.LOADING
        gate.set()
        eventually(lambda: host.status.state is HostState.READY)
        assert not host.wait(0.0)


def test_a_host_is_named_after_its_policy_unless_told_otherwise(unique_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}") as host, connect(host) as client:
        assert client.agreement.policy == "Affine"
    with shmbridge.serve(Affine, f"shm://{unique_name}") as host, connect(host) as client:
        assert client.agreement.policy == "Affine"
    with shmbridge.serve(Affine(), f"shm://{unique_name}", policy_name="mine", config_digest="abc") as host, connect(host) as client:
        assert (client.agreement.policy, client.agreement.config_digest) == ("mine", "abc")


def test_a_policy_that_cannot_be_loaded_is_told_to_clients_and_to_the_one_who_waits(unique_name: str) -> None:
    with shmbridge.serve(CannotLoad, f"shm://{unique_name}") as host:
        with pytest.raises(PolicyRaisedError, match=r"no weights at /models/none(.|\n)*Traceback(.|\n)*sample_policies.py"):
            host.wait(60)
        assert host.status.state is HostState.FAILED


def test_a_client_that_waits_learns_that_the_policy_could_not_be_loaded(unique_name: str) -> None:
    gate = threading.Event()

    def load() -> Affine:
        gate.wait(60)
        return CannotLoad()

    errors: list[Exception] = []

    def wait_for_it(host: shmbridge.PolicyHost) -> None:
        try:
            connect(host, on_status=lambda status: gate.set())
        except shmbridge.ShmbridgeError as error:
            errors.append(error)

    with shmbridge.serve(load, f"shm://{unique_name}") as host:
        client = threading.Thread(target=wait_for_it, args=(host,))
        client.start()
        client.join()
    assert [type(error) for error in errors] == [PolicyRaisedError]
    assert "no weights at /models/none" in str(errors[0])


def test_a_name_that_is_taken_starts_nothing(unique_name: str) -> None:
    threads = threading.active_count()
    with shmbridge.serve(Affine(), f"shm://{unique_name}"):
        before = threading.active_count()
        with pytest.raises(HostExistsError):
            shmbridge.serve(Affine(), f"shm://{unique_name}")
        assert threading.active_count() == before
    assert threading.active_count() == threads


def test_a_host_is_started_once(unique_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}") as host, pytest.raises(LocalProtocolError):
        host.start()


def test_closing_closes_the_policy_once_and_says_whether_it_ended(unique_name: str) -> None:
    policy = Affine()
    host = shmbridge.serve(policy, f"shm://{unique_name}")
    eventually(lambda: host.status.state is HostState.READY)
    assert host.close()
    assert host.close()
    assert policy.closed == 1
    assert host.wait(0.0)


def test_a_host_that_was_never_started_can_be_closed(unique_name: str) -> None:
    assert shmbridge.PolicyHost(Affine(), f"shm://{unique_name}").close()


def test_closing_waits_no_longer_than_its_grace_for_a_policy_that_infers(unique_name: str) -> None:
    policy = Commanded()
    host = shmbridge.serve(policy, f"shm://{unique_name}")
    client = connect(host)
    client.submit({"q": np.full((2, 3), sample.WAIT, np.float32)})
    assert policy.entered.wait(60)
    assert host.status.state is HostState.BUSY
    assert not host.close(0.1)
    assert ours_in_shm(unique_name) == []
    client.close()
    policy.gate.set()
    assert host.close(60)


def test_closing_says_goodbye_to_clients(unique_name: str) -> None:
    host = shmbridge.serve(Affine(), f"shm://{unique_name}")
    with connect(host) as client:
        host.close()
        with pytest.raises(shmbridge.PeerLostError, match="ended the session: the host is stopping"):
            client.infer(Q)


def test_a_host_that_closed_leaves_no_file_memory_thread_or_descriptor(unique_name: str) -> None:
    shmbridge.serve(Affine(), f"shm://{unique_name}").close()
    before = open_descriptors(), mapped_segments(), threading.active_count()
    for _ in range(3):
        with shmbridge.serve(Affine(), f"shm://{unique_name}") as host, connect(host) as client:
            client.infer(Q)
        del client, host
    assert ours_in_shm(unique_name) == []
    assert mapped_segments() == before[1]
    assert threading.active_count() == before[2]
    assert sorted(open_descriptors()) == sorted(before[0])


def test_sessions_one_after_another_do_not_use_more_and_more_memory(unique_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}") as host:
        clients = []
        for _ in range(4):
            client = connect(host)
            client.infer(Q)
            client.close()
            clients.append(client)  # a variable that outlives its with block keeps the object, not the memory
        eventually(lambda: mapped_segments() == 0, "the end of all mappings")


def test_warming_up_happens_once_per_shape(unique_name: str) -> None:
    class Counts(Affine):
        warmed = 0

        def warm_up(self, session: Any, observation: Any, env_ids: Any) -> None:
            self.warmed += 1

    policy = Counts()
    with shmbridge.serve(policy, f"shm://{unique_name}") as host:
        for num_envs in (2, 2, 3, 2):
            connect(host, example={"q": np.zeros((num_envs, 3), np.float32)}, num_envs=num_envs).close()
        assert policy.warmed == 2


def test_a_warm_up_that_failed_is_tried_again_for_the_next_client(unique_name: str) -> None:
    class FailsOnce(Affine):
        tried = 0

        def warm_up(self, session: Any, observation: Any, env_ids: Any) -> None:
            self.tried += 1
            if self.tried == 1:
                raise RuntimeError("not yet")

    with shmbridge.serve(FailsOnce(), f"shm://{unique_name}") as host:
        with pytest.raises(PolicyRaisedError, match="not yet"):
            connect(host)
        with connect(host) as client:
            assert client.infer(Q)["action"].shape == (2, 4, 3)


def test_two_clients_where_two_are_allowed_do_not_disturb_each_other(unique_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}", max_sessions=2) as host, connect(host) as first, connect(host) as second:
        for number in range(20):
            one, two = ({"q": np.full((2, 3), value, np.float32)} for value in (number, 1000 + number))
            assert first.infer(one)["action"][0, 0, 0] == number
            assert second.infer(two)["action"][0, 0, 0] == 1000 + number


ODD_SPECS = [(2**32, 2**32), (2**31, 2**31, 2**2), (2**63 - 1,), (1 << 39,)]


@pytest.mark.parametrize("shape", ODD_SPECS)
def test_no_offer_however_odd_ends_the_host(unique_name: str, shape: tuple[int, ...]) -> None:
    with shmbridge.serve(sample.TakesAll(), f"shm://{unique_name}") as host:
        with pytest.raises(shmbridge.ShmbridgeError):
            connect(host, example=None, observation_specs=[TensorSpec("q", shape, "uint8")])
        assert not host.wait(0.0)
        connect(host).close()


def test_a_policys_exception_that_no_text_can_hold_does_not_end_the_host(unique_name: str) -> None:
    with shmbridge.serve(Commanded(), f"shm://{unique_name}") as host, connect(host) as client:
        with pytest.raises(PolicyRaisedError, match="a file called"):
            client.infer({"q": np.full((2, 3), sample.ODD_TEXT, np.float32)}, timeout=20)
        assert client.infer(Q)["action"].shape == (2, 4, 3)
        assert not host.wait(0.0)


def test_a_client_that_floods_the_ring_is_ended_and_the_host_lives_on(unique_name: str) -> None:
    """A client that never takes its answers has no free action slot left; the host must not wait for it."""
    with shmbridge.serve(Affine(), f"shm://{unique_name}") as host:
        client = connect(host)
        connection = client._connection
        for number in range(1, 4):
            slot = connection.loan(Deadline(20.0))
            assert slot is not None
            slot.write_header(ObservationHeader(client.agreement.generation, number, 0, 1))
            connection.publish(number)
        eventually(lambda: client._connection._control.ended is not None)  # type: ignore[attr-defined]  # the test looks inside
        with pytest.raises(shmbridge.RemoteProtocolError, match="does not take the answers"):
            connection.take(Deadline(20.0))
        client.close()
        with connect(host) as other:
            other.infer(Q)


@pytest.mark.parametrize("header", [(1, 1), (0, 2), (0, 0)])
def test_a_client_whose_numbers_are_wrong_is_ended_and_the_host_lives_on(unique_name: str, header: tuple[int, int]) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}") as host:
        client = connect(host)
        slot = client._connection.loan(Deadline(20.0))
        assert slot is not None
        slot.write_header(ObservationHeader(client.agreement.generation + header[0], header[1], 0, 1))
        client._connection.publish(1)
        with pytest.raises(shmbridge.RemoteProtocolError, match="expected observation 1"):
            client._connection.take(Deadline(20.0))
        client.close()
        with connect(host) as other:
            other.infer(Q)


def test_many_connections_that_say_nothing_do_not_keep_a_client_out(unique_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}") as host:
        silent = []
        for _ in range(20):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(naming.socket_path(unique_name))
            silent.append(sock)
        with connect(host) as client:
            client.infer(Q)
        for sock in silent:
            sock.close()


def test_a_host_counts_whom_it_served_and_whom_it_sent_away(unique_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}") as host:
        assert (host.statistics().served, host.statistics().refused, host.statistics().lost, host.statistics().clients) == (0, 0, 0, {})
        for _ in range(2):
            with connect(host) as client:
                with pytest.raises(HostBusyError):
                    connect(host)
                client.infer(Q)
            eventually(lambda: not host.statistics().clients)
        statistics = host.statistics()
        assert (statistics.served, statistics.refused, statistics.lost) == (2, 2, 0)
        assert statistics.seconds > 0


def test_a_host_that_was_not_started_has_counted_nothing(unique_name: str) -> None:
    with pytest.raises(LocalProtocolError, match="not started"):
        shmbridge.PolicyHost(Affine(), f"shm://{unique_name}").statistics()


def test_a_host_counts_what_each_client_asked_for(unique_name: str) -> None:
    with shmbridge.serve(Commanded(), f"shm://{unique_name}", max_sessions=2) as host, connect(host) as first, connect(host) as second:
        for _ in range(3):
            first.infer(Q)
        second.act(Q)
        second.reset([1])
        second.act(Q)
        with pytest.raises(PolicyRaisedError):
            second.infer({"q": np.full((2, 3), sample.RAISE, np.float32)})
        one, two = host.statistics().clients.values()
        assert (one.requests, one.rows, one.failures) == (3, 6, 0)
        assert (two.requests, two.rows, two.failures) == (3, 3, 1)
        assert one.infer_seconds > 0


def test_two_sessions_of_one_process_are_told_apart(unique_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}", max_sessions=2) as host, connect(host), connect(host):
        names = list(host.statistics().clients)
        assert names[1] == f"{names[0]} (2)"
        assert [client.client for client in describe_host(unique_name).clients] == names


def test_a_name_gets_the_first_number_that_is_free() -> None:
    assert distinct("a", []) == "a"
    assert distinct("a", ["b"]) == "a"
    assert distinct("a", ["a", "a (2)", "a (4)"]) == "a (3)"


def test_a_rate_is_that_of_the_last_few_seconds() -> None:
    meter = RateMeter()
    assert meter.per_second == 0.0
    meter.note(10.0, 5)
    assert meter.per_second == 0.0
    meter.note(10.5, 20)
    assert meter.per_second == pytest.approx(30.0)
    for tick in range(1, 10):
        meter.note(10.5 + tick / 2, 20 + tick)
    assert meter.per_second == pytest.approx(2.0)


def test_a_client_that_keeps_asking_has_a_rate_and_loses_it_when_it_stops(unique_name: str) -> None:
    def rate() -> float:
        return describe_host(unique_name, timeout=20.0).clients[0].rate

    with shmbridge.serve(Affine(), f"shm://{unique_name}") as host, connect(host) as client:
        eventually(lambda: client.infer(Q) and rate() > 0)
        eventually(lambda: rate() == 0)


def test_a_host_says_what_becomes_of_each_client(unique_name: str) -> None:
    policy = Commanded()

    def states() -> list[str]:
        return [client.state for client in describe_host(unique_name, timeout=20.0).clients]

    with shmbridge.serve(policy, f"shm://{unique_name}", max_sessions=3) as host, connect(host) as first, connect(host) as second, connect(host):
        eventually(lambda: states() == ["idle"] * 3)
        first.submit({"q": np.full((2, 3), sample.WAIT, np.float32)})
        assert policy.entered.wait(60)
        second.submit(Q)
        assert states() == ["inferring", "waiting", "idle"]
        policy.gate.set()
        eventually(lambda: states() == ["idle"] * 3)


class Turns(Commanded):
    """Notes whose turn it was: sessions are numbered as they begin."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions = 0
        self.turns: list[int] = []

    def new_session(self, num_envs: int) -> int:
        self.sessions += 1
        return self.sessions - 1

    def infer(self, session: int, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, Any]:
        self.turns.append(session)
        return super().infer(session, observation, env_ids)


def test_no_client_waits_for_more_than_one_turn_of_each_other(unique_name: str) -> None:
    policy = Turns()
    with shmbridge.serve(policy, f"shm://{unique_name}", max_sessions=3) as host:
        clients = [connect(host, slots=4) for _ in range(3)]
        for client in clients:
            client.infer(Q)  # or the last may not be among those served yet when the turns begin
        policy.turns.clear()
        clients[0].submit({"q": np.full((2, 3), sample.WAIT, np.float32)})
        assert policy.entered.wait(60)
        for _ in range(3):
            for client in clients:
                client.submit(Q)
        policy.gate.set()
        for client in clients:
            for _ in range(4 if client is clients[0] else 3):
                assert client.poll(timeout=20.0) is not None
        rounds = np.array(policy.turns[1:]).reshape(3, 3)
        assert np.sort(rounds, axis=1).tolist() == [[rounds.min(), rounds.min() + 1, rounds.max()]] * 3
        for client in clients:
            client.close()


def test_a_client_that_never_takes_its_answers_holds_up_nobody(unique_name: str) -> None:
    with shmbridge.serve(Affine(), f"shm://{unique_name}", max_sessions=2) as host, connect(host) as lazy, connect(host) as busy:
        lazy.submit(Q)
        lazy.submit(Q)
        for number in range(50):
            assert busy.infer({"q": np.full((2, 3), number, np.float32)})["action"][0, 0, 0] == number
        assert lazy.poll(timeout=20.0) is not None


class Drifting(Affine):
    """Adds noise of its own per session, and counts per environment: any mixing of clients or rows shows."""

    def new_session(self, num_envs: int) -> tuple[np.random.Generator, np.ndarray]:
        return np.random.default_rng(num_envs), np.zeros(num_envs, np.float32)

    def reset(self, session: tuple[np.random.Generator, np.ndarray], env_ids: Sequence[int], task: Sequence[str]) -> None:
        session[1][list(env_ids)] = len(task[0])

    def infer(self, session: Any, observation: Mapping[str, np.ndarray], env_ids: Sequence[int]) -> Mapping[str, np.ndarray]:
        generator, counts = session
        counts[list(env_ids)] += 1
        noise = generator.uniform(-1, 1, (len(env_ids), self.horizon, 3)).astype(np.float32)
        return {"action": super().infer(session, observation, env_ids)["action"] + noise + counts[list(env_ids), None, None]}


def _play(client: shmbridge.Client, steps: int) -> list[list[float]]:
    num_envs = client.agreement.num_envs
    generator = np.random.default_rng(num_envs)
    played = []
    for _ in range(steps):
        if generator.random() < 0.3:
            client.reset(np.flatnonzero(generator.random(num_envs) < 0.5).tolist(), "a task")
        played.append(client.act({"q": generator.uniform(-1, 1, (num_envs, 3)).astype(np.float32)})["action"].tolist())
    return played


def test_clients_with_different_numbers_of_environments_act_together_as_each_alone(unique_name: str) -> None:
    sizes, steps = (1, 3, 5), 60
    offers = [{"example": {"q": np.zeros((num_envs, 3), np.float32)}, "num_envs": num_envs} for num_envs in sizes]
    alone = []
    for offer in offers:
        with shmbridge.connect(Drifting(), **offer) as client:
            alone.append(_play(client, steps))
    together: list[Any] = [None] * len(sizes)

    def play(place: int) -> None:
        with connect(host, **offers[place]) as client:
            together[place] = _play(client, steps)

    with shmbridge.serve(Drifting(), f"shm://{unique_name}", max_sessions=len(sizes)) as host:
        players = [threading.Thread(target=play, args=(place,)) for place in range(len(sizes))]
        for player in players:
            player.start()
        for player in players:
            player.join()
    assert together == alone


class Weighty(Affine):
    """Keeps something for each client, and lets the test see whether it is still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[weakref.ref[Any]] = []

    def new_session(self, num_envs: int) -> Any:
        state = set[int]()
        self.states.append(weakref.ref(state))
        return state


def test_what_a_policy_keeps_for_a_client_goes_with_it_without_waiting_for_a_garbage_collection(unique_name: str) -> None:
    policy = Weighty()
    with shmbridge.serve(policy, f"shm://{unique_name}") as host:
        gc.disable()
        try:
            for _ in range(3):
                with connect(host) as client:
                    client.act(Q)
            eventually(lambda: all(state() is None for state in policy.states[-3:]), "the end of what the policy kept")
        finally:
            gc.enable()
