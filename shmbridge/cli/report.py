"""What is said at the end of a run: the latency table and the JSON report."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from shmbridge.cli.console import print_table
from shmbridge.client import Client
from shmbridge.reply import Timing
from shmbridge.rollout import RolloutResult
from shmbridge.spec import TensorSpec
from shmbridge.version import __version__

PERCENTILES = (50, 95, 99)
PARTS = (*Timing._fields, "total")


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


def write_report(folder: Path, result: RolloutResult, client: Client, settings: Mapping[str, object]) -> Path:
    """Write ``report.json`` and return its path. Everything needed to repeat the run is in it."""
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
        "steps": result.steps,
        "actions_sha256": result.actions_digest,
        "requests": len(result.timings),
        "latency_ms": latencies(result.timings),
        "episodes": [asdict(episode) for episode in result.episodes],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return path


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
