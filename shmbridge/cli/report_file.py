"""Reading the reports of runs back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from shmbridge.cli.intervals import Rate, rates
from shmbridge.cli.report import REPORT
from shmbridge.errors import SpecError

SUITE_REPORT = "suite.json"


class ReportedEpisode(msgspec.Struct, frozen=True):
    """One episode, as the report tells it."""

    index: int
    seed: int | None
    steps: int
    metrics: dict[str, float]


class Report(msgspec.Struct, frozen=True):
    """What is read of a report. What an older version did not write is empty."""

    settings: dict[str, Any]
    policy: dict[str, Any]
    metrics: dict[str, float]
    episodes: list[ReportedEpisode]
    shmbridge: str = ""
    finished_at: str = ""
    path: str = ""
    actions_sha256: str = ""
    machine: dict[str, Any] = {}
    latency_ms: dict[str, dict[str, float]] = {}

    @property
    def rates(self) -> dict[str, Rate]:
        """Each rate with its interval."""
        return rates(episode.metrics for episode in self.episodes)

    @property
    def environment(self) -> dict[str, Any]:
        """Name and settings of what was run."""
        found = self.settings.get("environment")
        return found if isinstance(found, dict) else {}


def read_report(path: Path) -> Report:
    """Return the report of a run.

    Args:
        path: The file, or the folder that it lies in.

    Raises:
        SpecError: It is not there, or is no report; the text says what is there instead.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        return msgspec.convert(json.loads(file.read_text(encoding="utf-8")), Report)
    except FileNotFoundError:
        raise SpecError(_what_is_there(path)) from None
    except (OSError, ValueError) as error:  # what is no JSON, no text, or has other fields is a ValueError
        raise SpecError(f"{file} cannot be read as the report of a run: {error}") from None


def _what_is_there(path: Path) -> str:
    if not path.is_dir():
        return f"{path} is not there. Name a report, or the folder that a run wrote to: shmbridge run --output_dir {path} …"
    tasks = sorted(file.parent.name for file in path.glob(f"*/{REPORT}"))
    if (path / SUITE_REPORT).is_file() and tasks:
        return f"{path} holds a whole suite. Compare its tasks one by one: {', '.join(str(path / task) for task in tasks[:5])}"
    return f"there is no {REPORT} in {path}. A run writes one at its end: shmbridge run --output_dir {path} …"
