"""Who may say what, when: the control conversation as a table of transitions, without I/O.

One conversation is one stream connection. Each message moves it from state to state, the same way on both sides:

    CONNECTED ── hello ──► NEGOTIATING ── welcome ──► WELCOMED ── attached ──► OPEN ── close ──► ENDED
        └─ query ─► QUERIED ── description ─► ENDED   └─ failure ─► ENDED
                       └─ failure ─► ENDED

Either side may say close at any time. What still arrives after the end is ignored, because the peer could not know yet.
"""

from __future__ import annotations

import enum
import struct

from shmbridge.errors import LocalProtocolError, RemoteProtocolError
from shmbridge.messages import (
    MAX_MESSAGE_BYTES,
    AnyMessage,
    Attached,
    Close,
    Description,
    Failure,
    Hello,
    Ping,
    Query,
    Status,
    Stop,
    Welcome,
    decode,
    encode,
)

_LENGTH = struct.Struct("<I")


class Role(enum.Enum):
    """Which side speaks."""

    CLIENT = "client"
    HOST = "host"

    @property
    def peer(self) -> Role:
        return Role.HOST if self is Role.CLIENT else Role.CLIENT


class State(enum.Enum):
    """Where a conversation stands."""

    CONNECTED = "connected"
    NEGOTIATING = "negotiating"
    WELCOMED = "welcomed"
    OPEN = "open"
    QUERIED = "queried"
    ENDED = "ended"


TRANSITIONS: dict[tuple[State, Role, type], State] = {
    (State.CONNECTED, Role.CLIENT, Hello): State.NEGOTIATING,
    (State.CONNECTED, Role.CLIENT, Query): State.QUERIED,
    (State.CONNECTED, Role.HOST, Failure): State.ENDED,
    (State.QUERIED, Role.HOST, Description): State.ENDED,
    (State.QUERIED, Role.HOST, Failure): State.ENDED,
    (State.NEGOTIATING, Role.HOST, Status): State.NEGOTIATING,
    (State.NEGOTIATING, Role.HOST, Welcome): State.WELCOMED,
    (State.NEGOTIATING, Role.HOST, Failure): State.ENDED,
    (State.WELCOMED, Role.CLIENT, Attached): State.OPEN,
    (State.OPEN, Role.CLIENT, Ping): State.OPEN,
    (State.OPEN, Role.CLIENT, Stop): State.OPEN,
    (State.OPEN, Role.HOST, Status): State.OPEN,
    (State.OPEN, Role.HOST, Failure): State.ENDED,
}


class Conversation:
    """Frames and unframes messages and keeps both sides to the table.

    A frame is the message's length as 4 little-endian bytes, then the message.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._unread = bytearray()
        self.state = State.CONNECTED

    def send(self, message: AnyMessage) -> bytes:
        """Return the bytes to send.

        Raises:
            LocalProtocolError: This side may not say that now, or it is too large. Nothing changed.
        """
        data = encode(message)
        if len(data) > MAX_MESSAGE_BYTES:
            raise LocalProtocolError(f"a {type(message).__name__} of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are allowed: describe fewer tensors")
        self.state = self._after(self._role, message, LocalProtocolError)
        return _LENGTH.pack(len(data)) + data

    def receive(self, data: bytes) -> list[AnyMessage]:
        """Take what arrived and return the messages that are complete.

        Raises:
            RemoteProtocolError: The peer broke the rules. The conversation is over.
        """
        self._unread += data
        messages: list[AnyMessage] = []
        while (frame := self._next_frame()) is not None:
            if self.state is State.ENDED:
                continue
            message = decode(frame)
            self.state = self._after(self._role.peer, message, RemoteProtocolError)
            messages.append(message)
        return messages

    @property
    def is_mid_message(self) -> bool:
        """Whether a message has begun to arrive and is not complete."""
        return bool(self._unread)

    def _next_frame(self) -> bytes | None:
        if len(self._unread) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._unread)
        if length > MAX_MESSAGE_BYTES:
            raise RemoteProtocolError(f"the peer announced a message of {length} bytes; at most {MAX_MESSAGE_BYTES} are allowed")
        end = _LENGTH.size + length
        if len(self._unread) < end:
            return None
        frame = bytes(self._unread[_LENGTH.size : end])
        del self._unread[:end]
        return frame

    def _after(self, speaker: Role, message: AnyMessage, blame: type[Exception]) -> State:
        if isinstance(message, Close):
            return State.ENDED
        state = TRANSITIONS.get((self.state, speaker, type(message)))
        if state is None:
            raise blame(f"the {speaker.value} may not send {type(message).__name__} when the conversation is {self.state.value}")
        return state
