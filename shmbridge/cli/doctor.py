"""``shmbridge doctor``: what is wrong with this machine, with a launch file's needs of it, and between two sides that do not meet."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shmbridge.cli.doctor_asking import ask_programs, look_at_names
from shmbridge.cli.doctor_checks import check_machine
from shmbridge.cli.doctor_facts import Machine, look_at_machine
from shmbridge.cli.doctor_findings import Finding, Level, Slug, count, problem
from shmbridge.cli.doctor_launch import check_launch
from shmbridge.cli.doctor_peer import Peer, look_at_peer
from shmbridge.cli.doctor_peer_checks import check_peer
from shmbridge.cli.doctor_view import print_findings
from shmbridge.cli.flags import add_group_flag, make_parser, positive
from shmbridge.cli.launch import values_from_flags
from shmbridge.cli.launch_file import read_launch_file
from shmbridge.cli.wording import print_json
from shmbridge.errors import SpecError
from shmbridge.memory.naming import SHM
from shmbridge.transport.base import parse_address

_PEER_SECONDS = 3.0


def main(words: Sequence[str]) -> int:
    """Check the machine, launch files and a host. Exit status 1 if there is a problem."""
    parser = _parser()
    args = parser.parse_args(words)
    if args.shm_group is not None and args.peer is None:
        parser.error("--shm_group is about a host: say which with --peer NAME")
    values, name = values_from_flags(args.set or []), None if args.peer is None else parse_address(args.peer).name
    machine = look_at_machine()
    findings = check_machine(machine, needs_are_known=bool(args.files))
    for path in args.files:
        findings += _check_file(path, values, args.describe_timeout_s, machine)
    peer = None if name is None else look_at_peer(name, _PEER_SECONDS, args.shm_group)
    findings += [] if peer is None else check_peer(machine, peer)
    if args.json:
        print_json(_as_data(machine, findings, peer))
    else:
        print_findings(findings)
    return int(count(findings, Level.PROBLEM) > 0)


def _parser() -> argparse.ArgumentParser:
    text = (
        f"Check {SHM}, the limits that are set, the versions of what is installed, and the cores. With launch files, check too that their environments "
        "exist and fit together, and that there is room for their sessions. With --peer, which may be run on either side, check whether both sides have "
        "the same memory, and what else keeps them apart. Nothing is sent to another machine."
    )
    parser = make_parser("doctor", text)
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="launch files that are to work here")
    parser.add_argument("--peer", metavar="NAME", help="the host that this side is to meet, or is, by its --name")
    add_group_flag(parser, "as the host")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="what ${NAME} is in the files; may be repeated")
    parser.add_argument("--describe_timeout_s", type=positive, default=120, metavar="SECONDS", help="how long each program may take to say what it needs")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return parser


def _check_file(path: Path, values: Mapping[str, str], timeout: float, machine: Machine) -> list[Finding]:
    try:
        file = read_launch_file(path, values)
    except SpecError as error:
        text = str(error).removeprefix(f"launch file {path} ").removeprefix(f"{path}: ")
        do = "mend the file: docs/howto/launch-files.md" if os.path.exists(path) else "check the path; in a container it must be mounted"
        return [problem(Slug.LAUNCH_FILE, str(path), text, "nothing of it can be started", do)]
    return check_launch(file, ask_programs(file, timeout), look_at_names(file), machine)


def _as_data(machine: Machine, findings: list[Finding], peer: Peer | None) -> dict[str, Any]:
    counts = {"problems": count(findings, Level.PROBLEM), "warnings": count(findings, Level.WARNING)}
    return {"memory_id": machine.memory_id, "peer": None if peer is None else _peer_data(peer), "findings": findings, **counts}


def _peer_data(peer: Peer) -> dict[str, Any]:
    state = None if peer.told is None else peer.told.status.state.value
    return {"name": peer.name, "state": state, "here": peer.here, "there": peer.there}
