"""Replies."""

from __future__ import annotations

import numpy as np
import pytest

from shmbridge.reply import Reply, Timing


def test_actions_are_found_by_name() -> None:
    action = np.zeros((2, 7))
    reply = Reply({"action": action}, np.zeros(2), np.zeros(2), np.ones(2, bool))
    assert reply["action"] is action
    assert (reply.timing, dict(reply.info)) == (None, {})
    with pytest.raises(KeyError):
        reply["acton"]


def test_the_parts_of_the_time_add_up() -> None:
    assert Timing(1.0, 2.0, 3.0, 4.0).total == 10.0
