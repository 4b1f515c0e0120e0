"""``shmbridge policies``, ``shmbridge envs``, ``shmbridge ls``: what there is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from shmbridge.cli.console import print_table
from shmbridge.cli.flags import make_parser
from shmbridge.connecting import describe_host
from shmbridge.errors import HostNotFoundError, ShmbridgeError
from shmbridge.memory.capacity import megabytes
from shmbridge.memory.naming import SHM, host_names, socket_path
from shmbridge.messages import ClientDescription
from shmbridge.registry import Registry
from shmbridge.registry import environments as known_environments
from shmbridge.registry import policies as known_policies

_QUERY_SECONDS = 1.0


def policies(words: Sequence[str]) -> int:
    """List the policies known by name."""
    make_parser("policies", "List the policies known by name. Others go by package.module:Class or path/to/file.py:Class.").parse_args(words)
    return _list(known_policies, "policy")


def environments(words: Sequence[str]) -> int:
    """List the environments known by name."""
    make_parser("envs", "List the environments known by name. Others go by package.module:Class or path/to/file.py:Class.").parse_args(words)
    return _list(known_environments, "environment")


def hosts(words: Sequence[str]) -> int:
    """List the hosts of this machine. Exit status 1 if one of them does not answer."""
    parser = make_parser("ls", f"List the hosts in this {SHM}, what they run and whom they serve.")
    parser.add_argument("--name", help="only this host; exit status 1 if it is not there (for health checks)")
    args = parser.parse_args(words)
    names = [args.name] if args.name else host_names()
    if not names:
        print(f"no hosts in {SHM}; start one with: shmbridge serve --policy_type NAME")
        return 0
    rows = [row for name in names for row in _rows(name)]
    print_table(("host", "policy", "state", "pid", "client", "envs", "observation", "memory", "for"), rows)
    return int(any(row[2] in (_DEAD, _SILENT, _ABSENT) for row in rows))


_DEAD, _SILENT, _ABSENT = "dead", "no answer", "absent"


def _rows(name: str) -> list[tuple[str, ...]]:
    try:
        found = describe_host(name, _QUERY_SECONDS)
    except HostNotFoundError:
        if not os.path.exists(socket_path(name)):
            return [(name, "-", _ABSENT, "-", f"no such host; start it with: shmbridge serve --name {name} --policy_type …", "", "", "", "")]
        return [(name, "-", _DEAD, "-", f"{socket_path(name)} is a leftover; the next host of that name removes it", "", "", "", "")]
    except ShmbridgeError as error:
        return [(name, "-", _SILENT, "-", str(error), "", "", "", "")]
    head = (name, found.policy, found.status.state.value, str(found.pid))
    clients = [_client(client) for client in found.clients] or [("-", "", "", "", f"{found.status.seconds:.0f} s")]
    return [(*head, *client) for client in clients]


def _client(client: ClientDescription) -> tuple[str, ...]:
    return (client.client, str(client.num_envs), str(client.sequence), megabytes(client.nbytes), f"{client.seconds:.0f} s")


def _list(registry: Registry[Any], kind: str) -> int:
    rows = [(name, place) for name, place in registry.names().items()]
    if rows:
        print_table((kind, "from"), rows)
    else:
        print(f"no {kind} is installed by name; use package.module:Class or path/to/file.py:Class")
    return 0
