"""The client's half of the control connection, against a host that the test plays by hand."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from helpers import open_descriptors

from shmbridge.errors import AuthenticationError, ClosedError, PeerLostError, RemoteProtocolError, TimedOutError
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import AnyMessage, Attached, Close, Failure, Hello, HostState, Ping, Status, Stop, Welcome
from shmbridge.protocol import Conversation, Role
from shmbridge.transport.control import Control
from shmbridge.transport.stream import Stream

HELLO = Hello(2, "0.1.0", "glibc 2.36", "client", 1, 2, [])
WELCOME = Welcome(1, "p", "d", [], [], 1, 1, 2, "0", "1", ["/a"])
LONG = 60.0


class PlayedHost:
    """The host's end of a socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self.stream = Stream(sock)
        self.conversation = Conversation(Role.HOST)
        self._heard: list[AnyMessage] = []

    def say(self, message: AnyMessage, *descriptors: int) -> None:
        self.stream.send(self.conversation.send(message), descriptors)

    def hear(self) -> AnyMessage:
        while not self._heard:
            assert self.stream.wait_readable(Deadline(LONG))
            data = self.stream.receive()
            assert data != b"", "the client is gone"
            self._heard = self.conversation.receive(data or b"")
        return self._heard.pop(0)


@pytest.fixture
def ends() -> Iterator[tuple[Control, PlayedHost]]:
    ours, theirs = socket.socketpair()
    control, host = Control(Stream(ours), "host 'played'"), PlayedHost(theirs)
    yield control, host
    control.close()
    host.stream.close()


def open_session(control: Control, host: PlayedHost) -> threading.Event:
    """Go through the handshake; the event is set when the client learns of the end."""
    ended = threading.Event()
    control.say(HELLO)
    host.hear()
    host.say(WELCOME)
    control.hear(Deadline(LONG), "saying hello")
    control.say(Attached())
    host.hear()
    control.watch(ended.set)
    return ended


