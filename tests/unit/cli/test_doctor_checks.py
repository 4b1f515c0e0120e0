"""What is made of a machine that a test describes."""

from __future__ import annotations

import dataclasses

import pytest
from machines import GB, MB, make_folder, make_machine

from shmbridge.cli.doctor_checks import Level, check_machine
from shmbridge.cli.doctor_facts import PROBES, LargeFile, Mount
from shmbridge.memory import leftovers
from shmbridge.memory.capacity import Room
from shmbridge.memory.leftovers import Entry, Fate


def bad(machine, **options):
    """Return what is not as it should be."""
    return [finding for finding in check_machine(machine, **options) if finding.level is not Level.OK]


def test_nothing_is_wrong_with_a_machine_as_it_should_be():
    assert bad(make_machine()) == []


def test_each_check_says_what_it_found():
    findings = check_machine(make_machine())
    assert len({finding.check for finding in findings}) == len(findings) >= 12
    assert all(finding.found for finding in findings)
    text = " ".join(finding.found for finding in findings)
    for part in ("tmpfs", "noexec", "1777", "8.0 GB free of 9.0 GB", "no limit", "glibc 2.36", "6.1.0", "3.11.7", "numpy 2.0", "rich 13", "not here: torch"):
        assert part in text


FOLDERS = {
    "on a disk": ({"mount": Mount("/dev/shm", "ext4", ("rw",))}, Level.PROBLEM, "type ext4", "--shm-size"),
    "part of the image": ({"mount": Mount("/", "overlay", ("rw",))}, Level.PROBLEM, "type overlay, as a part of /", "type=tmpfs"),
    "of a kind that does not tell its size": ({"mount": Mount("/dev/shm", "ramfs", ("rw",))}, Level.PROBLEM, "type ramfs", "tmpfs"),
    "read-only": ({"mount": Mount("/dev/shm", "tmpfs", ("ro",)), "is_open": False}, Level.PROBLEM, "read-only", "remount,rw"),
    "unknown": ({"mount": None}, Level.WARNING, "does not say", "findmnt"),
    "not sticky": ({"mode": 0o777}, Level.WARNING, "mode 0777", "chmod 1777"),
    "closed to us": ({"mode": 0o755, "is_open": False}, Level.PROBLEM, "mode 0755, owner root (0); closed to this user", "chmod 1777"),
    "as small as Docker's": ({"room": Room("", 60 * MB, 64 << 20)}, Level.WARNING, "60.0 MB free of 67.1 MB", "--shm-size"),
    "nearly full": ({"room": Room("", 10 * MB, 9 * GB)}, Level.WARNING, "10.0 MB free of 9.0 GB", "--shm-size"),
    "full": ({"room": Room("", 0, 9 * GB)}, Level.PROBLEM, "0 B free of 9.0 GB", "--shm-size"),
    "without inodes": ({"inodes": 0}, Level.PROBLEM, "not one more file", "nr_inodes"),
    "without O_TMPFILE": ({"probes": {PROBES[0]: "Operation not supported", PROBES[1]: ""}}, Level.PROBLEM, "Operation not supported", "df -h"),
}


@pytest.mark.parametrize(("changes", "level", "found", "remedy"), FOLDERS.values(), ids=FOLDERS)
def test_folder_that_is(changes, level, found, remedy):
    (finding,) = bad(make_machine(make_folder(**changes)))
    assert finding.level is level
    assert found in finding.found
    assert finding.expected
    assert remedy in finding.remedy


def test_no_limit_on_files_is_as_it_should_be():
    assert bad(make_machine(make_folder(inodes=None))) == []


def test_a_folder_of_one_user_alone_need_not_be_sticky():
    assert bad(make_machine(make_folder(mode=0o700, uid=1000))) == []


def test_a_missing_folder_is_a_problem_and_all_else_is_checked_still():
    machine = dataclasses.replace(make_machine(), folder=None, libc="musl")
    assert [(finding.level, finding.check) for finding in bad(machine)] == [(Level.PROBLEM, "/dev/shm"), (Level.PROBLEM, "C library")]


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
    assert "torch_1\\x1b (900.0 MB, root (0))" in finding.remedy


MACHINES = {
    "little left in the control group": ({"cgroup": Room("", 5 * MB, GB)}, Level.WARNING, "5.0 MB free of 1.0 GB", "--memory"),
    "little memory": ({"memory": Room("", 5 * MB, GB)}, Level.WARNING, "5.0 MB available", "ps aux"),
    "musl": ({"libc": "not glibc"}, Level.PROBLEM, "not glibc", "Alpine"),
    "an old C library": ({"libc": "glibc 2.28"}, Level.WARNING, "2.28", "newer"),
    "an old kernel": ({"kernel": "5.4.0-42-generic"}, Level.WARNING, "5.4.0", "newer"),
    "a machine of 32 bits": ({"is_64_bit_little": False}, Level.PROBLEM, "x86_64", "another machine"),
    "a Python too new": ({"python": (3, 14, 0)}, Level.WARNING, "3.14.0", "environment"),
    "another Python": ({"implementation": "pypy"}, Level.WARNING, "pypy", "environment"),
    "a missing package": ({"packages": {"shmbridge": "1", "psutil": None, "PyYAML": None}}, Level.PROBLEM, "psutil", "pip install psutil PyYAML"),
    "one core": ({"cores": 1, "allowed": 1}, Level.WARNING, "1", "--cpus"),
    "one core allowed": ({"allowed": 1}, Level.WARNING, "8 (1 allowed)", "taskset"),
    "a quota of one core": ({"quota": 1.0}, Level.WARNING, "8 (time for 1)", "--cpus"),
    "few open files": ({"limits": {"-n": 64, "-f": None, "-v": None}}, Level.WARNING, "64 open files", "ulimit -n 1024"),
    "small files only": ({"limits": {"-n": None, "-f": MB, "-v": None}}, Level.WARNING, "1.0 MB", "ulimit -f unlimited"),
    "little address space": ({"limits": {"-n": None, "-f": None, "-v": GB}}, Level.WARNING, "1.0 GB", "ulimit -v unlimited"),
}


@pytest.mark.parametrize(("changes", "level", "found", "remedy"), MACHINES.values(), ids=MACHINES)
def test_machine_with(changes, level, found, remedy):
    (finding,) = bad(make_machine(**changes))
    assert finding.level is level
    assert found in finding.found
    assert finding.expected
    assert remedy in finding.remedy


@pytest.mark.parametrize("changes", [{"quota": 2.0}, {"quota": 2.5, "allowed": 4}, {"libc": "glibc 2.30"}, {"kernel": "5.14"}, {"cgroup": Room("", GB, GB)}])
def test_just_enough_is_enough(changes):
    assert bad(make_machine(**changes)) == []


def test_leftovers_are_a_warning_and_others_files_are_not():
    def left(host, fate):
        return leftovers.Finding(Entry("/dev/shm/x", "semaphore", host, 0, 4096, 1.0), fate)

    found = [left("b", Fate.LEFT_BEHIND), left("a", Fate.LEFT_BEHIND), left("c", Fate.OF_ANOTHER_USER), left("d", Fate.HELD)]
    (finding,) = bad(make_machine(leftovers=found))
    assert finding.level is Level.WARNING
    assert finding.found == "2 files, 8.2 kB, left by hosts that are gone: a, b"
    assert finding.remedy == "shmbridge gc"
    assert bad(make_machine(leftovers=found[2:])) == []
