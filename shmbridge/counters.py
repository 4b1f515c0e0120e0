"""What is counted, for ``statistics()`` and for the tools that show it. Counters only grow while a session lives."""

from __future__ import annotations

import msgspec


class RingStatistics(msgspec.Struct, frozen=True):
    """One end's view of a ring of ``slots`` slots. Its next one is number ``moved % slots``."""

    slots: int
    free: int
    """Slots that the producer could lend now."""
    full: int
    """Slots published and not yet taken."""
    moved: int
    """Slots that this end has published, or taken, since the session began."""
    held: int
    """Slots that this end holds now: lent to be written, or leased to be read."""


class SessionStatistics(msgspec.Struct, frozen=True):
    """What a host counted for one client."""

    requests: int
    """Observations answered."""
    rows: int
    """Environments inferred, summed over the requests."""
    failures: int
    """Requests answered by an exception of the policy."""
    infer_seconds: float
    """Spent in the policy for this client."""


class ClientStatistics(msgspec.Struct, frozen=True):
    """What a client counted."""

    steps: int
    """Observations given to ``act``, ``infer`` and ``submit``."""
    requests: int
    """Observations sent to the policy."""
    rows: int
    """Environments that were asked for, summed over the requests."""
    dropped: int
    """Observations that latest-only did not send, because the policy was still busy with an earlier one."""
    discarded: int
    """Answers that nobody wanted any more: they came after a timeout, or were made room for."""
    observation_ring: RingStatistics | None = None
    """None where the policy runs in this process: then there are no rings."""
    action_ring: RingStatistics | None = None


class HostStatistics(msgspec.Struct, frozen=True):
    """What a host counted over its life."""

    seconds: float
    """Since it was started."""
    served: int
    """Sessions begun."""
    refused: int
    """Clients sent away during the handshake."""
    lost: int
    """Sessions that ended without a goodbye, or were ended for breaking the rules."""
    clients: dict[str, SessionStatistics]
    """Those served now, by what they call themselves."""
