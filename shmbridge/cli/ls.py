"""``shmbridge ls``: the hosts of this machine, whom they serve, and what dead ones left."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from shmbridge.cli.console import print_table
from shmbridge.cli.flags import add_group_flag, make_parser, positive
from shmbridge.cli.gc import as_data
from shmbridge.cli.wording import duration, files, print_json, printable, rate, say, size, user
from shmbridge.connecting import describe_host
from shmbridge.errors import AuthenticationError, HostNotFoundError, ShmbridgeError
from shmbridge.memory.leftovers import Entry, Fate, Finding, entries, survey
from shmbridge.memory.naming import SHM, check_name, socket_path
from shmbridge.messages import ClientDescription, Description, HostState

_QUERY_SECONDS = 1.0
_QUERIES_AT_ONCE = 16
_CLEAR = "\x1b[H\x1b[2J"
DEAD, SILENT, ABSENT, ANOTHERS = "dead", "no answer", "absent", "another user's"
HOST_HEAD = ("host", "policy", "state", "user", "pid", "up", "clients", "obs/s", "memory")
CLIENT_HEAD = ("client", "state", "user", "envs", "obs", "obs/s", "ms each", "memory", "for")


@dataclass(frozen=True)
class Seen:
    """What was learnt of one host.

    Attributes:
        name: As its socket says.
        state: What it says it does; :data:`DEAD`, :data:`SILENT`, :data:`ABSENT` or :data:`ANOTHERS` where it says nothing.
        uid: Owner of its socket, as the kernel tells us; None where there is no socket.
        told: What it says of itself; None where it says nothing.
        note: What a person should know or do about it.
    """

    name: str
    state: str
    uid: int | None
    told: Description | None = None
    note: str = ""


def main(words: Sequence[str]) -> int:
    """List hosts, clients and leftovers. Exit status 1 if a host does not answer."""
    parser = make_parser("ls", f"List the hosts in this {SHM}, what they run, whom they serve, and what dead ones left.")
    parser.add_argument("--name", help="only this host; exit status 1 if it is not there (for health checks)")
    add_group_flag(parser, "as hosts")
    parser.add_argument("--watch", type=positive, metavar="SECONDS", help="look again and again, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    args = parser.parse_args(words)
    if args.json and args.watch:
        parser.error("--json prints one document; leave --watch out")
    return _watch(args) if args.watch else _list(args)


def _watch(args: argparse.Namespace) -> int:
    # A handler that notes, because Python drops the exception of a Ctrl-C that comes in a callback, as a pool of threads has many.
    stop = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        while not stop.is_set():
            if sys.stdout.isatty():
                print(_CLEAR, end="")
            _list(args)
            sys.stdout.flush()
            stop.wait(args.watch)
    finally:
        signal.signal(signal.SIGINT, previous)
    return 0


def _list(args: argparse.Namespace) -> int:
    names = [check_name(args.name)] if args.name is not None else [entry.host for entry in entries() if entry.kind == "socket"]
    with ThreadPoolExecutor(_QUERIES_AT_ONCE) as queries:
        seen = list(queries.map(partial(look_at, shm_group=args.shm_group), names))
    found = [] if args.name is not None else [finding for finding in survey() if finding.fate is not Fate.HELD]
    if args.json:
        print_json({"hosts": [_as_data(host) for host in seen], "leftovers": [as_data(finding) for finding in found]})
    else:
        _print(seen, found)
    return int(any(host.told is None for host in seen))


def look_at(name: str, shm_group: int | None = None) -> Seen:
    """Ask the host called ``name`` what it does; one of another user only if it is of the group."""
    uid = _owner(name)
    try:
        told = describe_host(name, _QUERY_SECONDS, shm_group=shm_group)
    except HostNotFoundError:
        if uid is None:
            return Seen(name, ABSENT, None, note=f"no such host; start it with: shmbridge serve --name {name} --policy_type …")
        return Seen(name, DEAD, uid, note="its socket was left behind; remove it with: shmbridge gc")
    except AuthenticationError as error:
        return Seen(name, ANOTHERS, uid, note=printable(str(error), 1000))
    except ShmbridgeError as error:
        return Seen(name, SILENT, uid, note=printable(str(error), 1000))
    return Seen(name, told.status.state.value, uid, told, "" if told.name == name else f"it calls itself {printable(told.name)}")


def _owner(name: str) -> int | None:
    try:
        return os.lstat(socket_path(name)).st_uid
    except OSError:
        return None


def _print(seen: Sequence[Seen], found: Sequence[Finding]) -> None:
    if seen:
        print_table(HOST_HEAD, [host_row(host) for host in seen])
    else:
        say(f"no hosts in {SHM}; start one with: shmbridge serve --policy_type NAME")
    for host in seen:
        if host.told is not None and host.told.clients:
            print_table(CLIENT_HEAD, [client_row(client) for client in host.told.clients], title=f"clients of {host.name}")
    noted = [host for host in seen if host.note and not (found and host.state == DEAD)]  # else it is among what was found
    for line in [*(f"{host.name}: {host.note}" for host in noted), *leftover_lines(found)]:
        say(line)


def host_row(host: Seen) -> tuple[str, ...]:
    """Return a host's line of the table."""
    who = "-" if host.uid is None else user(host.uid)
    if host.told is None:
        return (host.name, "-", host.state, who, *"-----")
    told = host.told
    doing = f"{host.state} {duration(told.status.seconds)}" if told.status.seconds >= 1 and told.status.state is not HostState.READY else host.state
    rates, memory = rate(sum(client.rate for client in told.clients)), size(sum(client.nbytes for client in told.clients))
    places = f"{len(told.clients)} of {told.max_sessions}"
    return (host.name, printable(told.policy.rpartition("/")[2], 60), doing, who, str(told.pid), duration(told.seconds), places, rates, memory)


