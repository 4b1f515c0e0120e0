"""The bell: rings add up to one, and nobody is hurt by a late one."""

from __future__ import annotations

import os
import select

from shmbridge.memory.bell import Bell


def is_ringing(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_rings_add_up_until_it_is_silenced() -> None:
    bell = Bell()
    assert not is_ringing(bell)
    bell.ring()
    bell.ring()
    assert is_ringing(bell)
    bell.silence()
    assert not is_ringing(bell)
    bell.close()


def test_silencing_a_silent_bell_does_not_wait() -> None:
    bell = Bell()
    bell.silence()
    bell.close()


def test_a_bell_rung_to_its_limit_still_rings() -> None:
    bell = Bell()
    os.eventfd_write(bell.fileno(), (1 << 64) - 2)
    bell.ring()
    assert is_ringing(bell)
    bell.close()


def test_ringing_a_closed_bell_writes_into_no_other_descriptor() -> None:
    bell = Bell()
    number = bell.fileno()
    bell.close()
    bell.close()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    os.dup2(other, number) if other != number else None
    bell.ring()
    assert not select.select([number], [], [], 0)[0]
    for descriptor in {other, number}:
        os.close(descriptor)
