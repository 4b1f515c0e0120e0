"""Counters: plain values that cross the control connection and become JSON."""

from __future__ import annotations

import msgspec
import pytest

from shmbridge.counters import ClientStatistics, HostStatistics, RingStatistics, SessionStatistics

RING = RingStatistics(slots=2, free=1, full=0, moved=17, held=1)
SESSION = SessionStatistics(requests=17, rows=30, failures=2, infer_seconds=0.5)
CLIENT = ClientStatistics(steps=40, requests=17, rows=30, dropped=3, discarded=1, observation_ring=RING, action_ring=RING)
HOST = HostStatistics(seconds=60.0, served=3, refused=1, lost=1, clients={"client 7": SESSION, "client 8": SESSION})


@pytest.mark.parametrize("counters", [RING, SESSION, CLIENT, HOST], ids=lambda counters: type(counters).__name__)
def test_counters_come_back_from_json_and_msgpack_as_they_were(counters: msgspec.Struct) -> None:
    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(counters), type=type(counters)) == counters


@pytest.mark.parametrize("counters", [RING, SESSION, CLIENT, HOST], ids=lambda counters: type(counters).__name__)
def test_what_was_counted_cannot_be_changed(counters: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        setattr(counters, counters.__struct_fields__[0], 0)


def test_a_session_without_rings_has_none() -> None:
    local = ClientStatistics(1, 1, 1, 0, 0)
    assert (local.observation_ring, local.action_ring) == (None, None)
