"""How the findings of ``shmbridge doctor`` look: a table of what is in order, and below it what is not, the worst last."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

from shmbridge.cli.doctor_findings import COMMAND, PAGE, Finding, Level, count

_COLOURS = {Level.OK: "32", Level.WARNING: "33", Level.PROBLEM: "31;1"}
_WIDTH, _LEAST_WIDTH = 100, 50
"""Columns where there is no terminal, and at least."""
_MARK, _LABEL = 9, 5
"""Columns of the level and of the labels below it."""
_WIDEST_CHECK = 24
"""A check with a longer name, such as a path, does not move the others."""


def print_findings(findings: list[Finding]) -> None:
    """Print all findings to standard output."""
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = max(shutil.get_terminal_size((_WIDTH, 24)).columns, _LEAST_WIDTH)
    for line in lines(findings, width, coloured=coloured):
        print(line)


def lines(findings: list[Finding], width: int, *, coloured: bool = False) -> list[str]:
    """Return the findings as lines of at most ``width`` columns, unless a word alone is longer, and a line that counts them."""
    good = [finding for finding in findings if finding.level is Level.OK]
    column = max((len(finding.check) for finding in good if len(finding.check) <= _WIDEST_CHECK), default=0) + 2
    told = [line for finding in good for line in _row(finding, column, width, coloured=coloured)]
    for level in (Level.WARNING, Level.PROBLEM):
        for finding in findings:
            if finding.level is level:
                told += ["", *_paragraph(finding, width, coloured=coloured)]
    problems, warnings = count(findings, Level.PROBLEM), count(findings, Level.WARNING)
    return [*told, "", f"{problems or 'no'} problem{'' if problems == 1 else 's'}, {warnings or 'no'} warning{'' if warnings == 1 else 's'}"]


def _row(finding: Finding, column: int, width: int, *, coloured: bool) -> list[str]:
    check = finding.check.ljust(column) if len(finding.check) < column else f"{finding.check}  "
    text = [f"{check}{finding.found}", *([f"do: {finding.do}"] if finding.do else [])]
    found, *do = [_wrapped(part, width, " " * _MARK if not number else " " * (_MARK + column), _MARK + column) for number, part in enumerate(text)]
    return [_marked(finding.level, found[0], coloured=coloured), *found[1:], *(line for part in do for line in part)]


def _paragraph(finding: Finding, width: int, *, coloured: bool) -> list[str]:
    head = _wrapped(f"{finding.check}: {finding.found}", width, " " * _MARK, _MARK)
    more = f"{PAGE}#{finding.slug.value}" if finding.slug is not None else ""
    labelled = [(label, text) for label, text in (("why", finding.why), ("do", finding.do), ("more", more)) if text]
    below = [line for label, text in labelled for line in _wrapped(text, width, f"{' ' * _MARK}{label.ljust(_LABEL)}", _MARK + _LABEL)]
    return [_marked(finding.level, head[0], coloured=coloured), *head[1:], *below]


def _wrapped(text: str, width: int, first: str, margin: int) -> list[str]:
    """Return a text, which may have lines already, broken between words."""
    wrapped: list[str] = []
    for part in text.splitlines() or [""]:
        indent = " " * margin if wrapped else first
        if part.startswith(COMMAND):
            wrapped.append(indent + part.removeprefix(COMMAND))
            continue
        # Words are kept whole: a path or a flag that is broken cannot be copied.
        wrap = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=" " * margin, break_on_hyphens=False, break_long_words=False)
        wrapped += wrap.wrap(part)
    return wrapped or [first]


def _marked(level: Level, line: str, *, coloured: bool) -> str:
    mark = level.value.ljust(_MARK)
    return (f"\x1b[{_COLOURS[level]}m{mark}\x1b[0m" if coloured else mark) + line[_MARK:]
