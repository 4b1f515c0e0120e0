"""Which episodes are filmed, which pixels, and under which names."""

from __future__ import annotations

import logging
import subprocess

import numpy as np
import pytest

from shmbridge.cli import video
from shmbridge.cli.video import HALVED_FROM, MAX_FILMED, Film, check_video, find_ffmpeg, open_film, outcome, row_step, side_by_side
from shmbridge.errors import SpecError
from shmbridge.rollout import Episode, Moment
from shmbridge.spec import TensorSpec

CAMERA = TensorSpec("rgb", (32, 48, 3), "uint8", unit="sRGB")
STATE = TensorSpec("q", (7,), "float32")
needs_ffmpeg = pytest.mark.skipif(find_ffmpeg() is None, reason="imageio-ffmpeg is not installed here")


class FakeEncoder:
    """Notes what it is given.

    Attributes:
        frames: Per key, the first byte of every frame.
        ended: Keys with their names, in order.
    """

    def __init__(self, *, admits=True):
        self.frames, self.ended, self.finished, self.abandoned = {}, [], False, False
        self.written, self.dropped, self.failure = [], 0, ""
        self.scales = set()
        self._admits = admits

    def admit(self, nbytes):
        self.admitted = nbytes
        return self._admits

    def add(self, key, frame, scale):
        assert self.admitted == frame.nbytes
        self.frames.setdefault(key, []).append(int(frame.flat[0]))
        self.scales.add(scale)

    def end(self, key, name):
        self.ended.append((key, name))

    def finish(self):
        self.finished = True

    def abandon(self):
        self.abandoned = True


def moment(step, episodes, *finished, last=None, acted_in=None):
    """Return a moment whose pictures show the step."""
    observation = {"rgb": np.full((len(episodes), *CAMERA.shape), step, np.uint8), "q": np.zeros((len(episodes), 7), np.float32)}
    rows = {env_id: {"rgb": np.full(CAMERA.shape, value, np.uint8)} for env_id, value in (last or {}).items()}
    acted = np.asarray(episodes if acted_in is None else acted_in)
    return Moment(step, observation, np.asarray(episodes), finished, rows, {}, acted)


def episode(index, success=1.0):
    return Episode(index % 2, index, index, 3, True, {} if success is None else {"success_rate": success})


def test_every_environment_is_filmed_and_names_tell_how_it_went():
    encoder = FakeEncoder()
    with Film(encoder, "all", None) as film:
        film.watch(moment(0, [0, 1]))
        film.watch(moment(1, [0, 1]))
        film.watch(moment(2, [2, 1], episode(0), last={0: 99}, acted_in=[0, 1]))
        film.watch(moment(3, [2, 3], episode(1, 0.0), last={1: 98}, acted_in=[2, 1]))
        film.watch(moment(4, [2, 3]))
    assert encoder.frames == {0: [0, 1, 99], 1: [0, 1, 2, 98], 2: [2, 3, 4], 3: [3, 4]}
    assert encoder.ended[:2] == [(0, "episode_0000_success.mp4"), (1, "episode_0001_failure.mp4")]
    assert encoder.finished and not encoder.abandoned


def test_what_did_not_end_when_the_steps_were_over_says_so_in_its_name():
    encoder = FakeEncoder()
    with Film(encoder, "all", None) as film:
        film.watch(moment(0, [4]))
    assert encoder.ended == [(4, "episode_0004_unfinished.mp4")]


def test_environment_that_resets_itself_in_the_next_step_shows_its_last_observation_first():
    encoder = FakeEncoder()
    with Film(encoder, "all", 2) as film:
        film.watch(moment(0, [0]))
        film.watch(moment(1, [0], episode(0)))  # its last observation, and its end
        film.watch(moment(2, [1], acted_in=[-1]))  # the step that reset it
    assert encoder.frames == {0: [0, 1], 1: [2]}


def test_environment_that_resets_itself_in_the_same_step_never_shows_it():
    encoder = FakeEncoder()
    with Film(encoder, "all", 2) as film:
        film.watch(moment(0, [0]))
        film.watch(moment(1, [1], episode(0), acted_in=[0]))
    assert encoder.frames == {0: [0], 1: [1]}


