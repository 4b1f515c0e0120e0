"""``shmbridge doctor``: what is wrong with this machine, before step one."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from shmbridge.cli.doctor_checks import Finding, Level, check_machine
from shmbridge.cli.doctor_facts import Machine, look_at_machine
from shmbridge.cli.doctor_launch import ask_programs, check_launch, look_at_names
from shmbridge.cli.flags import make_parser, positive
from shmbridge.cli.launch import values_from_flags
from shmbridge.cli.launch_file import read_launch_file
from shmbridge.cli.wording import print_json
from shmbridge.errors import SpecError
from shmbridge.memory.naming import SHM

_COLOURS = {Level.OK: "32", Level.WARNING: "33", Level.PROBLEM: "31;1"}
_WIDTH = 160
_LEAST_WIDTH = 40


def main(words: Sequence[str]) -> int:
    """Check the machine and launch files. Exit status 1 if there is a problem."""
    args = _parser().parse_args(words)
    values = values_from_flags(args.set or [])
    machine = look_at_machine()
    findings = check_machine(machine, needs_are_known=bool(args.files))
    for path in args.files:
        findings += _check_file(path, values, args.describe_timeout_s, machine)
    if args.json:
        print_json({"findings": findings, "problems": _count(findings, Level.PROBLEM), "warnings": _count(findings, Level.WARNING)})
    else:
        _print(findings)
    return int(_count(findings, Level.PROBLEM) > 0)


def _parser() -> argparse.ArgumentParser:
    text = (
        f"Check {SHM}, the limits that are set, the versions of what is installed, and the cores. With launch files, check too that their environments "
        "exist and fit together, and that there is room for their sessions. Nothing is sent anywhere."
    )
    parser = make_parser("doctor", text)
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="launch files that are to work here")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="what ${NAME} is in the files; may be repeated")
    parser.add_argument("--describe_timeout_s", type=positive, default=120, metavar="SECONDS", help="how long each program may take to say what it needs")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    return parser


def _check_file(path: Path, values: Mapping[str, str], timeout: float, machine: Machine) -> list[Finding]:
    try:
        file = read_launch_file(path, values)
    except SpecError as error:
        text = str(error).removeprefix(f"launch file {path} ").removeprefix(f"{path}: ")
        return [Finding(str(path), Level.PROBLEM, text)]
    return check_launch(file, ask_programs(file, timeout), look_at_names(file), machine)


def _count(findings: Sequence[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)


def _print(findings: Sequence[Finding]) -> None:
    """Print the findings, the worst last: there a person looks first."""
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
    for level in Level:
        for finding in findings:
            if finding.level is level:
                print(paragraph(finding, max(width, _LEAST_WIDTH), coloured=coloured))
    problems, warnings = _count(findings, Level.PROBLEM), _count(findings, Level.WARNING)
    print(f"\n{problems or 'no'} problem{'' if problems == 1 else 's'}, {warnings or 'no'} warning{'' if warnings == 1 else 's'}")


def paragraph(finding: Finding, width: int, *, coloured: bool) -> str:
    """Return a finding as lines of at most ``width`` columns: how bad, what, and below it what was expected and what to type."""
    margin = " " * 9
    parts = [f"{finding.check}: {finding.found}"]
    parts += [f"expected: {finding.expected}"] if finding.expected else []
    parts += [f"do: {finding.remedy}"] if finding.remedy else []
    wrap = textwrap.TextWrapper(width, initial_indent=margin, subsequent_indent=f"{margin}  ", break_on_hyphens=False, break_long_words=False)
    text = "\n".join(wrap.fill(line) for part in parts for line in part.splitlines())
    mark = finding.level.value.ljust(len(margin))
    return (f"\x1b[{_COLOURS[finding.level]}m{mark}\x1b[0m" if coloured else mark) + text[len(margin) :]
