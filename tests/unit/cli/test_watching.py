"""What happens beside a run: the line that tells how far it is, and the video."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from shmbridge.cli import watching
from shmbridge.cli.watching import Watcher
from shmbridge.connecting import connect
from shmbridge.rollout import Episode, Moment
from shmbridge.spec import TensorSpec
from shmbridge.testing import MarkingPolicy
from shmbridge.testing.fakes import MARK

CAMERA = TensorSpec("rgb", (32, 48, 3), "uint8", unit="sRGB")
needs_imageio = pytest.mark.skipif(importlib.util.find_spec("imageio") is None, reason="imageio is not installed here")


class SeeingPolicy(MarkingPolicy):
    """Asks for a camera too."""

    def specs(self, offered):
        found = super().specs(offered)
        return type(found)([*found.observation, CAMERA], found.action)


@pytest.fixture
def client():
    with connect(SeeingPolicy(), observation_specs=[MARK, CAMERA], num_envs=2) as opened:
        yield opened


def moment(client, step, *finished):
    slot = client.loan()
    slot["mark"][:] = step
    slot["rgb"][:] = step
    return Moment(step, slot, finished)


def episode(env_id, success):
    return Episode(env_id, env_id, env_id, 3, True, {"success_rate": success})


def test_episodes_and_their_success_are_told(client, capsys):
    with Watcher(client, 2, None, None) as watcher:
        watcher.watch(moment(client, 0))
        watcher.watch(moment(client, 3, episode(0, 1.0), episode(1, 0.0)))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("episodes 2/2  success 0.50")
    assert "host READY" in last


def test_steps_are_told_where_they_are_the_limit(client, capsys):
    with Watcher(client, None, 4, None) as watcher:
        watcher.watch(moment(client, 4, episode(0, 1.0)))
    assert capsys.readouterr().err.splitlines()[-1].startswith("steps 4/4")


def test_without_imageio_there_is_no_video_and_no_failure(client, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with Watcher(client, 1, None, tmp_path) as watcher:
        watcher.watch(moment(client, 0))
        watcher.watch(moment(client, 1, episode(0, 1.0)))
    assert watcher.video is None
    assert list(tmp_path.iterdir()) == []


@needs_imageio
@pytest.mark.parametrize(("success", "name"), [(1.0, "episode_0_success.mp4"), (0.0, "episode_0_failure.mp4")])
def test_video_of_the_first_environments_first_episode_tells_how_it_went(client, tmp_path, success, name):
    with Watcher(client, 2, None, tmp_path) as watcher:
        for step in range(3):
            watcher.watch(moment(client, step, *([episode(1, 0.0)] if step == 1 else [])))
        watcher.watch(moment(client, 3, episode(0, success)))
        watcher.watch(moment(client, 4))
    assert watcher.video == tmp_path / name
    assert [path.name for path in tmp_path.iterdir()] == [name]


@needs_imageio
def test_unfinished_video_is_removed(client, tmp_path):
    with Watcher(client, 2, None, tmp_path) as watcher:
        watcher.watch(moment(client, 0))
    assert list(tmp_path.iterdir()) == []


@needs_imageio
def test_without_a_camera_there_is_no_video(tmp_path):
    with connect(MarkingPolicy(), observation_specs=[MARK], num_envs=1) as client, Watcher(client, 1, None, tmp_path) as watcher:
        slot = client.loan()
        watcher.watch(Moment(0, slot, ()))
        watcher.watch(Moment(1, slot, (episode(0, 1.0),)))
        assert watcher.video is None


def test_camera_frames_are_put_side_by_side_at_half_size(tmp_path):
    added = []
    video = watching._Video(tmp_path)
    video._writer = type("Writer", (), {"append_data": staticmethod(added.append)})
    video.add({"left": np.zeros((32, 48, 3), np.uint8), "q": np.zeros(3), "right": np.ones((32, 16, 3), np.uint8), "depth": np.zeros((32, 48, 1), np.uint8)})
    assert added[0].shape == (16, 32, 3)
    assert added[0][:, 24:].all() and not added[0][:, :24].any()
