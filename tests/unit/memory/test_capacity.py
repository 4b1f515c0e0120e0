"""Whether there is room, with made-up control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmbridge.errors import SharedMemoryFullError
from shmbridge.memory import capacity
from shmbridge.memory.capacity import SEMAPHORE_BYTES, Room, cgroup_cores, cgroup_room, check_room, how_to_grow, how_to_raise_limit, megabytes, tmpfs_room

MB = 1_000_000


def write_group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def membership(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "membership"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_a_version_2_group_leaves_its_limit_less_what_is_used(tmp_path: Path) -> None:
    write_group(tmp_path / "cg" / "job", memory__max=100 * MB, memory__current=30 * MB, memory__stat="anon 1\ninactive_file 0")
    room = cgroup_room(str(tmp_path / "cg"), membership(tmp_path, "0::/job"))
    assert room == Room("the memory control group", 70 * MB, 100 * MB)


def test_a_version_1_group_leaves_its_limit_less_what_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "cg" / "memory" / "docker" / "abc"
    write_group(folder, memory__limit_in_bytes=100 * MB, memory__usage_in_bytes=30 * MB, memory__stat="total_inactive_file 5000000")
    room = cgroup_room(str(tmp_path / "cg"), membership(tmp_path, "3:cpu:/x", "4:hugetlb,memory:/docker/abc"))
    assert room == Room("the memory control group", 75 * MB, 100 * MB)


def test_cached_files_count_as_free(tmp_path: Path) -> None:
    write_group(tmp_path / "cg", memory__max=100 * MB, memory__current=90 * MB, memory__stat=f"anon 1\ninactive_file {60 * MB}\nslab 3")
    room = cgroup_room(str(tmp_path / "cg"), membership(tmp_path, "0::/"))
    assert room is not None and room.free == 70 * MB


def test_inside_a_container_the_group_is_the_mounts_root(tmp_path: Path) -> None:
    write_group(tmp_path / "cg", memory__max=50 * MB, memory__current=MB)
    room = cgroup_room(str(tmp_path / "cg"), membership(tmp_path, "0::/../../not/visible/here"))
    assert room is not None and room.total == 50 * MB


def test_the_tightest_of_all_ancestors_counts(tmp_path: Path) -> None:
    write_group(tmp_path / "cg" / "pod", memory__max=40 * MB, memory__current=30 * MB)
    write_group(tmp_path / "cg" / "pod" / "job", memory__max=200 * MB, memory__current=20 * MB)
    room = cgroup_room(str(tmp_path / "cg"), membership(tmp_path, "0::/pod/job"))
    assert room == Room("the memory control group", 10 * MB, 40 * MB)


@pytest.mark.parametrize("limit", ["max", str((1 << 63) - 4096), "", "nonsense"])
def test_no_limit_is_no_limit(tmp_path: Path, limit: str) -> None:
    write_group(tmp_path / "cg" / "job", memory__max=limit, memory__current=30 * MB)
    assert cgroup_room(str(tmp_path / "cg"), membership(tmp_path, "0::/job")) is None


def test_a_machine_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert cgroup_room(str(tmp_path / "none"), str(tmp_path / "nothing")) is None


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    write_group(tmp_path / "cg", memory__max=10 * MB, memory__current=20 * MB)
    room = cgroup_room(str(tmp_path / "cg"), membership(tmp_path, "0::/"))
    assert room is not None and room.free == 0


def test_the_time_of_a_version_2_group_is_told_in_cores(tmp_path: Path) -> None:
    write_group(tmp_path / "cg" / "job", cpu__max="150000 100000")
    assert cgroup_cores(str(tmp_path / "cg"), membership(tmp_path, "0::/job")) == 1.5


def test_the_time_of_a_version_1_group_is_told_in_cores(tmp_path: Path) -> None:
    write_group(tmp_path / "cg" / "cpu" / "docker" / "abc", cpu__cfs_quota_us=50_000, cpu__cfs_period_us=100_000)
    assert cgroup_cores(str(tmp_path / "cg"), membership(tmp_path, "2:cpu,cpuacct:/docker/abc")) == 0.5


def test_the_group_with_the_least_time_counts(tmp_path: Path) -> None:
    write_group(tmp_path / "cg" / "pod", cpu__max="200000 100000")
    write_group(tmp_path / "cg" / "pod" / "job", cpu__max="800000 100000")
    assert cgroup_cores(str(tmp_path / "cg"), membership(tmp_path, "0::/pod/job")) == 2.0


@pytest.mark.parametrize("content", ["max 100000", "", "nonsense", "1 0", "100000"])
def test_no_limit_of_time_is_no_limit(tmp_path: Path, content: str) -> None:
    write_group(tmp_path / "cg" / "job", cpu__max=content)
    assert cgroup_cores(str(tmp_path / "cg"), membership(tmp_path, "0::/job")) is None


def test_a_version_1_group_without_a_quota_limits_nothing(tmp_path: Path) -> None:
    write_group(tmp_path / "cg" / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    assert cgroup_cores(str(tmp_path / "cg"), membership(tmp_path, "1:cpu:/")) is None


def test_the_room_in_a_file_system_is_what_it_says(tmp_path: Path) -> None:
    room = tmpfs_room(str(tmp_path))
    assert room.where == str(tmp_path)
    assert 0 <= room.free <= room.total


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> dict[str, Room | None]:
    """A machine whose rooms the test decides."""
    found: dict[str, Room | None] = {"tmpfs": Room("/dev/shm", 64 * MB, 64 * MB), "cgroup": None}
    monkeypatch.setattr(capacity, "tmpfs_room", lambda: found["tmpfs"])
    monkeypatch.setattr(capacity, "cgroup_room", lambda: found["cgroup"])
    return found


def test_what_fits_is_not_refused(rooms: dict[str, Room | None]) -> None:
    check_room(64 * MB - SEMAPHORE_BYTES, "everything")


def test_too_full_a_tmpfs_is_refused_with_the_sum_and_the_flag(rooms: dict[str, Room | None]) -> None:
    with pytest.raises(SharedMemoryFullError) as refusal:
        check_room(64 * MB - SEMAPHORE_BYTES + 1, "10 environments: 2 slots of 18.4 MB for observations")
    text = str(refusal.value)
    assert (refusal.value.needed, refusal.value.free) == (64 * MB + 1, 64 * MB)
    assert "needs 64.0 MB of shared memory (10 environments: 2 slots of 18.4 MB for observations)" in text
    assert "/dev/shm has 64.0 MB free of 64.0 MB" in text
    assert "--shm-size=64m" in text


def test_too_tight_a_control_group_is_refused_with_another_flag(rooms: dict[str, Room | None]) -> None:
    rooms["cgroup"] = Room("the memory control group", MB, 50 * MB)
    with pytest.raises(SharedMemoryFullError) as refusal:
        check_room(2 * MB, "much")
    assert "the memory control group has 1.0 MB free of 50.0 MB" in str(refusal.value)
    assert "raise the memory limit to at least 64 MiB (--memory=64m" in str(refusal.value)
    assert "--shm-size" not in str(refusal.value)
    assert refusal.value.free == MB


def test_what_is_taken_already_counts_in_the_flag(rooms: dict[str, Room | None]) -> None:
    rooms["tmpfs"] = Room("/dev/shm", 10 << 20, 512 << 20)
    with pytest.raises(SharedMemoryFullError, match=r"--shm-size=768m .*nr_blocks=196608 .*--shm NAME:768 .*SHM_PAGES=196608 .*sizeLimit: 768Mi"):
        check_room(250 << 20, "much")


@pytest.mark.parametrize(("total", "size"), [(1, 64), (64 << 20, 64), ((64 << 20) + 1, 128), (67_300_000, 128), (1_244_300_000, 1216)])
def test_sizes_told_are_the_next_64_mib_and_what_they_name_is_enough(total: int, size: int) -> None:
    told, limit = how_to_grow(total), how_to_raise_limit(total)
    assert size << 20 >= total
    assert f"--shm-size={size}m for docker" in told and f"shm_size: {size}m in a compose file" in told
    assert f"nr_blocks={size * 256} (--shm NAME:{size} of" in told
    assert f"--memory={size}m for docker" in limit and f"resources.limits.memory: {size}Mi" in limit


def test_sizes_read_as_people_write_them() -> None:
    assert [megabytes(size) for size in (512, 999_999, 1_000_000, 18_432_000)] == ["0.5 kB", "1000.0 kB", "1.0 MB", "18.4 MB"]