def test_episodes_that_do_not_count_are_not_filmed():
    encoder = FakeEncoder()
    with Film(encoder, "all", 1) as film:
        film.watch(moment(0, [0, 1]))
        film.watch(moment(1, [2, 1], episode(0), last={0: 9, 1: 9}, acted_in=[0, 1]))
    assert set(encoder.frames) == {0}


def test_only_the_first_is_filmed_if_asked_for():
    encoder = FakeEncoder()
    with Film(encoder, "first", None) as film:
        film.watch(moment(0, [0, 1]))
        film.watch(moment(1, [2, 3], episode(0), episode(1), last={0: 9, 1: 9}, acted_in=[0, 1]))
    assert (encoder.frames, encoder.ended) == ({0: [0, 9]}, [(0, "episode_0000_success.mp4")])


def test_of_failures_only_these_are_kept():
    encoder = FakeEncoder()
    with Film(encoder, "failures", None) as film:
        film.watch(moment(0, [0, 1, 2]))
        film.watch(moment(1, [3, 4, 5], episode(0), episode(1, 0.0), episode(2, None)))
    assert dict(encoder.ended) == {0: None, 1: "episode_0001_failure.mp4", 2: "episode_0002_ended.mp4", 3: None, 4: None, 5: None}


def test_exception_throws_away_what_is_not_complete():
    encoder = FakeEncoder()
    film = Film(encoder, "all", None)
    film.watch(moment(0, [0]))
    with pytest.raises(KeyboardInterrupt), film:
        raise KeyboardInterrupt
    assert encoder.abandoned and not encoder.finished
    assert encoder.ended == []


def test_refused_frames_are_not_even_copied(monkeypatch):
    monkeypatch.setattr(video, "side_by_side", None)
    encoder = FakeEncoder(admits=False)
    with Film(encoder, "all", None) as film:
        film.watch(moment(0, [0]))
    assert (encoder.frames, encoder.ended) == ({}, [])


def test_only_so_many_environments_are_filmed_and_it_is_said():
    encoder = FakeEncoder()
    with Film(encoder, "all", None) as film:
        film.watch(moment(0, list(range(MAX_FILMED + 3))))
    assert set(encoder.frames) == set(range(MAX_FILMED))
    assert any(f"0 to {MAX_FILMED - 1}" in line for line in film.lines())


def test_lines_say_where_videos_are_and_what_is_missing(tmp_path):
    encoder = FakeEncoder()
    film = Film(encoder, "all", None)
    assert film.lines() == []
    encoder.written = [tmp_path / "episode_0000_success.mp4"]
    assert film.lines() == [f"Video: {tmp_path / 'episode_0000_success.mp4'}"]
    encoder.written += [tmp_path / "episode_0001_failure.mp4", tmp_path / "episode_0002_success.mp4"]
    encoder.dropped, encoder.failure = 12, "the disk is full"
    first, second, third = film.lines()
    assert first == f"Videos: {tmp_path} (1 failure, 2 success)"
    assert "12 frames" in second and "the disk is full" in third
    assert film.report() == {"files": [path.name for path in encoder.written], "dropped_frames": 12, "stopped": "the disk is full"}


def test_an_episode_that_reports_no_success_just_ended():
    assert [outcome(episode(0, value)) for value in (1.0, 0.0, None)] == ["success", "failure", "ended"]


def test_cameras_are_put_side_by_side_and_lower_ones_filled_up_with_black():
    left, right = np.full((32, 48, 3), 1, np.uint8), np.full((20, 16, 3), 2, np.uint8)
    canvas = side_by_side([left, right], 1)
    assert canvas.shape == (32, 64, 3) and canvas.flags.c_contiguous
    assert (canvas[:, :48] == 1).all() and (canvas[:20, 48:] == 2).all() and (canvas[20:, 48:] == 0).all()


