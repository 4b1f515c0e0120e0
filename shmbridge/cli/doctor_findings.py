"""What ``shmbridge doctor`` says: what was found, how bad it is, why that matters, and what to do about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

PAGE = "docs/howto/troubleshooting.md"
COMMAND = "    "
"""What a line of :attr:`Finding.do` begins with that is a command and nothing else: it is never broken, so that it can be copied."""


class Level(str, enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Works, but not as it should."""
    PROBLEM = "problem"
    """Does not work."""


class Slug(str, enum.Enum):
    """Every kind of thing that can be wrong, by the name of its section in the page on troubleshooting."""

    PRIVATE_MEMORY = "private-memory"
    NO_HOST = "no-host"
    DEAD_HOST = "dead-host"
    SILENT_HOST = "silent-host"
    FAILED_HOST = "failed-host"
    OTHER_USER = "other-user"
    NO_PLACE = "no-place"
    DIFFERENT_VERSIONS = "different-versions"

    NO_MEMORY = "no-memory"
    UNKNOWN_MOUNT = "unknown-mount"
    DISK = "disk"
    READ_ONLY = "read-only"
    CLOSED_MEMORY = "closed-memory"
    NOT_STICKY = "not-sticky"
    SMALL_MEMORY = "small-memory"
    NO_FILES = "no-files"
    UNUSABLE_MEMORY = "unusable-memory"
    MEMORY_LIMIT = "memory-limit"
    LITTLE_MEMORY = "little-memory"
    LEFTOVERS = "leftovers"

    OTHER_LIBC = "other-libc"
    OLD_LIBC = "old-libc"
    OTHER_MACHINE = "other-machine"
    OLD_KERNEL = "old-kernel"
    UNTESTED_PYTHON = "untested-python"
    MISSING_PACKAGES = "missing-packages"
    ONE_CORE = "one-core"
    LIMITS = "limits"

    LAUNCH_FILE = "launch-file"
    INTERPRETER = "interpreter"
    POLICY = "policy"
    NAME_TAKEN = "name-taken"
    UNDESCRIBED = "undescribed"


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    Attributes:
        check: What was looked at.
        level: How bad it is.
        found: What was seen.
        why: Why that matters; empty where nothing is wrong.
        do: The flag or command that mends it, maybe in several lines; where nothing is wrong, what else can be done, or empty.
        slug: The section of :data:`PAGE` that tells more; None where nothing is wrong.
    """

    check: str
    level: Level
    found: str
    why: str = ""
    do: str = ""
    slug: Slug | None = None


def ok(check: str, found: str, do: str = "") -> Finding:
    """Return a finding of something that is as it should be."""
    return Finding(check, Level.OK, found, do=do)


def warning(slug: Slug, check: str, found: str, why: str, do: str) -> Finding:
    """Return a finding of something that works, but not as it should."""
    return Finding(check, Level.WARNING, found, why, do, slug)


def problem(slug: Slug, check: str, found: str, why: str, do: str) -> Finding:
    """Return a finding of something that does not work."""
    return Finding(check, Level.PROBLEM, found, why, do, slug)


def count(findings: list[Finding], level: Level) -> int:
    """Return how many findings are of a level."""
    return sum(finding.level is level for finding in findings)