def client_row(client: ClientDescription) -> tuple[str, ...]:
    """Return a client's line of the table."""
    done, spent = client.counters.requests, client.counters.infer_seconds
    each = f"{spent / done * 1e3:.3g}" if done > 0 and 0 <= spent < float("inf") else "-"
    counts = (f"{client.num_envs:,}", f"{done:,}", rate(client.rate), each)
    return (printable(client.client), printable(client.state, 20), user(client.uid), *counts, size(client.nbytes), duration(client.seconds))


def leftover_lines(found: Sequence[Finding]) -> list[str]:
    """Say what lies about, of whom, and what to type."""
    groups = {fate: [finding.entry for finding in found if finding.fate is fate] for fate in Fate}
    lines = []
    if groups[Fate.LEFT_BEHIND]:
        lines.append(f"left behind by hosts that are gone: {_by_host(groups[Fate.LEFT_BEHIND])}. Remove it with: shmbridge gc")
    strays = [entry for entry in groups[Fate.OF_ANOTHER_USER] if not os.path.exists(socket_path(entry.host))]
    for uid in sorted({entry.uid for entry in strays}):
        theirs = [entry for entry in strays if entry.uid == uid]
        lines.append(f"of {user(uid)}, who alone can tell whether it is in use: {_by_host(theirs)}. They can remove what is not with: shmbridge gc")
    lines += [f"cannot be looked into: {finding.entry.path}: {finding.why}" for finding in found if finding.fate is Fate.FAILED]
    if groups[Fate.UNKNOWN]:
        lines.append(f"named like ours, but nothing this version makes: {', '.join(printable(entry.path) for entry in groups[Fate.UNKNOWN])}")
    return lines


def _by_host(left: Sequence[Entry]) -> str:
    groups = {name: [entry for entry in left if entry.host == name] for name in dict.fromkeys(entry.host for entry in left)}
    return ", ".join(f"{name} ({files(len(group))}, {size(sum(entry.nbytes for entry in group))})" for name, group in groups.items())


def _as_data(host: Seen) -> dict[str, Any]:
    told = msgspec.to_builtins(host.told) if host.told else {}
    for part in (told, told.get("status", {})):
        part.pop("type", None)
    for client in told.get("clients", []):
        client.pop("session")  # told by inspect only
    return {**told, "name": host.name, "state": host.state, "uid": host.uid, "user": None if host.uid is None else user(host.uid), "note": host.note}
