"""Both ends of a session over shared memory, joined by a socket pair."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import pytest
from helpers import make_agreement, mapped_segments, open_descriptors, ours_in_shm

from shmbridge.counters import RingStatistics
from shmbridge.errors import ClosedError, LayoutMismatchError, PeerLostError, RemoteProtocolError, SegmentNotReadyError, SharedMemoryFullError, ShmbridgeError
from shmbridge.layout import ActionHeader, ObservationHeader
from shmbridge.memory import capacity
from shmbridge.memory.ring import post
from shmbridge.memory.sharing import Sharing
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import AnyMessage, Attached, Close, Hello, Welcome
from shmbridge.protocol import Conversation, Role
from shmbridge.transport import shm
from shmbridge.transport.base import Agreement
from shmbridge.transport.control import Control
from shmbridge.transport.shm import ShmConnection, ShmHostEnd
from shmbridge.transport.stream import Stream

SOON, LONG = Deadline(0.0), 60.0


@dataclass
class Session:
    """A host's end that the test plays, and a client's end that attached to it."""

    name: str
    agreement: Agreement

    def __post_init__(self) -> None:
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.end = ShmHostEnd(self.agreement, "client 1", self.name, self.bell)
        ours, theirs = socket.socketpair()
        self.control, self.host_stream = Control(Stream(ours), f"host {self.name!r}"), Stream(theirs)
        self.conversation = Conversation(Role.HOST)
        self.connection: ShmConnection | None = None

    def attach(self, **changes: object) -> ShmConnection:
        """Shake hands; ``changes`` are made to the welcome."""
        self.control.say(Hello(2, "0.1.0", "glibc", "client 1", 2, 2, []))
        self._hear()
        welcome, descriptors = self.end.welcome()
        self.host_stream.send(self.conversation.send(msgspec.structs.replace(welcome, **changes)), descriptors)
        heard = self.control.hear(Deadline(LONG), "saying hello")
        assert isinstance(heard, Welcome)
        self.connection = ShmConnection(self.control, heard, self.agreement, f"host {self.name!r}")
        assert self._hear() == [Attached()]
        self.end.forget_names()
        return self.connection

    def _hear(self) -> list[object]:
        assert self.host_stream.wait_readable(Deadline(LONG))
        return list(self.conversation.receive(self.host_stream.receive() or b""))

    def close(self) -> None:
        """End both ends, as a host and a client do; may be called twice."""
        if self.connection is not None:
            self.connection.close()
        self.control.close()
        self.host_stream.close()
        self.end.forget_names()
        self.end.close()
        if self.bell >= 0:
            os.close(self.bell)
            self.bell = -1


@pytest.fixture
def session(unique_name: str) -> Iterator[Session]:
    made = Session(unique_name, make_agreement(2))
    yield made
    made.close()


def answer(session: Session) -> None:
    observation, action = session.end.try_take(), session.end.try_loan()
    assert observation is not None and action is not None
    header = observation.read_header()
    action.tensors["action"][...] = observation.tensors["q"][:, None, :]
    action.write_header(ActionHeader(header.generation, header.sequence, 0, 0, 1))
    session.end.publish()
    session.end.release(observation)


def publish(connection: ShmConnection, number: int) -> None:
    slot = connection.loan(Deadline(LONG))
    assert slot is not None
    slot.tensors["q"][...] = number
    slot.write_header(ObservationHeader(7, number, 0, 1))
    connection.publish(number)


def test_observations_go_there_and_actions_come_back(session: Session) -> None:
    connection = session.attach()
    for number in range(1, 8):
        publish(connection, number)
        assert session.end.waiting == 1
        answer(session)
        slot = connection.take(Deadline(LONG))
        assert slot is not None
        assert slot.read_header().sequence == number
        assert slot.tensors["action"][1, 2, 1] == number
        connection.release(slot)
    assert connection.take(SOON) is None


def test_answers_that_could_be_taken_are_counted_and_so_is_where_the_rings_stand(session: Session) -> None:
    connection = session.attach()
    assert connection.arrived == 0
    publish(connection, 1)
    publish(connection, 2)
    answer(session)
    assert connection.arrived == 1
    ours, theirs = connection.statistics(), session.end.statistics()
    assert ours is not None and theirs is not None
    assert ours == (RingStatistics(slots=2, free=1, full=1, moved=2, held=0), RingStatistics(slots=2, free=1, full=1, moved=0, held=0))
    assert theirs == (RingStatistics(slots=2, free=1, full=1, moved=1, held=0), RingStatistics(slots=2, free=1, full=1, moved=1, held=0))
    answer(session)
    assert connection.arrived == 2
    for left in (1, 0):
        slot = connection.take(Deadline(LONG))
        assert slot is not None
        connection.release(slot)
        assert connection.arrived == left


def test_a_session_that_is_over_has_no_rings_to_tell_of(session: Session) -> None:
    connection = session.attach()
    session.end.close()
    assert session.end.statistics() is None
    connection.close()
    assert connection.statistics() is None


def test_a_lost_host_leaves_no_rings_to_tell_of(session: Session) -> None:
    connection = session.attach()
    session.host_stream.close()
    while session.control.ended is None:
        threading.Event().wait(0.005)
    assert connection.statistics() is None


def test_where_the_rings_stand_may_be_asked_while_they_are_being_closed(unique_name: str) -> None:
    """The host's other thread asks; a closed semaphore would be a segmentation fault, or an exception of another library."""
    for _ in range(20):
        session = Session(unique_name, make_agreement(2))
        session.attach()
        stop, found = threading.Event(), []

        def look(session: Session = session, stop: threading.Event = stop, found: list[object] = found) -> None:
            while not stop.is_set():
                found.append(session.end.statistics())

        looker = threading.Thread(target=look)
        looker.start()
        while not found:
            stop.wait(0.0005)
        session.end.close()
        stop.set()
        looker.join()
        assert found[0] is not None
        session.close()


