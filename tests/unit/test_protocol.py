"""The control conversation: the table, whose fault a breach is, and frames cut anywhere."""

from __future__ import annotations

import struct
from itertools import product

import hypothesis.strategies as st
import pytest
from hypothesis import given

from shmbridge.errors import LocalProtocolError, RemoteProtocolError
from shmbridge.messages import (
    MAX_MESSAGE_BYTES,
    AnyMessage,
    Attached,
    Close,
    Description,
    Failure,
    Hello,
    HostState,
    Ping,
    Query,
    Status,
    Stop,
    Welcome,
    encode,
)
from shmbridge.protocol import TRANSITIONS, Conversation, Role, State
from shmbridge.spec import TensorSpec

SPEC = TensorSpec("q", (7,), "float32")
HELLO = Hello(2, "0.1.0", "glibc 2.36", "client", 1, 2, [SPEC])
STATUS = Status(HostState.READY, 0.0)
WELCOME = Welcome(1, "p", "d", [SPEC], [SPEC], 1, 1, 2, "0", "1", ["/a"])
MESSAGES: list[AnyMessage] = [
    HELLO,
    STATUS,
    WELCOME,
    Failure("SpecError", "no"),
    Attached(),
    Ping(),
    Stop(),
    Query(),
    Description("default", "0.1.0", 1, 0, "p", "d", STATUS, 2.5, 1, []),
    Close(),
]
WELCOMED: list[tuple[Role, AnyMessage]] = [(Role.CLIENT, HELLO), (Role.HOST, STATUS), (Role.HOST, STATUS), (Role.HOST, WELCOME)]
EVERYTHING = list(product(State, Role, MESSAGES))


def ids(value: object) -> str:
    return getattr(value, "name", type(value).__name__)


def frame(message: AnyMessage) -> bytes:
    data = encode(message)
    return struct.pack("<I", len(data)) + data


def conversation(role: Role, state: State) -> Conversation:
    made = Conversation(role)
    made.state = state
    return made


def expected(state: State, speaker: Role, message: AnyMessage) -> State | None:
    return State.ENDED if isinstance(message, Close) else TRANSITIONS.get((state, speaker, type(message)))


@pytest.mark.parametrize(("state", "role", "message"), EVERYTHING, ids=ids)
def test_saying_something_follows_the_table_or_is_our_fault(state: State, role: Role, message: AnyMessage) -> None:
    talk = conversation(role, state)
    after = expected(state, role, message)
    if after is None:
        with pytest.raises(LocalProtocolError, match=f"the {role.value} may not send {type(message).__name__} when the conversation is {state.value}"):
            talk.send(message)
        assert talk.state is state
    else:
        assert talk.send(message) == frame(message)
        assert talk.state is after


@pytest.mark.parametrize(("state", "role", "message"), EVERYTHING, ids=ids)
def test_hearing_something_follows_the_table_or_is_the_peers_fault(state: State, role: Role, message: AnyMessage) -> None:
    talk = conversation(role, state)
    after = expected(state, role.peer, message)
    if state is State.ENDED:
        assert talk.receive(frame(message)) == []
    elif after is None:
        with pytest.raises(RemoteProtocolError, match=f"the {role.peer.value} may not send {type(message).__name__}"):
            talk.receive(frame(message))
    else:
        assert talk.receive(frame(message)) == [message]
        assert talk.state is after


def test_each_state_can_be_reached_and_each_can_end() -> None:
    assert {State.CONNECTED, *TRANSITIONS.values()} == set(State)
    assert {state for state, _, _ in TRANSITIONS} == set(State) - {State.ENDED}


