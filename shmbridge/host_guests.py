"""Who knocks at a host, what they may expect, and why they are sent away."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from shmbridge.errors import HostBusyError, RemoteProtocolError, SpecError
from shmbridge.host_worker import ServedPolicy, ServedSession
from shmbridge.memory.posix import libc_version
from shmbridge.messages import PROTOCOL_VERSION, ClientDescription, Hello, SessionDescription
from shmbridge.protocol import Conversation, Role, State
from shmbridge.transport.stream import Stream
from shmbridge.version import __version__

_RATE_SAMPLES = 7
"""Taken every half second, so over three seconds."""


@dataclass(frozen=True)
class HostSettings:
    """What a host allows.

    Attributes:
        max_sessions: Clients served at a time. A further one is refused by name.
        timeout: Seconds a client may take over its part of the handshake or a half-sent message.
        idle_timeout: Seconds after which a session that asks for nothing is ended; None for never.
        remote_kill: Whether a client may stop the host.
        shm_group: Group whose members are served as the host's own user is; None for that user only.
    """

    max_sessions: int = 1
    timeout: float = 5.0
    idle_timeout: float | None = None
    remote_kill: bool = True
    shm_group: int | None = None


class RateMeter:
    """How often something happened lately."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES)

    def note(self, now: float, count: int) -> None:
        """Take in how often it has happened until now."""
        self._samples.append((now, count))

    @property
    def per_second(self) -> float:
        """Over the samples that are kept; 0 before there are two."""
        if len(self._samples) < 2:
            return 0.0
        (then, before), (now, count) = self._samples[0], self._samples[-1]
        return (count - before) / max(now - then, 1e-9)


class Guest:
    """One connection: its stream, where the conversation stands, and its session once there is one."""

    def __init__(self, stream: Stream, uid: int) -> None:
        self.stream = stream
        self.uid = uid
        self.rate = RateMeter()
        self.conversation = Conversation(Role.HOST)
        self.since = time.monotonic()
        self.name = "a client that has not said hello"
        self.hello: Hello | None = None
        self.served: ServedSession | None = None
        self.half_since: float | None = None

    def occupies(self) -> bool:
        """Whether it counts as a client: it said hello and is still here."""
        return self.hello is not None and self.conversation.state is not State.ENDED

    def note_half_message(self) -> None:
        """Remember since when a message has been half there."""
        self.half_since = (self.half_since or time.monotonic()) if self.conversation.is_mid_message else None

    @property
    def dawdling_since(self) -> float | None:
        """Since when the next word has been the guest's: before hello, between welcome and attached, within a message."""
        return self.since if self.conversation.state in (State.CONNECTED, State.WELCOMED, State.ENDED) else self.half_since


def check_compatible(hello: Hello) -> None:
    """Raise unless client and host understand each other.

    Raises:
        RemoteProtocolError: They speak different protocols, or one has semaphores of another C library.
    """
    if hello.protocol != PROTOCOL_VERSION:
        versions = f"the client (shmbridge {hello.version}) speaks protocol {hello.protocol}, this host (shmbridge {__version__}) {PROTOCOL_VERSION}"
        raise RemoteProtocolError(f"{versions}: install one version on both sides")
    if "glibc" not in hello.libc or "glibc" not in libc_version():
        libraries = f"the client has {hello.libc}, this host {libc_version()}"
        raise RemoteProtocolError(f"{libraries}: semaphores are shared between glibc processes only; use an image based on glibc, not Alpine")


def check_place(host: str, max_sessions: int, serving: Sequence[Guest]) -> None:
    """Raise HostBusyError, which names who is served, if there is no place for one more."""
    if len(serving) >= max_sessions:
        names = ", ".join(f"{guest.name} for {time.monotonic() - guest.since:.0f} s" for guest in serving)
        takes = f"host {host!r} takes {max_sessions} client(s) at a time (--max_sessions) and serves {names}"
        raise HostBusyError(f"{takes}; wait, or start a second host under another --name")


def check_expectations(host: str, hello: Hello, policy: ServedPolicy) -> None:
    """Raise SpecError, which shows both, if the client expects another policy or configuration than there is."""
    if hello.policy is not None and hello.policy != policy.name:
        raise SpecError(f"host {host!r} runs another policy than expected: --policy_type here is {hello.policy!r}, there {policy.name!r}")
    here, there = hello.config_digest, policy.config_digest
    if here is not None and here != there:
        differ = f"host {host!r} runs {policy.name!r} with another configuration (digest {here[:12]} here, {there[:12]} there)"
        raise SpecError(f"{differ}: give both sides the same --policy_config_yaml_path and no further settings")


def describe_client(guest: Guest, served: ServedSession, doing: str, *, details: bool) -> ClientDescription:
    """Return what ``ls`` and ``inspect`` say of a client."""
    agreed, counters = served.end.agreement, served.session.counters()
    session = _describe_session(served) if details else None
    seconds = time.monotonic() - guest.since
    return ClientDescription(served.end.client, guest.uid, doing, agreed.num_envs, served.end.nbytes, seconds, guest.rate.per_second, counters, session)


def _describe_session(served: ServedSession) -> SessionDescription | None:
    agreed, rings = served.end.agreement, served.end.statistics()
    if rings is None:
        return None  # it has just ended
    return SessionDescription(
        generation=agreed.generation,
        observation=list(agreed.specs.observation),
        action=list(agreed.specs.action),
        horizon=agreed.specs.horizon,
        observation_steps=agreed.specs.observation_steps,
        slots=agreed.slots,
        observation_digest=agreed.layouts.observation.digest,
        action_digest=agreed.layouts.action.digest,
        observation_ring=rings[0],
        action_ring=rings[1],
    )


def printable(text: str) -> str:
    """Return what a client calls itself, without anything that could move a terminal's cursor."""
    return "".join(char if char.isprintable() else "?" for char in text[:120]) or "a nameless client"


def distinct(name: str, taken: Sequence[str]) -> str:
    """Return ``name``, with a number where others have it already: two sessions of one process call themselves alike."""
    numbered = (name if number == 1 else f"{name} ({number})" for number in itertools.count(1))
    return next(candidate for candidate in numbered if candidate not in taken)
