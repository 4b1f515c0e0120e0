"""The line that tells how far a run is."""

from __future__ import annotations

import numpy as np
import pytest

from shmbridge.cli.watching import Watcher
from shmbridge.connecting import connect
from shmbridge.rollout import Episode, Moment
from shmbridge.testing import MarkingPolicy
from shmbridge.testing.fakes import MARK


@pytest.fixture
def client():
    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=2) as opened:
        yield opened


def moment(client, step, *finished):
    slot = client.loan()
    slot["mark"][:] = step
    return Moment(step, slot, np.arange(2), finished, {}, {}, np.arange(2))


def episode(env_id, success):
    return Episode(env_id, env_id, env_id, 3, True, {"success_rate": success})


def test_episodes_and_their_success_are_told(client, capsys):
    with Watcher(client, 2, None) as watcher:
        watcher.watch(moment(client, 0))
        watcher.watch(moment(client, 3, episode(0, 1.0), episode(1, 0.0)))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("episodes 2/2  success 0.50")
    assert "host READY" in last


def test_steps_are_told_where_they_are_the_limit(client, capsys):
    with Watcher(client, None, 4) as watcher:
        watcher.watch(moment(client, 4, episode(0, 1.0)))
    assert capsys.readouterr().err.splitlines()[-1].startswith("steps 4/4")


def test_without_a_success_rate_none_is_told(client, capsys):
    with Watcher(client, None, 4) as watcher:
        watcher.watch(moment(client, 4, Episode(0, 0, 0, 3, True, {"return": 2.0})))
    assert "success" not in capsys.readouterr().err


def test_run_that_fails_is_not_told_to_have_gone_on(client, capsys):
    watcher = Watcher(client, 2, None)
    watcher.watch(moment(client, 0))
    with pytest.raises(KeyboardInterrupt), watcher:
        raise KeyboardInterrupt
    assert len(capsys.readouterr().err.splitlines()) == 1
