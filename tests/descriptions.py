"""What a host tells of itself, made by hand, and a host that tells whatever a test wants."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from shmbridge.counters import RingStatistics, SessionStatistics
from shmbridge.layout import session_layouts
from shmbridge.memory.naming import socket_path
from shmbridge.messages import AnyMessage, ClientDescription, Description, HostState, SessionDescription, Status, encode
from shmbridge.policy import PolicySpecs
from shmbridge.spec import TensorSpec

OBSERVATION = [TensorSpec("camera", (8, 8, 3), "uint8", unit="sRGB"), TensorSpec("q", (3,), "float32", unit="rad")]
ACTION = [TensorSpec("action", (7,), "float32")]
SPECS = PolicySpecs(OBSERVATION, ACTION, 4)
NUM_ENVS = 2


def ring(slots: int = 2, **counts: int) -> RingStatistics:
    """Counts of a ring that nobody uses, but for what is given."""
    return RingStatistics(**{"slots": slots, "free": slots, "full": 0, "moved": 0, "held": 0, **counts})


def session(**changes: Any) -> SessionDescription:
    """A session that is as it must be, but for what is given."""
    layouts = session_layouts(SPECS, NUM_ENVS)
    given = {
        "generation": 77,
        "observation": OBSERVATION,
        "action": ACTION,
        "horizon": 4,
        "observation_steps": 1,
        "slots": 2,
        "observation_digest": layouts.observation.digest,
        "action_digest": layouts.action.digest,
        "observation_ring": ring(),
        "action_ring": ring(),
    }
    return SessionDescription(**given | changes)


def client(name: str = "client 7 on here", **changes: Any) -> ClientDescription:
    """A client that is as it must be, but for what is given."""
    given = {
        "client": name,
        "uid": os.geteuid(),
        "state": "idle",
        "num_envs": NUM_ENVS,
        "nbytes": sum(layout.segment_size(2) for layout in session_layouts(SPECS, NUM_ENVS)),
        "seconds": 12.0,
        "rate": 3.25,
        "counters": SessionStatistics(1000, 1900, 3, 4.0),
        "session": session(),
    }
    return ClientDescription(**given | changes)


def description(name: str, /, *clients: ClientDescription, **changes: Any) -> Description:
    """A host that is as it must be, but for what is given."""
    given = {
        "name": name,
        "version": "1.2.3",
        "pid": 4711,
        "uid": os.geteuid(),
        "policy": "sample",
        "config_digest": "0123456789abcdef0123",
        "status": Status(HostState.READY, 5.0, "after observation 7"),
        "seconds": 60.0,
        "max_sessions": 4,
        "clients": list(clients),
    }
    return Description(**given | changes)


def as_told(message: AnyMessage, **changes: Any) -> bytes:
    """Return a message's bytes with other values for some of its fields, whatever these are."""
    return msgspec.msgpack.encode(msgspec.to_builtins(message) | changes)


@contextlib.contextmanager
def answering(name: str, *answers: AnyMessage | bytes) -> Iterator[list[bytes]]:
    """A host that answers each connection's first words with the next answer, and all further ones with the last; yields what it heard."""
    heard: list[bytes] = []
    data = [answer if isinstance(answer, bytes) else encode(answer) for answer in answers]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(socket_path(name))
        listening.listen()
        thread = threading.Thread(target=_answer_all, args=(listening, data, heard), daemon=True)
        thread.start()
        try:
            yield heard
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            os.unlink(socket_path(name))


def _answer_all(listening: socket.socket, answers: list[bytes], heard: list[bytes]) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            heard.append(connection.recv(65536))
            answer = answers[min(len(heard), len(answers)) - 1]
            connection.sendall(struct.pack("<I", len(answer)) + answer)
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.recv(1)  # until it hangs up
