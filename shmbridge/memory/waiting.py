"""Waiting with deadlines: spin a little, then block."""

from __future__ import annotations

import os
import time

SPIN_SECONDS = 100e-6
"""How long to spin before blocking. Bounded by time, not by turns: at ten waits a second this costs 0.1 % of a core."""
_EAGER_SECONDS = 10e-6
YIELDING_SECONDS = SPIN_SECONDS - (_EAGER_SECONDS if len(os.sched_getaffinity(0)) > 1 else 0.0)
"""The last part of a spin, in which the core is offered to others between two looks. Before it nobody is: the answer is on its way from another
core, and an offer takes half a microsecond. Where there is one core only, it is offered at once."""
LONGEST_SECONDS = 1e6
"""What an endless timeout is cut to, eleven days: ``poll`` counts milliseconds in 31 bits."""


class Deadline:
    """A point on the monotonic clock, made once and passed down, so that nested waits share one allowance.

    Attributes:
        at: Seconds on ``time.monotonic``'s clock.
        timeout: Seconds it was made with, for messages.
    """

    __slots__ = ("at", "timeout")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.at = time.monotonic() + (timeout if timeout < LONGEST_SECONDS else LONGEST_SECONDS)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at
