"""What is recorded of a run, and that it can be read without pickle."""

from __future__ import annotations

import numpy as np
import pytest

from shmbridge.cli.recording import Recorder
from shmbridge.rollout import Moment
from shmbridge.spec import TensorSpec

ARM, GRIP = TensorSpec("arm/joints", (3,), "float32"), TensorSpec("file", (), "int64")


def moment(step, acted_in):
    actions = {"arm/joints": np.full((2, 3), step, np.float32), "file": np.array([step, -step])} if step else {}
    return Moment(step, {}, np.arange(2), [], {}, actions, np.asarray(acted_in, np.int64))


@pytest.fixture
def recorder():
    return Recorder([ARM, GRIP], 2)


def test_recording_has_every_action_under_its_name_with_its_episode(recorder, tmp_path):
    for step, acted_in in enumerate([[-1, -1], [0, 1], [0, -1], [2, 3]]):
        recorder.watch(moment(step, acted_in))
    path = recorder.write(tmp_path / "new")
    assert path == tmp_path / "new" / "recording.npz"
    with np.load(path, allow_pickle=False) as found:
        assert set(found.files) == {"arm/joints", "file", "@episode"}
        assert (found["arm/joints"].shape, found["arm/joints"].dtype) == ((3, 2, 3), np.float32)
        assert found["arm/joints"][:, 0, 0].tolist() == [1, 2, 3]
        assert found["file"].tolist() == [[1, -1], [2, -2], [3, -3]]
        assert (found["@episode"].dtype, found["@episode"].tolist()) == (np.int64, [[0, 1], [0, -1], [2, 3]])


def test_run_without_a_step_is_an_empty_recording_of_the_right_form(recorder, tmp_path):
    recorder.watch(moment(0, [-1, -1]))
    with np.load(recorder.write(tmp_path)) as found:
        assert found["arm/joints"].shape == (0, 2, 3)
        assert found["@episode"].shape == (0, 2)


def test_recording_replaces_an_earlier_one_as_a_whole(recorder, tmp_path):
    (tmp_path / "recording.npz").write_text("old")
    recorder.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["recording.npz"]


def test_recording_that_cannot_be_written_leaves_nothing(recorder, tmp_path):
    (tmp_path / "recording.npz").mkdir()
    with pytest.raises(OSError, match="recording"):
        recorder.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["recording.npz"]
