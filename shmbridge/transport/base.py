"""The seam between sessions and whatever carries their slots."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from shmbridge.counters import RingStatistics
from shmbridge.errors import SpecError
from shmbridge.layout import Layouts, Slot, session_layouts
from shmbridge.memory.naming import DEFAULT_NAME, check_name
from shmbridge.memory.waiting import Deadline
from shmbridge.messages import Status
from shmbridge.policy import PolicySpecs

OnStatus = Callable[[Status], None]
DEFAULT_SLOTS = 2
"""Lockstep needs two. More cost cache: each slot is another destination that must be brought in."""


@dataclass(frozen=True)
class Agreement:
    """What both sides of a session hold to.

    Attributes:
        generation: Number of this session; no two of a host are alike.
        policy: Name of the policy.
        config_digest: Of the policy's configuration.
        specs: What is mapped to what.
        num_envs: Environments, at least 1.
        slots: Slots of each ring.
        layouts: Computed from the above by each side for itself; nothing of them is taken from the other.
    """

    generation: int
    policy: str
    config_digest: str
    specs: PolicySpecs
    num_envs: int
    slots: int
    layouts: Layouts = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layouts", session_layouts(self.specs, self.num_envs))


class Connection(ABC):
    """The simulator's end of a session. One thread uses it at a time, but for ``close``.

    Attributes:
        agreement: What was agreed with the host.
        peer: The host, as messages name it.
        path: Which way the slots go, for the report; for example ``shared memory``.
        in_use: Held by the client during each call, so that ``close`` can wait until a call in another thread has left.
    """

    agreement: Agreement
    peer: str
    path: str

    def __init__(self) -> None:
        self.in_use = threading.Lock()

    @abstractmethod
    def loan(self, deadline: Deadline) -> Slot | None:
        """Lend the next observation slot, the same one until it is published; None if the deadline passes first.

        Raises:
            PeerLostError: The host is gone.
            ClosedError: This connection was closed.
        """

    @abstractmethod
    def publish(self, sequence: int) -> None:
        """Send the lent slot as observation number ``sequence``."""

    @abstractmethod
    def take(self, deadline: Deadline) -> Slot | None:
        """Return the next action slot, in the order of the observations; None if the deadline passes first.

        Raises:
            PeerLostError: The host is gone.
            ClosedError: This connection was closed.
        """

    @abstractmethod
    def release(self, slot: Slot) -> None:
        """Give an action slot back."""

    @property
    @abstractmethod
    def arrived(self) -> int:
        """How many action slots could be taken now.

        Raises:
            PeerLostError: The host is gone.
        """

    @abstractmethod
    def statistics(self) -> tuple[RingStatistics, RingStatistics] | None:
        """Return where both rings stand, observations first; None where there are none, or no longer."""

    @abstractmethod
    def host_status(self, deadline: Deadline) -> Status | None:
        """Ask the host what it is doing; None if it does not say in time.

        Raises:
            PeerLostError: The host is gone.
        """

    @abstractmethod
    def stop_host(self, deadline: Deadline) -> None:
        """Ask the host to end, and wait until it agreed.

        Raises:
            AuthenticationError: It does not take that from us.
            TimedOutError: It does not say.
        """

    @abstractmethod
    def close(self) -> None:
        """End the session. Returns within about a second, whatever the host does. May be called twice."""


class HostEnd(ABC):
    """The host's end of a session. It never waits: a host that waited for one client would hold up the others.

    Attributes:
        agreement: What was agreed with the client.
        client: The client, as messages name it.
    """

    agreement: Agreement
    client: str

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Observations that could be taken now."""

    @abstractmethod
    def try_take(self) -> Slot | None:
        """Return the next observation slot, or None if there is none."""

    @abstractmethod
    def release(self, slot: Slot) -> None:
        """Give an observation slot back."""

    @abstractmethod
    def try_loan(self) -> Slot | None:
        """Lend the next action slot, or None: then the client does not take its answers, and the session must end."""

    @abstractmethod
    def publish(self) -> None:
        """Send the lent action slot."""

    @abstractmethod
    def statistics(self) -> tuple[RingStatistics, RingStatistics] | None:
        """Return where both rings stand, observations first; None once they are closed. Any thread may call it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything. May be called twice."""


@dataclass(frozen=True)
class Address:
    """Where a host is. ``str`` gives it back as a URL."""

    name: str

    def __str__(self) -> str:
        return f"shm://{self.name}"


def parse_address(text: str) -> Address:
    """Return the address that ``shm://NAME`` means; plain ``NAME`` is understood too.

    Raises:
        SpecError: It is no address this version can reach.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Address(check_name(text or DEFAULT_NAME))
    if scheme in ("tcp", "tls"):
        raise SpecError(f"{text!r}: this version joins two processes on one machine only; use shm://NAME (--name NAME) and share /dev/shm")
    if scheme != "shm":
        raise SpecError(f"{text!r} is no address: expected shm://NAME")
    return Address(check_name(rest))