def test_each_observation_rings_the_bell(session: Session) -> None:
    connection = session.attach()
    publish(connection, 1)
    publish(connection, 2)
    assert os.eventfd_read(session.bell) == 2


def test_names_are_there_between_welcome_and_attached_only(session: Session) -> None:
    assert len(ours_in_shm(session.name)) == 4
    session.attach()
    assert ours_in_shm(session.name) == []


def test_each_side_can_write_only_what_it_produces(session: Session) -> None:
    connection = session.attach()
    publish(connection, 1)
    observation = session.end.try_take()
    assert observation is not None
    with pytest.raises(ValueError, match="read-only"):
        observation.tensors["q"][...] = 0
    action = session.end.try_loan()
    assert action is not None
    session.end.publish()
    taken = connection.take(Deadline(LONG))
    assert taken is not None
    with pytest.raises(ValueError, match="read-only"):
        taken.tensors["action"][...] = 0


def test_a_host_without_a_free_action_slot_is_told_at_once(session: Session) -> None:
    session.attach()
    for _ in range(2):
        assert session.end.try_loan() is not None
        session.end.publish()
    assert session.end.try_loan() is None


@pytest.mark.parametrize("waits_for", ["an action", "a free observation slot"])
def test_a_lost_host_wakes_a_blocked_client_with_peer_phase_and_sequence(session: Session, waits_for: str) -> None:
    connection = session.attach()
    publish(connection, 1)
    publish(connection, 2)
    errors: list[PeerLostError] = []

    def wait() -> None:
        try:
            connection.take(Deadline(LONG)) if waits_for == "an action" else connection.loan(Deadline(LONG))
        except PeerLostError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    session.host_stream.close()
    waiter.join()
    (error,) = errors
    assert (error.peer, error.phase, error.sequence) == (f"host '{session.name}'", f"waiting for {waits_for}", 2)
    assert f"we were waiting for {waits_for} (observation 2)" in str(error)


def test_after_the_loss_nothing_is_lent_or_taken_or_told(session: Session) -> None:
    connection = session.attach()
    publish(connection, 1)
    answer(session)
    assert connection.arrived == 1
    assert connection.loan(SOON) is not None
    session.host_stream.close()
    while session.control.ended is None:
        threading.Event().wait(0.005)
    for call in (
        lambda: connection.loan(SOON),
        lambda: connection.take(SOON),
        lambda: connection.arrived,
        lambda: connection.host_status(SOON),
        lambda: connection.stop_host(SOON),
    ):
        with pytest.raises(PeerLostError):
            call()


def test_closing_from_another_thread_ends_a_blocked_wait(session: Session) -> None:
    connection = session.attach()
    errors: list[ShmbridgeError] = []
    entered = threading.Event()

    def wait() -> None:
        try:
            with connection.in_use:  # as a client does, so that closing waits until we have left
                entered.set()
                connection.take(Deadline(LONG))
        except ShmbridgeError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    entered.wait()
    connection.close()
    waiter.join()
    assert [type(error) for error in errors] == [ClosedError]
    for call in (lambda: connection.loan(SOON), lambda: connection.take(SOON), connection.close):
        if call == connection.close:
            call()
        else:
            with pytest.raises(ClosedError):
                call()


def test_a_session_that_was_lost_is_not_answered_by_the_host(session: Session) -> None:
    connection = session.attach()
    publish(connection, 1)
    session.end.mark_lost("it is gone without a goodbye")
    with pytest.raises(ClosedError, match="it is gone without a goodbye"):
        session.end.try_take()


@pytest.mark.parametrize("change", [{"observation_digest": "00"}, {"action_digest": "00"}])
def test_another_layout_is_refused_with_both_digests(session: Session, change: dict[str, str]) -> None:
    with pytest.raises(LayoutMismatchError, match="install one version of shmbridge on both sides"):
        session.attach(**change)


