"""Names that no other test uses, and what is left of them."""

from __future__ import annotations

import os
import secrets

from shmbridge.memory.naming import SHM


def unique_name(prefix: str = "test") -> str:
    """Return a host name that nothing else uses."""
    return f"{prefix}-{os.getpid()}-{secrets.token_hex(4)}"


def leftovers(name: str = "") -> list[str]:
    """Return the files in /dev/shm that belong to hosts called ``name``; of all hosts without one."""
    starts = (f"shmbridge.{name}.", f"sem.shmbridge.{name}.") if name else ("shmbridge.", "sem.shmbridge.")
    return sorted(entry for entry in os.listdir(SHM) if entry.startswith(starts))