def test_what_the_host_says_is_heard_in_order(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    control.say(HELLO)
    assert host.hear() == HELLO
    for seconds in (1.0, 2.0):
        host.say(Status(HostState.LOADING, seconds))
    host.say(WELCOME)
    heard = [control.hear(Deadline(LONG), "waiting") for _ in range(3)]
    assert heard == [Status(HostState.LOADING, 1.0), Status(HostState.LOADING, 2.0), WELCOME]


def test_a_host_that_says_nothing_is_waited_for_no_longer_than_allowed(ends: tuple[Control, PlayedHost]) -> None:
    with pytest.raises(TimedOutError, match=r"waited 0\.1 s for host 'played', which is LOADING"):
        ends[0].hear(Deadline(0.1), "which is LOADING for 3 s")


def test_a_host_that_goes_during_the_handshake_is_lost(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    control.say(HELLO)
    host.stream.close()
    with pytest.raises(PeerLostError) as lost:
        control.hear(Deadline(LONG), "saying hello")
    assert (lost.value.peer, lost.value.phase) == ("host 'played'", "saying hello")


def test_a_host_that_is_gone_before_we_speak_is_lost(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    host.stream.close()
    control.say(HELLO)
    with pytest.raises(PeerLostError):
        control.hear(Deadline(LONG), "saying hello")


def test_one_who_waits_for_a_host_that_no_longer_listens_waits_without_spinning(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    host.stream._socket.shutdown(socket.SHUT_RD)
    control.say(HELLO)
    assert not control._stream.wants_to_write
    with pytest.raises(TimedOutError):
        control.hear(Deadline(0.05), "saying hello")


def test_what_a_host_said_before_it_left_is_heard_by_one_who_spoke_too_late(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    refusal = Failure("AuthenticationError", "not you")
    host.say(refusal)
    host.stream.close()
    control.say(HELLO)
    assert control.hear(Deadline(LONG), "saying hello") == refusal


def test_a_host_that_leaves_right_after_its_welcome_is_lost_and_it_is_not_our_fault(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    control.say(HELLO)
    host.hear()
    host.say(WELCOME)
    host.say(Close("the host is stopping"))
    assert control.hear(Deadline(LONG), "saying hello") == WELCOME
    with pytest.raises(PeerLostError):
        control.say(Attached())


def test_garbage_is_the_hosts_fault(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    control.say(HELLO)
    host.stream.send(b"\x03\0\0\0\xff\xff\xff")
    with pytest.raises(RemoteProtocolError):
        control.hear(Deadline(LONG), "saying hello")


def test_the_wrong_number_of_descriptors_is_the_hosts_fault_and_none_is_kept() -> None:
    before = open_descriptors()
    ours, theirs = socket.socketpair()
    control, host = Control(Stream(ours), "host 'played'"), PlayedHost(theirs)
    control.say(HELLO)
    host.hear()
    read_end, write_end = os.pipe()
    host.say(WELCOME, read_end, write_end)
    control.hear(Deadline(LONG), "saying hello")
    with pytest.raises(RemoteProtocolError, match="passed 2 descriptors, expected 3"):
        control.take_descriptors(3)
    control.close()
    host.stream.close()
    os.close(read_end)
    os.close(write_end)
    assert open_descriptors() == before


def test_a_ping_is_answered_with_the_state(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    open_session(control, host)

    def answer() -> None:
        assert host.hear() == Ping()
        host.say(Status(HostState.BUSY, 1.0, "observation 3"))

    thread = threading.Thread(target=answer)
    thread.start()
    assert control.status(Deadline(LONG)) == Status(HostState.BUSY, 1.0, "observation 3")
    thread.join()


def test_a_ping_that_is_not_answered_gives_nothing(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    open_session(control, host)
    assert control.status(Deadline(0.1)) is None
    assert control.ended is None


def test_a_late_answer_is_not_taken_for_that_to_the_next_ping(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    open_session(control, host)
    assert control.status(Deadline(0.05)) is None
    assert host.hear() == Ping()
    host.say(Status(HostState.BUSY, 1.0, "late"))
    while control._statuses.empty():
        threading.Event().wait(0.005)

    def answer() -> None:
        assert host.hear() == Ping()
        host.say(Status(HostState.READY, 0.0, "current"))

    thread = threading.Thread(target=answer)
    thread.start()
    status = control.status(Deadline(LONG))
    thread.join()
    assert status is not None and status.detail == "current"


def test_the_end_of_the_connection_is_the_death_notice(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    ended = open_session(control, host)
    host.stream.close()
    assert ended.wait(LONG)
    assert isinstance(control.ended, PeerLostError)
    assert "host 'played' is gone" in str(control.ended)


def test_a_goodbye_says_why(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    ended = open_session(control, host)
    host.say(Close("client 7 asked the host to stop"))
    assert ended.wait(LONG)
    assert isinstance(control.ended, PeerLostError)
    assert "client 7 asked the host to stop" in str(control.ended)


def test_a_failure_ends_the_session_as_the_error_it_tells(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    ended = open_session(control, host)
    host.say(Failure("ClosedError", "nothing was asked for"))
    assert ended.wait(LONG)
    assert isinstance(control.ended, ClosedError)


def test_garbage_ends_an_open_session_as_the_hosts_fault(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    ended = open_session(control, host)
    host.stream.send(b"\x01\0\0\0\xc1")
    assert ended.wait(LONG)
    assert isinstance(control.ended, RemoteProtocolError)


def test_closing_says_goodbye_and_is_noticed_here_too(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    ended = open_session(control, host)
    control.close()
    assert ended.is_set()
    assert isinstance(control.ended, ClosedError)
    assert host.hear() == Close()
    control.close()


def test_stopping_the_host_waits_until_it_said_goodbye(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    open_session(control, host)

    def answer() -> None:
        assert host.hear() == Stop()
        host.say(Close("as asked"))

    thread = threading.Thread(target=answer)
    thread.start()
    control.stop_host(Deadline(LONG))
    thread.join()
    assert isinstance(control.ended, PeerLostError)


def test_a_host_that_does_not_take_stop_says_so(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    open_session(control, host)

    def answer() -> None:
        assert host.hear() == Stop()
        host.say(Failure("AuthenticationError", "clients may not stop it"))

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(AuthenticationError, match="may not stop"):
        control.stop_host(Deadline(LONG))
    thread.join()


def test_a_host_that_says_nothing_to_stop_is_not_waited_for_longer_than_allowed(ends: tuple[Control, PlayedHost]) -> None:
    control, host = ends
    open_session(control, host)
    with pytest.raises(TimedOutError):
        control.stop_host(Deadline(0.1))


def test_closing_leaves_no_descriptor_and_no_thread() -> None:
    before, threads = open_descriptors(), threading.active_count()
    ours, theirs = socket.socketpair()
    control, host = Control(Stream(ours), "host 'played'"), PlayedHost(theirs)
    open_session(control, host)
    control.close()
    host.stream.close()
    assert open_descriptors() == before
    assert threading.active_count() == threads
