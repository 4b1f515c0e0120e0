"""What is mounted at /dev/shm, and by what two processes know that they see the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import run_python

from shmbridge.memory import mounts
from shmbridge.memory.mounts import Mount, is_engines_own, memory_id, mount_of, shm_mount
from shmbridge.memory.naming import SHM

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=12334460k
25 24 0:23 / /dev/shm rw,nosuid,nodev shared:5 - tmpfs shm rw,size=65536k
27 1 254:0 / / rw,relatime - overlay overlay rw
30 25 0:27 / /mnt/with\\040blank rw - ext4 /dev/sda rw
31 25 0:27 / /mnt/with\\040blank ro master:1 propagate_from:2 - tmpfs a\\040name rw
a line of something else
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/dev/shm", Mount("/dev/shm", "tmpfs", ("rw", "nosuid", "nodev"), "shm")),
        ("/dev/shm/file", Mount("/dev/shm", "tmpfs", ("rw", "nosuid", "nodev"), "shm")),
        ("/dev/shm2", Mount("/dev", "devtmpfs", ("rw", "relatime"), "devtmpfs")),
        ("/run/shm", Mount("/", "overlay", ("rw", "relatime"), "overlay")),
        ("/mnt/with blank/x", Mount("/mnt/with blank", "tmpfs", ("ro",), "a name")),
    ],
)
def test_a_path_lies_in_the_nearest_mount_and_of_two_there_in_the_later(path, mount):
    assert mount_of(path, MOUNTINFO) == mount


def test_without_mounts_there_is_none():
    assert mount_of("/dev/shm", "") is None


def test_the_mount_of_this_process_is_found_and_none_where_there_is_no_proc(monkeypatch):
    found = shm_mount()
    assert found is not None and SHM.startswith(found.point.rstrip("/"))

    def refuse(*args, **options):
        raise FileNotFoundError("/proc")

    monkeypatch.setattr(mounts.Path, "read_text", refuse)
    assert shm_mount() is None


@pytest.mark.parametrize(
    ("mount", "made_by_an_engine"),
    [
        (Mount("/dev/shm", "tmpfs", ("rw",), "shm"), True),
        (Mount("/dev/shm", "tmpfs", ("rw",), "tmpfs"), False),
        (Mount("/dev/shm", "ext4", ("rw",), "shm"), False),
        (Mount("/", "tmpfs", ("rw",), "shm"), False),
        (None, False),
    ],
)
def test_an_engines_own_memory_is_known_by_its_source(mount, made_by_an_engine):
    assert is_engines_own(mount) is made_by_an_engine


def test_the_id_is_short_and_the_same_each_time_and_in_each_process():
    found = memory_id()
    assert found is not None and re.fullmatch("[0-9a-f]{4}-[0-9a-f]{4}", found)
    assert memory_id() == found
    assert run_python("from shmbridge.memory.mounts import memory_id\nprint(memory_id())").strip() == found


def test_folders_of_one_disk_differ_and_what_is_not_there_has_none(tmp_path):
    assert memory_id(str(tmp_path)) != memory_id(str(tmp_path.parent))
    assert memory_id(str(tmp_path / "nothing")) is None


@pytest.mark.needs_root
def test_two_tmpfs_differ_also_where_the_second_takes_the_place_of_the_first():
    source = """
import os
from shmbridge.memory.mounts import memory_id
for command in ("true", "umount /mnt && mount -t tmpfs tmpfs /mnt", "mount --bind /mnt /opt"):
    assert os.system(command) == 0
    print(memory_id("/mnt"))
print(memory_id("/opt"))
"""
    first, second, third, bound = run_python(source, prefix=["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /mnt && exec "$@"', "sh"]).split()
    assert first != second == third == bound


def test_where_the_file_system_has_no_number_the_kernels_start_takes_its_place_and_without_both_there_is_none(monkeypatch, tmp_path):
    class Numberless:
        f_fsid = 0

    boot = tmp_path / "boot_id"
    monkeypatch.setattr(mounts.os, "statvfs", lambda path: Numberless)
    monkeypatch.setattr(mounts, "_BOOT_ID", str(boot))
    assert memory_id() is None
    boot.write_text("one\n")
    one = memory_id()
    boot.write_text("two\n")
    assert None not in (one, memory_id()) and one != memory_id()
    assert Path(SHM).is_dir()
