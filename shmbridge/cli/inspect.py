"""``shmbridge inspect``: tensors, layouts, slots and counters of a host's sessions."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shmbridge.cli.console import print_table
from shmbridge.cli.flags import add_group_flag, make_parser, positive
from shmbridge.cli.ring_view import FieldRow, RingView, SessionView, field_rows, view_session
from shmbridge.cli.wording import counted, duration, print_json, printable, rate, say, size, user
from shmbridge.connecting import describe_host
from shmbridge.errors import ShmbridgeError, SpecError
from shmbridge.memory.naming import DEFAULT_NAME
from shmbridge.messages import ClientDescription, Description, HostState, SessionDescription
from shmbridge.spec import TensorSpec, describe
from shmbridge.transport.base import parse_address

_LOOKS = 5
_BETWEEN_LOOKS_SECONDS = 0.02
_LINE_CHARS, _LINES = 1000, 100
FIELD_HEAD = ("in each slot", "dtype", "shape", "unit", "offset", "bytes")


@dataclass(frozen=True)
class Looked:
    """One client and what its session looks like; None for both where the host told no details of it."""

    client: ClientDescription
    session: SessionDescription | None
    view: SessionView | None

    @property
    def problems(self) -> list[str]:
        """All contradictions, with the ring they concern."""
        if self.view is None:
            return []
        of_rings = [f"{ring.name} ring: {problem}" for ring in (self.view.observation, self.view.action) for problem in ring.problems]
        return [*self.view.problems, *of_rings]


def main(words: Sequence[str]) -> int:
    """Show a host's sessions. Exit status 1 if what it tells contradicts itself or what is computed here."""
    args = _parser().parse_args(words)
    name = parse_address(args.name).name
    told, looked = _look(name, args.timeout_ms / 1000, args.shm_group)
    chosen = _choose(looked, args.client, name)
    problems = _host_problems(told, name)
    if args.json:
        print_json({**_host_data(told), "clients": [_client_data(one) for one in chosen], "problems": problems})
    else:
        _print(told, chosen, problems)
    return int(bool(problems or any(one.problems for one in chosen)))


def _parser() -> argparse.ArgumentParser:
    text = "Show the tensors, layouts, slots and counters of a host's sessions, computed here and compared with what the host tells."
    parser = make_parser("inspect", text)
    parser.add_argument("name", metavar="NAME", nargs="?", default=DEFAULT_NAME, help="the host, as in 'shmbridge ls', or shm://NAME")
    parser.add_argument("--client", metavar="TEXT", help="only clients with this text in their names")
    add_group_flag(parser, "as the host")
    parser.add_argument("--timeout_ms", type=positive, default=5000, metavar="MS", help="how long the host may take to answer")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser


def _look(name: str, timeout: float, shm_group: int | None) -> tuple[Description, list[Looked]]:
    """Ask until the counts add up: a ring that is in use may move between the reading of two counts."""
    for _ in range(_LOOKS):
        told = _ask(name, timeout, shm_group)
        looked = [_look_at(client) for client in told.clients]
        if all(one.view is None or one.view.adds_up for one in looked):
            break
        time.sleep(_BETWEEN_LOOKS_SECONDS)
    return told, looked


def _ask(name: str, timeout: float, shm_group: int | None) -> Description:
    try:
        return describe_host(name, timeout, details=True, shm_group=shm_group)
    except ShmbridgeError as error:
        # A refusal is the host's own text, which may be anything; its lines stay lines.
        text = "\n".join(printable(line, _LINE_CHARS) for line in str(error).splitlines()[:_LINES])
        raise type(error)(text) from None


def _look_at(client: ClientDescription) -> Looked:
    session = client.session
    return Looked(client, session, None if session is None else view_session(client, session))


def _choose(looked: Sequence[Looked], text: str | None, name: str) -> list[Looked]:
    chosen = [one for one in looked if text is None or text in one.client.client]
    if text is not None and not chosen:
        there = ", ".join(printable(one.client.client) for one in looked) or "it has no clients"
        raise SpecError(f"host {name!r} has no client with {text!r} in its name; there are: {there}")
    return chosen


def _host_problems(told: Description, name: str) -> list[str]:
    problems = [] if told.name == name else [f"it calls itself {printable(told.name)}, its socket {name}"]
    many = len(told.clients) > told.max_sessions
    return [*problems, *([f"it serves {counted(len(told.clients), 'client')}, but takes {told.max_sessions}"] if many else [])]