@pytest.mark.parametrize("names", [[], ["/a"], ["/a"] * 5])
def test_another_number_of_semaphores_is_the_hosts_fault(session: Session, names: list[str]) -> None:
    with pytest.raises(RemoteProtocolError, match="semaphores"):
        session.attach(semaphores=names)


@pytest.mark.parametrize("names", [["/a b"] * 4, ["../../etc/passwd"] * 4, ["/" + "x" * 300] * 4, ["/\0"] * 4, ["/ü"] * 4, [""] * 4])
def test_semaphores_of_impossible_names_are_an_error_of_ours(session: Session, names: list[str]) -> None:
    with pytest.raises(ShmbridgeError):
        session.attach(semaphores=names)


def test_missing_semaphores_mean_another_tmpfs(session: Session) -> None:
    with pytest.raises(SegmentNotReadyError, match="mount the same tmpfs"):
        session.attach(semaphores=[f"/shmbridge.{session.name}.none.{i}" for i in range(4)])


def test_memory_of_another_size_is_refused(session: Session) -> None:
    session.agreement = make_agreement(2, slots=3)
    with pytest.raises(SegmentNotReadyError, match="disagree about the layout"):
        session.attach()


def count_resources() -> tuple[dict[int, str], int]:
    return open_descriptors(), mapped_segments()


def test_closing_both_ends_leaves_neither_memory_nor_descriptors(unique_name: str) -> None:
    before = count_resources()
    session = Session(unique_name, make_agreement(2))
    session.attach()
    session.close()
    assert session.connection is not None  # memory must go with close(), not only with the last reference
    assert open_descriptors() == before[0]
    assert mapped_segments() == before[1]


def fail_to_attach(name: str, break_it: str) -> None:
    session = Session(name, make_agreement(2))
    if break_it == "sizes":
        session.agreement = make_agreement(2, slots=3)
    if break_it == "goodbye":
        say = session.control.say

        def leave_in_between(message: AnyMessage) -> None:
            if isinstance(message, Attached):
                raise PeerLostError("gone")
            say(message)

        session.control.say = leave_in_between  # type: ignore[method-assign]  # the host goes just then
    changes: dict[str, object] = {"digests": {"action_digest": "00"}, "semaphores": {"semaphores": [f"/shmbridge.{name}.none.x"] * 4}}.get(break_it, {})
    try:
        session.attach(**changes)
    except ShmbridgeError:
        return
    finally:
        session.close()
    pytest.fail("it attached")


@pytest.mark.parametrize("break_it", ["digests", "semaphores", "sizes", "goodbye"])
def test_an_attach_that_fails_leaves_neither_memory_nor_descriptors(unique_name: str, break_it: str) -> None:
    before = count_resources()
    fail_to_attach(unique_name, break_it)
    assert count_resources() == before


def test_too_little_memory_is_said_before_anything_is_reserved(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "tmpfs_room", lambda: capacity.Room("/dev/shm", 1000, 64_000_000))
    before = count_resources()
    with pytest.raises(SharedMemoryFullError) as refusal:
        ShmHostEnd(make_agreement(2), "client 1", unique_name, -1)
    assert "2 environments: 2 slots of" in str(refusal.value)
    assert "for observations + 2 slots of" in str(refusal.value)
    assert refusal.value.free == 1000
    assert count_resources() == before


def test_half_made_sessions_leave_nothing(unique_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    create = shm.Semaphore.create

    def create_two(name: str, value: int, sharing: Sharing) -> object:
        if len(made) == 2:
            raise SharedMemoryFullError("no page left")
        made.append(name)
        return create(name, value, sharing)

    monkeypatch.setattr(shm.Semaphore, "create", create_two)
    before = count_resources()
    with pytest.raises(SharedMemoryFullError):
        ShmHostEnd(make_agreement(2), "client 1", unique_name, -1)
    assert ours_in_shm(unique_name) == []
    assert count_resources() == before


def test_closing_says_goodbye(session: Session) -> None:
    connection = session.attach()
    connection.close()
    assert session._hear() == [Close()]


def test_descriptors_forgotten_after_the_worker_closed_its_end_are_closed_too(unique_name: str) -> None:
    before = open_descriptors()
    bell = os.eventfd(0)
    end = ShmHostEnd(make_agreement(), "a client", unique_name, bell)
    end.close()
    end.forget_names()
    os.close(bell)
    assert open_descriptors() == before
    assert ours_in_shm(unique_name) == []


def test_closing_within_a_close_does_not_wait_for_itself(session: Session) -> None:
    connection = session.attach()
    with connection._closing:  # as a signal handler finds it
        connection.close()
    assert connection.statistics() is None


def test_a_semaphore_that_a_peer_broke_ends_its_session_and_not_the_host() -> None:
    class Full:
        def release(self) -> None:
            raise OSError(75, "Value too large for defined data type")

    with pytest.raises(RemoteProtocolError, match="broke"):
        post(Full())  # type: ignore[arg-type]
