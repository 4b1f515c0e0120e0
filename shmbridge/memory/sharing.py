"""For whom the files in /dev/shm are: their own user only, or the members of one group too."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from shmbridge.errors import SpecError

OWNER_ONLY = 0o600
OWNER_AND_GROUP = 0o660
_KNOWS_ALL = [b"0", b"0", b"4294967295"]
"""A map of users or groups: from 0 inside and 0 outside on, all of them."""


@dataclass(frozen=True)
class Sharing:
    """Who may use what a host puts into /dev/shm under a name: its socket and, while a client attaches, its semaphores.

    The rings have no names. They stay the owner's, so that a member of the group who got a descriptor that only reads cannot
    reopen it for writing. The lock stays the owner's too: whoever could take it would keep a host from starting.

    Attributes:
        group: Number of a group whose members are trusted as the owner is; None for the owner only.
    """

    group: int | None = None

    def check_membership(self) -> None:
        """Raise SpecError unless this process is a member of the group: one that is not could neither give files to it nor use them."""
        if self.group is not None and self.group == stand_in("gid"):
            text = "stands for every group that this user namespace does not know"
            raise SpecError(f"--shm_group {self.group} {text}: map the group into the container, or run both sides as the same user")
        if self.group is not None and self.group not in our_groups():
            ours = ", ".join(map(str, sorted(our_groups())))
            member = "make it one: --group-add for docker and podman run, group_add in a compose file, usermod -aG otherwise"
            raise SpecError(f"--shm_group {self.group}: this process is no member of that group (it is in {ours}); {member}")

    def apply(self, path: str) -> None:
        """Give a file that we just made its group and its mode, whatever the umask was.

        Raises:
            PermissionError: The file is not ours.
        """
        # Through a descriptor: in a folder that is not sticky somebody could put another file in the place of this one.
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to another user", path)
            file = f"/proc/self/fd/{descriptor}"
            if self.group is not None:
                os.chown(file, -1, self.group)  # first: the mode of another group must not open it meanwhile
            os.chmod(file, OWNER_ONLY if self.group is None else OWNER_AND_GROUP)
        finally:
            os.close(descriptor)


PRIVATE = Sharing()
"""For one user only."""


def our_groups() -> set[int]:
    """Return the groups of this process, as the kernel checks them."""
    return {os.getegid(), *os.getgroups()}


def stand_in(kind: str) -> int | None:
    """Return the number that stands for all users, or groups, whom our user namespace does not know; None where it knows all.

    Whoever is shown under that number may be anybody, so it proves nothing. Source: user_namespaces(7), "Unmapped user and group IDs".

    Args:
        kind: ``uid`` or ``gid``.
    """
    try:
        with open(f"/proc/self/{kind}_map", "rb") as mapped, open(f"/proc/sys/kernel/overflow{kind}", "rb") as number:
            return None if mapped.read().split() == _KNOWS_ALL else int(number.read())
    except OSError:  # a kernel without user namespaces
        return None
