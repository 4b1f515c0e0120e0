"""How the tools word and print what they found: sizes, times, users, text that came from elsewhere. What makes no sense is shown as ``?``."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shmbridge.transport.trust import known_name

_TEXT_CHARS = 120
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_TIMES = ((172_800, 86_400, "d"), (7200, 3600, "h"), (120, 60, "min"))
"""From how many seconds on, in what unit, and what that is called."""
_MAX_SECONDS = 1e10
_LEAST_COLUMNS = 40


def printable(text: str, limit: int = _TEXT_CHARS) -> str:
    """Return a text that can be shown: what would move a terminal's cursor or turn its writing round is escaped, and it ends."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:limit])
    return f"{shown}…" if len(text) > limit else shown


def size(nbytes: float) -> str:
    """Return a number of bytes as people read it: ``18.4 MB``."""
    scale, unit = next(((scale, unit) for scale, unit in _SIZES if abs(nbytes) >= scale), (1, "B"))
    return f"{nbytes / scale:.1f} {unit}" if scale > 1 else f"{nbytes:.0f} B"


def duration(seconds: float) -> str:
    """Return a time as people say it: ``3.2 s``, ``45 s``, ``12 min``, ``5 h``, ``3 d``."""
    if not 0 <= seconds < _MAX_SECONDS:
        return "?"
    scale, unit = next(((scale, unit) for least, scale, unit in _TIMES if seconds >= least), (1, "s"))
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds / scale:.0f} {unit}"


def rate(per_second: float) -> str:
    """Return how often something happens, per second."""
    if not math.isfinite(per_second) or per_second < 0:
        return "?"
    return f"{per_second:.1f}" if 0 < per_second < 10 else f"{per_second:,.0f}"


def user(uid: int) -> str:
    """Return a user as a table names one: ``alice (1000)``, or the number where there is no name."""
    name = known_name(uid)
    return f"{name} ({uid})" if name else str(uid)


def files(count: int) -> str:
    """Return ``1 file`` or ``5 files``."""
    return counted(count, "file")


def counted(count: int, thing: str) -> str:
    """Return a number of things: ``1 client``, ``2,000 clients``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def say(text: str, indent: str = "") -> None:
    """Print a line; on a terminal broken between words, the rest further in by two. Elsewhere it stays one line, for those who search."""
    if sys.stdout.isatty():
        width = max(shutil.get_terminal_size().columns, _LEAST_COLUMNS)
        text = "\n".join(textwrap.wrap(text, width - len(indent), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
    print(textwrap.indent(text, indent))


def print_json(value: Any) -> None:
    """Print structs, dataclasses and plain data as one JSON document in plain ASCII, so that nothing in it can harm a terminal."""
    print(json.dumps(_finite(msgspec.to_builtins(value)), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """Replace what JSON has no word for by null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