def _print(told: Description, chosen: Sequence[Looked], problems: Sequence[str]) -> None:
    doing = f" ({printable(told.status.detail)})" if told.status.detail else ""
    since = "" if told.status.state is HostState.READY else f" for {duration(told.status.seconds)}"
    say(f"host {printable(told.name)}: policy {printable(told.policy)}, {told.status.state.value}{since}{doing}")
    digest = f"configuration {printable(told.config_digest, 16)}" if told.config_digest else "no configuration"
    say(f"up {duration(told.seconds)}, {user(told.uid)}, pid {told.pid}, shmbridge {printable(told.version)}, {digest}", "  ")
    say(f"{len(told.clients)} of {counted(told.max_sessions, 'client')}", "  ")
    _print_problems(problems)
    for one in chosen:
        _print_client(one)


def _print_client(one: Looked) -> None:
    client, counters = one.client, one.client.counters
    print()
    say(f"{printable(client.client)}: {user(client.uid)}, {printable(client.state, 20)}, for {duration(client.seconds)}")
    each = f", {counters.infer_seconds / counters.requests * 1e3:.3g} ms each" if counters.requests > 0 else ""
    answered, failures = counted(counters.requests, "observation"), counted(counters.failures, "failure")
    say(f"{answered} answered{each}, now {rate(client.rate)} per second; {failures}", "  ")
    say(f"{counted(client.num_envs, 'environment')}; {counters.rows:,} inferred in all of them together", "  ")
    if one.session is None or one.view is None:
        say("it tells nothing of its tensors yet", "  ")
        return
    session = one.session
    say(f"horizon {session.horizon:,}, observation steps {session.observation_steps:,}, generation {session.generation:x}", "  ")
    _print_problems(one.problems)
    _print_ring(one.view.observation, session.observation, "taken by the host so far", session.slots)
    _print_ring(one.view.action, session.action, "given by the host so far", session.slots)


def _print_ring(ring: RingView, specs: Sequence[TensorSpec], moved: str, slots: int) -> None:
    if ring.layout is None:
        say(f"{ring.name} ring: no layout")
        return
    agrees = "as computed here" if ring.layout.digest == ring.digest_told else "NOT as computed here"
    sizes = f"{slots} slots of {size(ring.layout.stride)}, {size(ring.layout.segment_size(max(slots, 0)))} in all"
    say(f"{ring.name} ring: {sizes}; digest {printable(ring.digest_told, 16)} {agrees}")
    print_table(FIELD_HEAD, [_cells(row) for row in field_rows(ring.layout, specs)])
    places = ", ".join(f"slot {place} {state}" for place, state in enumerate(ring.states)) or "slots unknown: the counts contradict each other"
    say(f"{places}; {ring.told.moved:,} {moved}", "  ")


def _cells(row: FieldRow) -> tuple[str, ...]:
    return (row.name, row.dtype, describe(row.shape, "").strip(), printable(row.unit), f"{row.offset:,}", f"{row.nbytes:,}")


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        say(f"CONTRADICTION: {problem}", "  ")


def _host_data(told: Description) -> dict[str, Any]:
    return {key: value for key, value in msgspec.to_builtins(told).items() if key not in ("type", "clients")}


def _client_data(one: Looked) -> dict[str, Any]:
    data = {key: value for key, value in msgspec.to_builtins(one.client).items() if key != "session"} | {"problems": one.problems}
    if one.session is None or one.view is None:
        return {**data, "session": None, "rings": None}
    agreed = {key: getattr(one.session, key) for key in ("horizon", "observation_steps", "slots")}
    agreed["generation"] = f"{one.session.generation:x}"  # as text: many readers of JSON keep 53 bits of a number
    rings = {"observation": _ring_data(one.view.observation, one.session), "action": _ring_data(one.view.action, one.session)}
    return {**data, "session": agreed, "rings": rings}


def _ring_data(ring: RingView, session: SessionDescription) -> dict[str, Any]:
    layout, specs = ring.layout, session.observation if ring.name == "observation" else session.action
    computed = {} if layout is None else {"stride": layout.stride, "segment_bytes": layout.segment_size(max(session.slots, 0)), "digest": layout.digest}
    fields = [] if layout is None else [row._asdict() for row in field_rows(layout, specs)]
    return {**computed, "digest_told": ring.digest_told, "fields": fields, "states": ring.states, "counts": ring.told}