@pytest.mark.parametrize(
    "script",
    [
        [*WELCOMED, (Role.CLIENT, Attached()), (Role.CLIENT, Ping()), (Role.HOST, STATUS), (Role.CLIENT, Close())],
        [(Role.CLIENT, HELLO), (Role.HOST, Failure("SpecError", "no"))],
        [(Role.CLIENT, Query()), (Role.HOST, MESSAGES[8])],
        [(Role.HOST, Failure("AuthenticationError", "who?"))],
        [(Role.CLIENT, HELLO), (Role.HOST, WELCOME), (Role.CLIENT, Attached()), (Role.CLIENT, Stop()), (Role.HOST, Close("as asked"))],
    ],
)
def test_both_sides_agree_where_a_conversation_stands(script: list[tuple[Role, AnyMessage]]) -> None:
    sides = {role: Conversation(role) for role in Role}
    for speaker, message in script:
        data = sides[speaker].send(message)
        assert sides[speaker.peer].receive(data) == [message]
        assert sides[Role.CLIENT].state is sides[Role.HOST].state
    assert sides[Role.CLIENT].state is State.ENDED


def test_frames_cut_at_every_byte_give_the_same_messages() -> None:
    stream = frame(HELLO) + frame(Close())
    for cut in range(len(stream) + 1):
        talk = Conversation(Role.HOST)
        assert talk.receive(stream[:cut]) + talk.receive(stream[cut:]) == [HELLO, Close()]
        assert not talk.is_mid_message


def test_frames_that_arrive_byte_by_byte_give_the_same_messages() -> None:
    talk = Conversation(Role.HOST)
    heard = [message for byte in frame(HELLO) + frame(Close("bye")) for message in talk.receive(bytes([byte]))]
    assert heard == [HELLO, Close("bye")]


def test_a_message_half_arrived_is_noticed() -> None:
    talk = Conversation(Role.HOST)
    assert not talk.is_mid_message
    talk.receive(frame(HELLO)[:1])
    assert talk.is_mid_message
    talk.receive(frame(HELLO)[1:])
    assert not talk.is_mid_message


def test_what_arrives_after_the_end_is_ignored_whatever_it_is() -> None:
    talk = Conversation(Role.HOST)
    assert talk.receive(frame(Close()) + frame(WELCOME) + struct.pack("<I", 3) + b"\xff\xff\xff") == [Close()]


def test_a_message_too_large_is_refused_on_both_sides() -> None:
    huge = Close("x" * MAX_MESSAGE_BYTES)
    talk = Conversation(Role.CLIENT)
    with pytest.raises(LocalProtocolError, match="at most"):
        talk.send(huge)
    assert talk.state is State.CONNECTED
    with pytest.raises(RemoteProtocolError, match="at most"):
        Conversation(Role.HOST).receive(struct.pack("<I", MAX_MESSAGE_BYTES + 1))


def test_an_announced_length_alone_reserves_nothing_and_waits() -> None:
    talk = Conversation(Role.HOST)
    assert talk.receive(struct.pack("<I", MAX_MESSAGE_BYTES)) == []
    assert talk.is_mid_message


@given(st.lists(st.binary(max_size=64), max_size=6), st.sampled_from(Role), st.sampled_from(State))
def test_arbitrary_bytes_only_wait_for_more_or_are_the_peers_fault(pieces: list[bytes], role: Role, state: State) -> None:
    talk = conversation(role, state)
    try:
        for piece in pieces:
            talk.receive(piece)
    except RemoteProtocolError:
        pass


@given(st.lists(st.sampled_from(MESSAGES) | st.binary(max_size=20), max_size=5), st.sampled_from(Role), st.sampled_from(State), st.data())
def test_real_frames_mixed_with_damage_only_wait_or_are_the_peers_fault(parts: list[AnyMessage | bytes], role: Role, state: State, data: st.DataObject) -> None:
    stream = b"".join(struct.pack("<I", len(part)) + part if isinstance(part, bytes) else frame(part) for part in parts)
    cut = data.draw(st.integers(0, len(stream)))
    talk = conversation(role, state)
    try:
        talk.receive(stream[:cut])
        talk.receive(stream[cut:])
    except RemoteProtocolError:
        pass
