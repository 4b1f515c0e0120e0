"""``shmbridge gc``: remove what no living process holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from shmbridge.cli.flags import make_parser
from shmbridge.cli.wording import duration, files, print_json, printable, say, size, user
from shmbridge.memory.leftovers import Fate, Finding, collect, survey
from shmbridge.memory.naming import SHM, check_name

WORDS = {Fate.REMOVED: "removed", Fate.LEFT_BEHIND: "would be removed"}


def main(words: Sequence[str]) -> int:
    """Remove leftovers and say what stays, and why. Exit status 1 if something that should go cannot be removed."""
    text = (
        f"Remove sockets, locks and semaphores in {SHM} that no living process holds. Whether one does is asked of the kernel, through the host's lock, "
        "so nothing in use is ever removed, whichever container it is used in. What belongs to another user is named and left."
    )
    parser = make_parser("gc", text)
    parser.add_argument("--name", help="only what belongs to the host of this name")
    parser.add_argument("--dry_run", action="store_true", help="say what would be removed, and remove nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    args = parser.parse_args(words)
    only = None if args.name is None else check_name(args.name)
    findings = survey(only) if args.dry_run else collect(only)
    if args.json:
        print_json({"files": [as_data(finding) for finding in findings]})
    else:
        for line in lines(findings):
            say(line)
    return int(any(finding.fate is Fate.FAILED for finding in findings))


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return what a person is told: what stays and why, what went or would, what should have gone, and the sum."""
    groups = {fate: [finding for finding in findings if finding.fate is fate] for fate in Fate}
    told = [f"in use, left alone: {', '.join(_hosts(groups[Fate.HELD]))}"] if groups[Fate.HELD] else []
    for uid in sorted({finding.entry.uid for finding in groups[Fate.OF_ANOTHER_USER]}):
        theirs = [finding for finding in groups[Fate.OF_ANOTHER_USER] if finding.entry.uid == uid]
        told.append(f"of {user(uid)}, left alone: {', '.join(_hosts(theirs))} ({files(len(theirs))}); only they can look after it, with: shmbridge gc")
    told += [f"named like ours, but nothing that this version makes; left alone: {printable(one.entry.path)}" for one in groups[Fate.UNKNOWN]]
    gone = [*groups[Fate.LEFT_BEHIND], *groups[Fate.REMOVED]]
    told += [f"{WORDS[one.fate]}: {one.entry.path} (written {duration(one.entry.seconds)} ago)" for one in gone]
    told += [f"NOT REMOVED: {one.entry.path}: {one.why}" for one in groups[Fate.FAILED]]
    total = f"{files(len(gone))}, {size(sum(one.entry.nbytes for one in gone))}"
    summary = f"would remove {total}; do it with: shmbridge gc" if groups[Fate.LEFT_BEHIND] else f"removed {total}"
    return [*told, summary if gone else "nothing to remove"]


def _hosts(findings: Sequence[Finding]) -> list[str]:
    return sorted({finding.entry.host for finding in findings})


def as_data(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON."""
    return {**msgspec.to_builtins(finding.entry), "user": user(finding.entry.uid), "fate": finding.fate.value, "why": finding.why}
