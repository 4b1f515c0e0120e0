"""What several programs print, as lines behind the label of each."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Sequence
from typing import TextIO

_LINE_END = re.compile(r"\r*\n|\r(?=[^\r\n])")
"""A carriage return that comes last waits for what follows: it may be the first half of a line's end."""
_PASSING_SECONDS = 2.0
"""How often to show text that is overwritten again and again, as progress bars are."""
_PARTIAL_SECONDS = 1.0
"""How long to wait for the rest of a line before what is there is shown."""
_LONGEST = 1 << 16
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "bright_cyan", "bright_magenta", "bright_yellow", "bright_green", "bright_blue")


class Lines:
    """Cuts what comes through a pipe into lines worth showing.

    Text that a carriage return overwrites is shown every two seconds, and a line without an end when nothing has come for one.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._passing = ""
        self._fed = self._showed = 0.0

    def feed(self, data: bytes, now: float) -> list[str]:
        """Take in what was read at the time ``now`` [s], and return the lines that are complete."""
        self._fed = now
        self._text += self._decoder.decode(data)
        found = []
        start = 0
        for match in _LINE_END.finditer(self._text):
            line = self._text[start : match.start()].strip("\r")
            start = match.end()
            if match[0] == "\r":
                self._passing = line if line.strip() else self._passing
            else:
                self._passing = ""
                found.append(line)
        self._text = self._text[start:]
        return found + self.due(now)

    def due(self, now: float) -> list[str]:
        """Return what should not wait any longer at the time ``now`` [s]."""
        if self._passing and now - self._showed >= _PASSING_SECONDS:
            self._showed = now
            found, self._passing = [self._passing], ""
            return found
        if len(self._text) > _LONGEST or (self._text.strip() and now - self._fed >= _PARTIAL_SECONDS):
            return self._take_text()
        return []

    def close(self) -> list[str]:
        """Return what is left when nothing more will come."""
        self._text += self._decoder.decode(b"", final=True)
        self._text = self._text if self._text.strip() else self._passing
        return self._take_text() if self._text else []

    def _take_text(self) -> list[str]:
        found, self._text, self._passing = [self._text.strip("\r")], "", ""
        return found


class LabelledLog:
    """Writes lines to one stream, each behind a label, in colours where the stream shows them.

    Attributes:
        broken: Whether nobody reads the stream any more. What is written then is dropped.
    """

    def __init__(self, file: TextIO, labels: Sequence[str]) -> None:
        self._file = file
        self._encoding = file.encoding or "utf-8"
        self._prefixes = _prefixes(file, labels)
        self.broken = False

    def write(self, label: str, lines: Iterable[str]) -> None:
        """Write whole lines at once, and flush."""
        text = "".join(f"{self._prefixes[label]}{line}".rstrip() + "\n" for line in lines)
        if not text or self.broken:
            return
        try:
            self._file.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))
            self._file.flush()
        except BrokenPipeError:
            self.broken = True


def _prefixes(file: TextIO, labels: Sequence[str]) -> dict[str, str]:
    width = max(map(len, labels))
    plain = {label: f"{label:<{width}} | " for label in labels}
    if not (file.isatty() or os.environ.get("FORCE_COLOR")):
        return plain
    try:
        from rich.console import Console  # optional: the extra 'cli'
        from rich.text import Text
    except ImportError:
        return plain
    console = Console(file=file, soft_wrap=True)  # it looks at NO_COLOR and TERM
    coloured = {}
    for place, (label, prefix) in enumerate(plain.items()):
        with console.capture() as captured:
            console.print(Text(prefix, style=_COLOURS[place % len(_COLOURS)]), end="")
        coloured[label] = captured.get()
    return coloured