def test_every_second_row_is_taken_of_large_cameras_only():
    rows = np.arange(8, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 3), np.uint8)
    assert side_by_side([rows], 2)[:, 0, 0].tolist() == [0, 2, 4, 6]
    small, large = np.zeros((HALVED_FROM - 1, 4, 3), np.uint8), np.zeros((HALVED_FROM, 4, 3), np.uint8)
    assert (row_step([small]), row_step([large]), row_step([small, large]), row_step([])) == (1, 2, 2, 1)


def test_the_copy_is_the_films_own():
    slot = np.zeros((4, 4, 3), np.uint8)
    canvas = side_by_side([slot], 1)
    slot[:] = 9
    assert not canvas.any()


def test_nothing_is_filmed_without_a_folder_or_if_nobody_wants_it(tmp_path):
    assert open_film("all", None, [CAMERA], 1) is None
    assert open_film("none", tmp_path, [CAMERA], 1) is None


@pytest.mark.parametrize(
    ("which", "wants_cameras", "told"), [("all", False, ["WARNING"]), ("all", True, ["WARNING"]), (None, True, ["INFO"]), (None, False, [])]
)
def test_without_cameras_there_is_no_film_and_whoever_asked_is_told(which, wants_cameras, told, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "shmbridge"):
        assert open_film(which, tmp_path, [STATE, TensorSpec("depth", (32, 48, 1), "uint8")], 1, wants_cameras=wants_cameras) is None
    assert [record.levelname for record in caplog.records if "no video: the policy asks for no camera" in record.message] == told


def test_without_ffmpeg_there_is_no_film_unless_asked_for_by_name(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(video, "find_ffmpeg", lambda: None)
    with caplog.at_level(logging.INFO, "shmbridge"):
        assert open_film(None, tmp_path, [CAMERA], 1) is None
    assert video.INSTALL in caplog.text
    with pytest.raises(SpecError, match="--video failures"):
        check_video("failures")
    check_video("none")
    check_video(None)


def test_videos_of_an_earlier_run_are_removed_and_nothing_else(tmp_path):
    folder = tmp_path / video.FOLDER
    folder.mkdir()
    for name in ("episode_0000_success.mp4", "episode_12345_failure.mp4", ".episode_0003.mp4", "mine.mp4", "episode_1.mp4", "episode_0001_success.txt"):
        (folder / name).write_text("")
    open_film(None, tmp_path, [STATE], 1)
    assert sorted(path.name for path in folder.iterdir()) == ["episode_0001_success.txt", "episode_1.mp4", "mine.mp4"]


def test_video_of_an_earlier_run_that_cannot_be_removed_is_refused_with_its_name(tmp_path):
    stuck = tmp_path / video.FOLDER / "episode_0000_success.mp4"
    stuck.mkdir(parents=True)
    with pytest.raises(SpecError, match=r"episode_0000_success\.mp4.*--video none"):
        open_film(None, tmp_path, [STATE], 1)


@needs_ffmpeg
@pytest.mark.parametrize(("rows", "columns", "size"), [(32, 48, "48x32"), (31, 47, "48x32"), (480, 640, "320x240"), (242, 322, "162x122")])
def test_real_file_has_every_frame_in_even_size(tmp_path, rows, columns, size):
    film = open_film("all", tmp_path, [TensorSpec("rgb", (rows, columns, 3), "uint8")], 1)
    with film:
        for step in range(5):
            picture = {"rgb": np.full((1, rows, columns, 3), 40 * step, np.uint8)}
            film.watch(Moment(step, picture, np.array([0]), [episode(0)] if step == 4 else [], {}, {}, np.array([0])))
    path = tmp_path / video.FOLDER / "episode_0000_success.mp4"
    assert film.lines() == [f"Video: {path}"]
    told = subprocess.run([find_ffmpeg(), "-i", str(path), "-f", "null", "-"], capture_output=True, text=True, check=True).stderr
    assert f" {size}" in told and "yuv420p" in told
    raw = subprocess.run([find_ffmpeg(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "gray", "-"], capture_output=True, check=True).stdout
    wide, high = map(int, size.split("x"))
    shades = np.frombuffer(raw, np.uint8).reshape(5, high, wide)[:, high // 2, wide // 2]
    assert np.abs(shades.astype(int) - 40 * np.arange(5)).max() < 20
