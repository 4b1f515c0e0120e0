"""What is made of a machine that a test describes."""

from __future__ import annotations

import dataclasses

import pytest
from machines import GB, MB, make_machine

from shmbridge.cli.doctor_checks import check_machine
from shmbridge.cli.doctor_findings import Level, Slug
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


def test_a_missing_folder_is_a_problem_and_all_else_is_checked_still():
    machine = dataclasses.replace(make_machine(), folder=None, libc="musl")
    assert [(finding.level, finding.check) for finding in bad(machine)] == [(Level.PROBLEM, "/dev/shm"), (Level.PROBLEM, "C library")]


MACHINES = {
    "little left in the control group": ({"cgroup": Room("", 5 * MB, GB)}, Level.WARNING, Slug.MEMORY_LIMIT, "5.0 MB free of 1.0 GB", "--memory"),
    "little memory": ({"memory": Room("", 5 * MB, GB)}, Level.WARNING, Slug.LITTLE_MEMORY, "5.0 MB available", "ps aux"),
    "musl": ({"libc": "not glibc"}, Level.PROBLEM, Slug.OTHER_LIBC, "not glibc", "Alpine"),
    "an old C library": ({"libc": "glibc 2.28"}, Level.WARNING, Slug.OLD_LIBC, "2.28", "newer"),
    "an old kernel": ({"kernel": "5.4.0-42-generic"}, Level.WARNING, Slug.OLD_KERNEL, "5.4.0", "newer"),
    "a machine of 32 bits": ({"is_64_bit_little": False}, Level.PROBLEM, Slug.OTHER_MACHINE, "x86_64", "another machine"),
    "a Python too new": ({"python": (3, 14, 0)}, Level.WARNING, Slug.UNTESTED_PYTHON, "3.14.0", "environment"),
    "another Python": ({"implementation": "pypy"}, Level.WARNING, Slug.UNTESTED_PYTHON, "pypy", "environment"),
    "a missing package": (
        {"packages": {"shmbridge": "1", "psutil": None, "PyYAML": None}},
        Level.PROBLEM,
        Slug.MISSING_PACKAGES,
        "psutil",
        "install psutil PyYAML",
    ),
    "one core": ({"cores": 1, "allowed": 1}, Level.WARNING, Slug.ONE_CORE, "1", "--cpus"),
    "one core allowed": ({"allowed": 1}, Level.WARNING, Slug.ONE_CORE, "8 (1 allowed)", "taskset"),
    "a quota of one core": ({"quota": 1.0}, Level.WARNING, Slug.ONE_CORE, "8 (time for 1)", "--cpus"),
    "few open files": ({"limits": {"-n": 64, "-f": None, "-v": None}}, Level.WARNING, Slug.LIMITS, "64 open files", "ulimit -n 1024"),
    "small files only": ({"limits": {"-n": None, "-f": MB, "-v": None}}, Level.WARNING, Slug.LIMITS, "1.0 MB", "ulimit -f unlimited"),
    "little address space": ({"limits": {"-n": None, "-f": None, "-v": GB}}, Level.WARNING, Slug.LIMITS, "1.0 GB", "ulimit -v unlimited"),
}


@pytest.mark.parametrize(("changes", "level", "slug", "found", "do"), MACHINES.values(), ids=MACHINES)
def test_machine_with(changes, level, slug, found, do):
    (finding,) = bad(make_machine(**changes))
    assert (finding.level, finding.slug) == (level, slug)
    assert found in finding.found
    assert finding.why
    assert do in finding.do


@pytest.mark.parametrize("changes", [{"quota": 2.0}, {"quota": 2.5, "allowed": 4}, {"libc": "glibc 2.30"}, {"kernel": "5.14"}, {"cgroup": Room("", GB, GB)}])
def test_just_enough_is_enough(changes):
    assert bad(make_machine(**changes)) == []


def left(host, fate, uid=0, why=""):
    return leftovers.Finding(Entry("/dev/shm/x", "semaphore", host, uid, 4096, 1.0), fate, why)


def test_leftovers_are_a_warning_and_others_files_are_told_with_whose_they_are():
    found = [left("b", Fate.LEFT_BEHIND), left("a", Fate.LEFT_BEHIND), left("c", Fate.OF_ANOTHER_USER, 987_654), left("d", Fate.HELD)]
    (finding,) = bad(make_machine(leftovers=found))
    assert (finding.level, finding.slug) == (Level.WARNING, Slug.LEFTOVERS)
    assert finding.found == "2 files, 8.2 kB, left by hosts of user root (0) that are gone: a, b"
    assert finding.do == "shmbridge gc"
    assert bad(make_machine(leftovers=found[2:])) == []
    (others,) = [finding for finding in check_machine(make_machine(leftovers=found)) if finding.check == "others' files"]
    assert others.found == "of user 987654, who alone can tell whether they are in use: c (1 file, 4.1 kB)"
    assert others.do == "as user 987654: shmbridge gc --dry_run"


def test_files_that_cannot_be_asked_about_are_a_warning():
    (finding,) = bad(make_machine(leftovers=[left("a", Fate.FAILED, why="a.lock cannot be asked: \x1b")]))
    assert (finding.slug, finding.found) == (Slug.LEFTOVERS, "a.lock cannot be asked: \\x1b")
