"""What is said and written at the end of a run: tables, rates with intervals, the JSON report and the table of episodes."""

from __future__ import annotations

import csv
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np

from shmbridge.cli.console import print_table
from shmbridge.cli.intervals import rates
from shmbridge.client import Client
from shmbridge.reply import Timing
from shmbridge.rollout import Episode, RolloutResult
from shmbridge.spec import TensorSpec
from shmbridge.version import __version__

PERCENTILES = (50, 95, 99)
PARTS = (*Timing._fields, "total")
REPORT, EPISODES = "report.json", "episodes.csv"
SHOWN_EPISODES, SHOWN_METRICS = 20, 5
"""How much of the table of episodes is printed; all of it is in the files."""
_HEAD = ("episode", "env", "seed", "steps", "ended")


def latencies(timings: Sequence[Timing]) -> dict[str, dict[str, float]]:
    """Return percentiles in milliseconds per part of a request: ``{"write": {"p50": …}, …}``; empty without requests."""
    if not timings:
        return {}
    columns = {part: np.asarray([getattr(timing, part) for timing in timings]) * 1e3 for part in PARTS}
    return {part: {f"p{p}": round(float(np.percentile(column, p)), 4) for p in PERCENTILES} for part, column in columns.items()}


def print_latency(timings: Sequence[Timing]) -> None:
    """Print where the time of a request went."""
    found = latencies(timings)
    if found:
        head = (f"ms per request ({len(timings)})", *(f"p{p}" for p in PERCENTILES))
        print_table(head, [(part, *(f"{value:.3f}" for value in row.values())) for part, row in found.items()])


def print_episodes(episodes: Sequence[Episode], folder: Path | None) -> None:
    """Print one row per episode, as many as a screen takes, and say where the others are.

    Args:
        episodes: In any order.
        folder: Where ``episodes.csv`` is being written; None for nowhere.
    """
    if not episodes:
        return
    names = _metric_names(episodes)[:SHOWN_METRICS]
    shown = _in_order(episodes)[:SHOWN_EPISODES]
    print_table((*_HEAD, *names), [(*map(str, _told(episode)), *(_number(episode.metrics.get(name)) for name in names)) for episode in shown])
    if len(episodes) > len(shown):
        where = f"{folder / EPISODES} has all" if folder is not None else "--output_dir DIR would keep them"
        print(f"and {len(episodes) - len(shown)} more episodes: {where}")


def print_rates(episodes: Sequence[Episode]) -> None:
    """Print each rate with its 95 % interval, one per line."""
    for name, rate in rates(episode.metrics for episode in episodes).items():
        print(f"{name} {rate}")


def write_report(folder: Path, result: RolloutResult, client: Client, settings: Mapping[str, object], **more: object) -> Path:
    """Write ``report.json`` and ``episodes.csv`` and return the former's path. Everything needed to repeat the run is in it.

    Args:
        folder: Made if it is not there.
        result: Of the run.
        client: With which it was made; it may be over.
        settings: Of the run.
        **more: Further entries of the report.

    Raises:
        OSError: They cannot be written.
    """
    agreed = client.agreement
    report = {
        "shmbridge": __version__,
        "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": dict(settings),
        "policy": {"name": agreed.policy, "config_digest": agreed.config_digest, "horizon": agreed.specs.horizon},
        "observation": _specs(agreed.specs.observation),
        "action": _specs(agreed.specs.action),
        "machine": _machine(),
        "path": client.path,
        "bytes_per_observation": agreed.layouts.observation.stride,
        "metrics": result.metrics(),
        "rates": {name: rate._asdict() for name, rate in rates(episode.metrics for episode in result.episodes).items()},
        "steps": result.steps,
        "actions_sha256": result.actions_digest,
        "requests": len(result.timings),
        "latency_ms": latencies(result.timings),
        "client": msgspec.to_builtins(client.statistics()),
        **more,
        "episodes": [asdict(episode) for episode in result.episodes],
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_episodes(folder / EPISODES, result.episodes)
    path = folder / REPORT
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path


def _write_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """Write one line per episode, in the order of their indices. What an episode does not have is left empty."""
    names = _metric_names(episodes)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("index", "env_id", "seed", "steps", "terminated", *names))
        for episode in _in_order(episodes):
            told = (episode.index, episode.env_id, episode.seed, episode.steps, int(episode.terminated))
            writer.writerow((*told, *(episode.metrics.get(name, "") for name in names)))


def _in_order(episodes: Sequence[Episode]) -> list[Episode]:
    return sorted(episodes, key=lambda episode: episode.index)


def _metric_names(episodes: Sequence[Episode]) -> list[str]:
    return list(dict.fromkeys(name for episode in episodes for name in episode.metrics))


def _told(episode: Episode) -> tuple[object, ...]:
    seed = "-" if episode.seed is None else episode.seed
    return episode.index, episode.env_id, seed, episode.steps, "terminated" if episode.terminated else "truncated"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _machine() -> dict[str, object]:
    """Return what latencies depend on: processor kind, cores, how busy they were over the last minute, memory."""
    import psutil  # slow to import, and needed here only

    return {
        "processor": platform.machine(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "load_1min": round(psutil.getloadavg()[0], 2),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _specs(specs: Sequence[TensorSpec]) -> dict[str, str]:
    return {spec.name: str(spec) for spec in specs}
