"""Streams: bytes and descriptors that never block, and ends that forked children do not keep open."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator

import pytest
from helpers import open_descriptors

from shmbridge.memory.waiting import Deadline
from shmbridge.transport.stream import ClosedInChildren, Stream, peer_credentials


@pytest.fixture
def pair() -> Iterator[tuple[Stream, Stream]]:
    left, right = (Stream(end) for end in socket.socketpair())
    yield left, right
    left.close()
    right.close()


def receive_all(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        assert stream.wait_readable(Deadline(60.0))
        data += stream.receive() or b""
    return data


def test_bytes_arrive(pair: tuple[Stream, Stream]) -> None:
    pair[0].send(b"hello")
    assert pair[1].wait_readable(Deadline(60.0))
    assert pair[1].receive() == b"hello"


def test_nothing_there_yet_is_told_from_a_peer_that_is_gone(pair: tuple[Stream, Stream]) -> None:
    assert pair[1].receive() is None
    pair[0].close()
    assert pair[1].receive() == b""


def test_what_was_sent_before_the_end_is_still_read(pair: tuple[Stream, Stream]) -> None:
    pair[0].send(b"last words")
    pair[0].close()
    assert pair[1].receive() == b"last words"
    assert pair[1].receive() == b""


def test_waiting_ends_with_the_deadline(pair: tuple[Stream, Stream]) -> None:
    deadline = Deadline(0.05)
    assert not pair[0].wait_readable(deadline)
    assert deadline.passed


def test_waiting_ends_when_the_peer_goes(pair: tuple[Stream, Stream]) -> None:
    pair[1].close()
    assert pair[0].wait_readable(Deadline(60.0))


def test_a_slow_reader_does_not_block_the_writer_and_misses_nothing(pair: tuple[Stream, Stream]) -> None:
    data = os.urandom(1 << 22)
    pair[0].send(data)
    assert pair[0].wants_to_write
    received = b""
    while len(received) < len(data):
        received += pair[1].receive() or b""
        pair[0].flush()
    assert received == data
    assert not pair[0].wants_to_write


def test_messages_queued_behind_a_slow_reader_keep_their_order(pair: tuple[Stream, Stream]) -> None:
    parts = [bytes([number]) * 300_000 for number in range(5)]
    for part in parts:
        pair[0].send(part)
    received = b""
    while len(received) < 1_500_000:
        received += pair[1].receive() or b""
        pair[0].flush()
    assert received == b"".join(parts)


def test_writing_to_a_peer_that_is_gone_is_an_exception_and_no_signal(pair: tuple[Stream, Stream]) -> None:
    pair[1].close()
    with pytest.raises(ConnectionError):
        pair[0].send(b"hello")


def test_descriptors_travel_beside_the_bytes(pair: tuple[Stream, Stream]) -> None:
    read_end, write_end = os.pipe()
    pair[0].send(b"here", [write_end])
    assert pair[1].receive() == b"here"
    (passed,) = pair[1].descriptors
    os.write(passed, b"through")
    assert os.read(read_end, 10) == b"through"
    for descriptor in (read_end, write_end):
        os.close(descriptor)


def test_descriptors_are_sent_once_even_if_the_bytes_go_in_pieces(pair: tuple[Stream, Stream]) -> None:
    read_end, write_end = os.pipe()
    pair[0].send(b"x" * (1 << 21), [write_end])
    received = 0
    while received < 1 << 21:
        received += len(pair[1].receive() or b"")
        pair[0].flush()
    assert len(pair[1].descriptors) == 1
    for descriptor in (read_end, write_end):
        os.close(descriptor)


def test_descriptors_that_nobody_took_are_closed_with_the_stream() -> None:
    before = open_descriptors()
    left, right = (Stream(end) for end in socket.socketpair())
    read_end, write_end = os.pipe()
    left.send(b"here", [write_end, read_end])
    assert right.receive() == b"here"
    for descriptor in (read_end, write_end):
        os.close(descriptor)
    right.close()
    right.close()
    left.close()
    assert open_descriptors() == before


def test_descriptors_may_be_dropped_while_the_stream_goes_on() -> None:
    left, right = (Stream(end) for end in socket.socketpair())
    before = open_descriptors()
    left.send(b"here", [left.fileno()] * 3)
    assert right.receive() == b"here"
    right.drop_descriptors()
    assert open_descriptors() == before
    left.send(b"more")
    assert right.receive() == b"more"
    left.close()
    right.close()


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    left, right = socket.socketpair()
    assert peer_credentials(left) == (os.getpid(), os.geteuid(), {os.getegid(), *os.getgroups()})
    left.close()
    right.close()


def test_a_forked_child_does_not_keep_the_end_open() -> None:
    left, right = socket.socketpair()
    stream = Stream(left)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover: in the child
        right.close()
        os.close(write_end)
        os.read(read_end, 1)  # until the parent has seen the end
        os._exit(0)
    try:
        stream.close()
        assert select.select([right], [], [], 60)[0]
        assert right.recv(1) == b""
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.close(write_end)
        os.close(read_end)
        os.waitpid(child, 0)
        right.close()


def test_only_what_still_exists_is_closed_in_children() -> None:
    class Held(ClosedInChildren):
        def close_descriptors(self) -> None:
            os.write(write_end, b"x")

    read_end, write_end = os.pipe()
    kept, dropped = Held(), Held()
    del dropped
    child = os.fork()
    if child == 0:  # pragma: no cover: in the child
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write_end)
    assert os.read(read_end, 10) == b"x"
    os.close(read_end)
    kept.close_descriptors = lambda: None  # type: ignore[method-assign]  # it must live up to here, and be silent later
