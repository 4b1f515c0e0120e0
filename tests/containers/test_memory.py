"""Too little shared memory, or none in common: said in words, with the sum and the flag, never a bus error or the OOM killer."""

from __future__ import annotations

from collections.abc import Sequence

from boxes import FILES, Box, Boxes

LARGE = ("--num_envs", "36", "--camera_bytes", "933888")
"""33.6 MB an observation: two slots of it are just more than 64 MiB."""
SMALL = ("--num_envs", "36", "--camera_bytes", "307200")
"""11 MB an observation, which fits."""


def test_large_observation_in_the_engines_usual_64_mb_is_refused_with_the_sum_and_the_flag(boxes: Boxes) -> None:
    host = boxes.ready_host(options=("--ipc=shareable", "--shm-size=64m"))
    _check_refused_and_alive(
        boxes,
        host,
        options=(f"--ipc=container:{host.name}",),
        named=("/dev/shm has", "--shm-size=128m", "shm_size: 128m", "nr_blocks=32768", "sizeLimit: 128Mi"),
    )


def test_memory_limit_below_the_need_is_refused_and_nothing_is_killed(boxes: Boxes) -> None:
    host = boxes.ready_host(options=(*boxes.shared, "--memory=80m"))
    _check_refused_and_alive(boxes, host, options=boxes.shared, named=("the memory control group has", "--memory"))


def test_volume_that_is_too_small_is_refused_with_the_sum(boxes: Boxes) -> None:
    host = boxes.ready_host()
    huge = boxes.client("once", "--num_envs", "100", "--camera_bytes", "6220800").ended()
    assert (huge["type"], huge["status"]) == ("SharedMemoryFullError", 1), huge
    assert "needs 1244.3 MB" in huge["text"], huge["text"]
    host.until_nothing_but(FILES)


def test_client_with_a_shared_memory_of_its_own_says_so_and_how_to_share_it(boxes: Boxes) -> None:
    boxes.ready_host(options=())
    lost = boxes.client("once", "--start_timeout", "1.5", options=()).ended()
    assert (lost["type"], lost["status"]) == ("HostNotFoundError", 1), lost
    _check_names(lost["text"], "'default'", "/dev/shm", "both", "shmbridge doctor --peer default")


def test_runner_with_a_shared_memory_of_its_own_says_so_and_ends_with_status_1(boxes: Boxes) -> None:
    boxes.ready_host(options=())
    runner = boxes.runner("--remote_start_timeout_ms", "1500", "--num_steps", "10", options=())
    assert runner.wait() == 1
    _check_names(runner.logs, "'default'", "/dev/shm", "both", "shmbridge doctor --peer default")


def _check_refused_and_alive(boxes: Boxes, host: Box, *, options: Sequence[str], named: Sequence[str]) -> None:
    refused = boxes.client("once", *LARGE, options=options).ended()
    assert (refused["type"], refused["status"]) == ("SharedMemoryFullError", 1), refused
    _check_names(refused["text"], "this session needs 67.3 MB", "36 environments", "2 slots of 33.6 MB", *named)
    answered = boxes.client("once", *SMALL, options=options).ended()
    assert (answered["event"], answered["status"]) == ("answered", 0), answered
    host.call("stop")
    state = host.state
    assert (state["ExitCode"], state["OOMKilled"]) == (143, False), f"{state}\n{host.logs}"


def _check_names(text: str, *named: str) -> None:
    missing = [word for word in named if word not in text]
    assert not missing, f"{missing} not in: {text}"
