"""What a person sees: tables and progress, with rich where it is installed and as plain lines where not."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

from shmbridge.spec import table

_PLAIN_SECONDS = 5.0


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table to standard output."""
    try:
        from rich.console import Console  # optional: the extra 'cli'
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        print(table(head, rows) if not title else f"{title}\n{table(head, rows)}")
        return
    found = Table(title=title or None, title_justify="left")
    for name in head:
        found.add_column(name, overflow="fold")  # a path that is cut short cannot be copied
    for row in rows:
        found.add_row(*map(escape, row))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(found)


class Progress(Protocol):
    """A line that says how far a run has come."""

    def show(self, done: int, text: str) -> None:
        """Say that ``done`` of the total is done, and what else is worth saying."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None: ...


def progress(total: int, unit: str) -> Progress:
    """Return a bar on a terminal, else a line every few seconds. Both go to standard error."""
    if sys.stderr.isatty():
        try:
            return _RichProgress(total, unit)
        except ImportError:
            pass  # rich is optional, lines do as well
    return _PlainProgress(total, unit)


class _RichProgress:
    def __init__(self, total: int, unit: str) -> None:
        from rich.console import Console  # optional: the extra 'cli'
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns: list[Any] = [
            TextColumn(unit),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        ]
        self._bar = Bar(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("", total=total)

    def show(self, done: int, text: str) -> None:
        self._bar.update(self._task, completed=done, description=text)

    def __enter__(self) -> _RichProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.stop()


class _PlainProgress:
    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit = total, unit
        self._said, self._done = 0.0, -1

    def show(self, done: int, text: str) -> None:
        due = time.monotonic() - self._said >= _PLAIN_SECONDS
        if due or (done == self._total and done != self._done):
            print(f"{self._unit} {done}/{self._total}  {text}", file=sys.stderr, flush=True)
            self._said, self._done = time.monotonic(), done

    def __enter__(self) -> _PlainProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        return None
