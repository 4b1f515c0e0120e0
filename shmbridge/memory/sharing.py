"""For whom the files in /dev/shm are: their own user only, or the members of one group too."""

from __future__ import annotations

import os
from dataclasses import dataclass

from shmbridge.errors import SpecError

OWNER_ONLY = 0o600
OWNER_AND_GROUP = 0o660


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
        if self.group is not None and self.group not in our_groups():
            ours = ", ".join(map(str, sorted(our_groups())))
            member = "make it one: --group-add for docker and podman run, group_add in a compose file, usermod -aG otherwise"
            raise SpecError(f"--shm_group {self.group}: this process is no member of that group (it is in {ours}); {member}")

    def apply(self, path: str) -> None:
        """Give a file that we just made its group and its mode, whatever the umask was.

        Raises:
            PermissionError: The file is not ours.
        """
        if self.group is None:
            os.chmod(path, OWNER_ONLY)
        else:
            os.chown(path, -1, self.group, follow_symlinks=False)  # first: the mode of another group must not open it meanwhile
            os.chmod(path, OWNER_AND_GROUP)


PRIVATE = Sharing()
"""For one user only."""


def our_groups() -> set[int]:
    """Return the groups of this process, as the kernel checks them."""
    return {os.getegid(), *os.getgroups()}
