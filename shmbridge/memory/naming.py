"""What lies in /dev/shm under which name.

For a host called NAME: ``shmbridge.NAME.lock`` (held as long as it lives), ``shmbridge.NAME.sock`` (its control socket) and, while a
client attaches, ``sem.shmbridge.NAME.RANDOM.KIND``. The dots keep NAME and NAME-x apart.
"""

from __future__ import annotations

import os
import re
import secrets

from shmbridge.errors import SpecError

SHM = "/dev/shm"
"""Where glibc's ``sem_open`` looks; so the tmpfs that two containers share must be mounted exactly here in both."""
DEFAULT_NAME = "default"
SEMAPHORES = ("observation-free", "observation-full", "action-free", "action-full")
_NAME = re.compile(r"[a-z0-9_-]{1,48}")


def check_name(name: str) -> str:
    """Return ``name`` if a host may be called so, or raise SpecError."""
    if not _NAME.fullmatch(name):
        raise SpecError(f"{name!r} cannot name a host: use 1 to 48 of a-z, 0-9, '_' and '-'")
    return name


def lock_path(name: str) -> str:
    """Path of the lock that a living host called ``name`` holds."""
    return f"{SHM}/shmbridge.{name}.lock"


def socket_path(name: str) -> str:
    """Path of the control socket of the host called ``name``."""
    return f"{SHM}/shmbridge.{name}.sock"


def new_semaphore_names(name: str) -> list[str]:
    """Return fresh names for one session's semaphores, in the order of :data:`SEMAPHORES`."""
    session = secrets.token_hex(8)
    return [f"/shmbridge.{name}.{session}.{kind}" for kind in SEMAPHORES]


def semaphore_path(name: str) -> str:
    """Path of the file behind a POSIX semaphore's name, as glibc has it."""
    return f"{SHM}/sem.{name[1:]}"


def is_semaphore_name(name: str) -> bool:
    """Return whether ``name`` is one that :func:`new_semaphore_names` could have made."""
    return re.fullmatch(r"/shmbridge\.[a-z0-9_-]{1,48}\.[0-9a-z]{1,32}\.[a-z0-9-]{1,32}", name) is not None


def host_names() -> list[str]:
    """Return the names of all hosts with a control socket here, living or not, in order."""
    found = (re.fullmatch(r"shmbridge\.([a-z0-9_-]{1,48})\.sock", entry) for entry in os.listdir(SHM))
    return sorted(match[1] for match in found if match)
