"""What is mounted at /dev/shm, and which memory it is: two processes can meet only where that is the same for both."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from shmbridge.memory.naming import SHM

VOLUME = "shmbridge-shm"
MAKE_VOLUME = f"docker volume create -o type=tmpfs -o device=tmpfs -o o=nr_blocks=131072,mode=1777 {VOLUME}"
"""A tmpfs of 512 MiB in pages, which podman takes too; without ``type=tmpfs`` it would lie on a disk."""
HOW_TO_SHARE = f"mount one tmpfs volume at {SHM} in both containers (-v {VOLUME}:{SHM} for docker and podman run; docker/compose.yaml and docker/pod.yaml do)"
_ENGINES_OWN = "shm"
"""What docker, podman and containerd call the source of the tmpfs that they make at /dev/shm by themselves."""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Mount(NamedTuple):
    """A mounted file system: where, of what kind, how, and what its maker calls its source."""

    point: str
    kind: str
    options: tuple[str, ...]
    source: str = ""


def shm_mount() -> Mount | None:
    """Return the file system in which /dev/shm lies; None where the kernel does not tell."""
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # there is no /proc
        return None
    return mount_of(os.path.realpath(SHM), text)


def mount_of(path: str, mountinfo: str) -> Mount | None:
    """Return the file system in which ``path`` lies, out of the text of ``/proc/self/mountinfo``.

    Of those mounted over one another, the last one listed is the one that is seen.
    """
    best: Mount | None = None
    for line in mountinfo.splitlines():
        before, mark, after = line.partition(" - ")
        words, kind = before.split(), after.split()
        if not mark or len(words) < 6 or len(kind) < 2:
            continue
        point = _unescaped(words[4])
        covers = path == point or path.startswith(f"{point.rstrip('/')}/")
        if covers and (best is None or len(point) >= len(best.point)):
            best = Mount(point, kind[0], tuple(words[5].split(",")), _unescaped(kind[1]))
    return best


def is_engines_own(mount: Mount | None) -> bool:
    """Return whether a container engine made this /dev/shm by itself: for one container, and those that were told to join its IPC."""
    return mount is not None and mount.kind == "tmpfs" and mount.point == SHM and mount.source == _ENGINES_OWN


def memory_id(path: str = SHM) -> str | None:
    """Return eight hexadecimal digits that are the same wherever the same memory is mounted, and differ elsewhere; for people to compare.

    Made of the file system's own number, which a tmpfs draws at random when it is made (since Linux 5.13), and of the folder's device and
    inode. Before 5.13 the number of the kernel's start takes its place. None where neither is told (gVisor), or ``path`` is not there.
    """
    try:
        found, number = os.stat(path), os.statvfs(path).f_fsid
    except OSError:
        return None
    number_or_boot = str(number) if number else _boot_id()
    if not number_or_boot:
        return None
    digits = hashlib.sha256(f"{number_or_boot} {found.st_dev} {found.st_ino}".encode()).hexdigest()
    return f"{digits[:4]}-{digits[4:8]}"


def _boot_id() -> str:
    try:
        return Path(_BOOT_ID).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)
