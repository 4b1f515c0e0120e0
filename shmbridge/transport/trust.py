"""Whether the process at the other end of a Unix socket may be talked to. The kernel says who it is; nobody can claim to be another."""

from __future__ import annotations

import os
import pwd
import stat

from shmbridge.errors import AuthenticationError
from shmbridge.memory.sharing import Sharing, our_groups, stand_in
from shmbridge.transport.stream import Credentials

_SAME_USER = "run both sides as the same user (--user for docker and podman run)"


def user_name(uid: int) -> str:
    """Return a user as messages name one: ``alice (uid 1000)``."""
    name = known_name(uid)
    return f"{name} (uid {uid})" if name else f"uid {uid}"


def owner_name(path: str) -> str:
    """Return whose a file is, as :func:`user_name` does."""
    try:
        return user_name(os.lstat(path).st_uid)
    except OSError:
        return "nobody any more"


def known_name(uid: int) -> str:
    """Return a user's name, or nothing where it has none. Some container engines name a user that they do not know by its number."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):  # the latter for numbers that no user can have
        return ""
    return "" if name == str(uid) else name


def check_peer(peer: Credentials, sharing: Sharing, who: str, path: str) -> None:
    """Raise unless the peer is of our own user, or of the group that is trusted here.

    Both ends check. A host checks for the sake of root, whom no file's mode keeps out; a client, because anybody can put a socket
    into /dev/shm under any name that is free.

    Args:
        peer: As the kernel says.
        sharing: Whom this side trusts.
        who: The peer, for the message.
        path: The socket, for the message.

    Raises:
        AuthenticationError: Names both users, the file and the flag.
    """
    is_ours = peer.uid == os.geteuid() and peer.uid != stand_in("uid")
    if is_ours or (sharing.group in peer.groups and sharing.group != stand_in("gid")):
        return
    users = f"{who} runs as {user_name(peer.uid)}, this process as {user_name(os.geteuid())}"
    if peer.uid == os.geteuid():
        text = "which stands for every user that this user namespace does not know: run both sides as another user (--user for docker and podman run)"
        raise AuthenticationError(f"{users}, {text}")
    raise AuthenticationError(f"{users}; {path} is {_for_whom(sharing, path)}: {_remedy(sharing, path)}")


def refused_by_mode(path: str, sharing: Sharing) -> AuthenticationError:
    """Return the error for a socket that the kernel does not let us connect to."""
    users = f"{path} belongs to {owner_name(path)}, this process runs as {user_name(os.geteuid())}"
    return AuthenticationError(f"{users}; it is {_for_whom(sharing, path)}: {_remedy(sharing, path)}")


def _for_whom(sharing: Sharing, path: str) -> str:
    group = _group_of(path)
    return "for one user only" if group is None else f"shared with the members of group {group}"


def _remedy(sharing: Sharing, path: str) -> str:
    group = _group_of(path)
    if group is None:
        return f"{_SAME_USER}, or give both sides --shm_group GID, a group of which both are members (--group-add GID)"
    if group not in our_groups():
        return f"make this side a member (--group-add {group} for docker and podman run) and give it --shm_group {group}, or {_SAME_USER}"
    if sharing.group != group:
        return f"give this side --shm_group {group} too, if its members are to be trusted"
    return f"the other side must be a member of it too (--group-add {group} for docker and podman run), or {_SAME_USER}"


def _group_of(path: str) -> int | None:
    """Return the group that a socket is shared with; None where it is its owner's alone, or gone."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_gid if found.st_mode & stat.S_IWGRP else None
