"""What is made of a /dev/shm that a test describes."""

from __future__ import annotations

import pytest
from machines import GB, MB, make_folder, make_machine

from shmbridge.cli.doctor_checks import check_machine
from shmbridge.cli.doctor_facts import PROBES, LargeFile
from shmbridge.cli.doctor_findings import Level, Slug
from shmbridge.memory.capacity import Room
from shmbridge.memory.mounts import Mount


def bad(machine, **options):
    """Return what is not as it should be."""
    return [finding for finding in check_machine(machine, **options) if finding.level is not Level.OK]


FOLDERS = {
    "on a disk": ({"mount": Mount("/dev/shm", "ext4", ("rw",))}, Level.PROBLEM, Slug.DISK, "type ext4", "--shm-size"),
    "part of the image": ({"mount": Mount("/", "overlay", ("rw",))}, Level.PROBLEM, Slug.DISK, "type overlay, as a part of /", "type=tmpfs"),
    "of a kind that does not tell its size": ({"mount": Mount("/dev/shm", "ramfs", ("rw",))}, Level.PROBLEM, Slug.DISK, "type ramfs", "tmpfs"),
    "read-only": ({"mount": Mount("/dev/shm", "tmpfs", ("ro",)), "is_open": False}, Level.PROBLEM, Slug.READ_ONLY, "read-only", "remount,rw"),
    "unknown": ({"mount": None}, Level.WARNING, Slug.UNKNOWN_MOUNT, "does not say", "findmnt"),
    "not sticky": ({"mode": 0o777}, Level.WARNING, Slug.NOT_STICKY, "mode 0777", "chmod 1777"),
    "closed to us": ({"mode": 0o755, "is_open": False}, Level.PROBLEM, Slug.CLOSED_MEMORY, "mode 0755, owner root (0); closed to this user", "chmod 1777"),
    "as small as Docker's": ({"room": Room("", 60 * MB, 64 << 20)}, Level.WARNING, Slug.SMALL_MEMORY, "60.0 MB free of 67.1 MB", "--shm-size=512m"),
    "nearly full": ({"room": Room("", 10 * MB, 9 * GB)}, Level.WARNING, Slug.SMALL_MEMORY, "10.0 MB free of 9.0 GB", "--shm-size=8832m"),
    "full": ({"room": Room("", 0, 9 * GB)}, Level.PROBLEM, Slug.SMALL_MEMORY, "0 B free of 9.0 GB", "--shm-size"),
    "without inodes": ({"inodes": 0}, Level.PROBLEM, Slug.NO_FILES, "not one more file", "nr_inodes"),
    "without O_TMPFILE": (
        {"probes": {PROBES[0]: "Operation not supported", PROBES[1]: ""}},
        Level.PROBLEM,
        Slug.UNUSABLE_MEMORY,
        "Operation not supported",
        "df -h",
    ),
}


@pytest.mark.parametrize(("changes", "level", "slug", "found", "do"), FOLDERS.values(), ids=FOLDERS)
def test_folder_that_is(changes, level, slug, found, do):
    (finding,) = bad(make_machine(make_folder(**changes)))
    assert (finding.level, finding.slug) == (level, slug)
    assert found in finding.found
    assert finding.why
    assert do in finding.do


def test_no_limit_on_files_is_as_it_should_be():
    assert bad(make_machine(make_folder(inodes=None))) == []


def test_a_folder_of_one_user_alone_need_not_be_sticky():
    assert bad(make_machine(make_folder(mode=0o700, uid=1000))) == []


def test_a_mount_that_is_not_sticky_is_told_of_but_right_where_this_user_cannot_change_that():
    (finding,) = [one for one in check_machine(make_machine(make_folder(mode=0o2777, may_change_mode=False))) if one.check == "rights of /dev/shm"]
    assert (finding.level, finding.slug) == (Level.OK, None)
    assert "mode 2777" in finding.found and "users of these containers can remove each other's sockets" in finding.found


def test_a_folder_that_is_not_sticky_and_no_mount_of_its_own_stays_a_warning():
    (finding,) = bad(make_machine(make_folder(mode=0o777, may_change_mode=False, mount=Mount("/dev", "tmpfs", ("rw",)))))
    assert (finding.level, finding.slug) == (Level.WARNING, Slug.NOT_STICKY)


def test_what_fails_in_a_folder_is_told_together_with_what_works():
    probes = {PROBES[0]: "", PROBES[1]: "no page\x1b", PROBES[2]: "no socket"}
    findings = check_machine(make_machine(make_folder(probes=probes)))
    works, fails = [finding for finding in findings if finding.check == "use of /dev/shm"]
    assert PROBES[0] in works.found and PROBES[1] not in works.found
    assert f"{PROBES[1]} (no page\\x1b); {PROBES[2]} (no socket)" in fails.found


def test_little_room_is_no_finding_where_it_is_known_what_is_needed():
    small = make_machine(make_folder(room=Room("", 60 * MB, 64 << 20)))
    assert bad(small, needs_are_known=True) == []
    full = make_machine(make_folder(room=Room("", 4096, 64 << 20)))
    assert [finding.level for finding in bad(full, needs_are_known=True)] == [Level.PROBLEM]


def test_who_fills_a_small_folder_is_named():
    folder = make_folder(room=Room("", 0, GB), largest=[LargeFile("torch_1\x1b", 900 * MB, 0)])
    (finding,) = bad(make_machine(folder))
    assert "torch_1\\x1b (900.0 MB, root (0))" in finding.do


def identity(machine):
    (finding,) = [finding for finding in check_machine(machine) if finding.check == "memory id"]
    assert finding.level is Level.OK
    return finding.found


def test_the_memory_id_is_always_told_and_who_made_the_memory_where_that_shows():
    assert identity(make_machine()) == "0123-4567: of this /dev/shm; two sides meet only where both print the same"
    engines = make_folder(mount=Mount("/dev/shm", "tmpfs", ("rw",), "shm"))
    assert "made by the container engine for this container or pod alone" in identity(make_machine(engines))
    assert "tells none" in identity(make_machine(memory_id=None))
