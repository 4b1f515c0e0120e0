"""What two runs have in common and where they differ: decided here, printed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shmbridge.cli.intervals import Rate, mcnemar
from shmbridge.cli.report_file import Report, ReportedEpisode

NOT_COMPARED = {"environment", "output_dir", "video", "record", "name", "remote_start_timeout_ms", "remote_timeout_ms", "remote_kill_on_exit"}
"""Settings that say where or how something is kept or reached, and those told of separately."""
MACHINE = ("processor", "cores", "threads", "memory_bytes")


@dataclass(frozen=True)
class Side:
    """One number of one run: its mean, and its rate where it is one."""

    mean: float
    rate: Rate | None

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.rate is None else str(self.rate)


@dataclass(frozen=True)
class Paired:
    """How the episodes went that both runs have.

    Attributes:
        both, neither: How many succeeded in both runs, and in none.
        only_a, only_b: Those that succeeded in one run only, by seed or index.
        p: Of McNemar's exact test.
    """

    both: int
    neither: int
    only_a: list[int]
    only_b: list[int]
    p: float


@dataclass(frozen=True)
class Comparison:
    """Everything that is to be said of two runs.

    Attributes:
        doubts: Why they may not be comparable, in sentences; empty where they are.
        metrics: Both means of each number that both report.
        paired_by: ``seed`` or ``index``.
        pairs: Episodes that both have.
        paired: Of each rate that both report.
        settings: What differs: both values, as the reports have them; None where one has none.
        latency: The median of each part of a request, in both, in milliseconds.
        same_actions: Whether they acted the same, bit for bit.
    """

    doubts: list[str]
    metrics: dict[str, tuple[Side, Side]]
    paired_by: str
    pairs: int
    paired: dict[str, Paired]
    settings: dict[str, tuple[Any, Any]]
    latency: dict[str, tuple[float, float]]
    same_actions: bool = field(default=False)


def compare(a: Report, b: Report) -> Comparison:
    """Return what two runs have in common and where they differ."""
    paired_by, pairs = _pair(a, b)
    names = [name for name in a.metrics if name in b.metrics and name != "num_episodes"]
    rates = [name for name in names if name in a.rates and name in b.rates]
    return Comparison(
        doubts=_doubts(a, b, paired_by, len(pairs)),
        metrics={name: (Side(a.metrics[name], a.rates.get(name)), Side(b.metrics[name], b.rates.get(name))) for name in names},
        paired_by=paired_by,
        pairs=len(pairs),
        paired={name: found for name in rates if (found := _paired(pairs, name)) is not None},
        settings=_differences(_settings(a), _settings(b)),
        latency={part: (a.latency_ms[part]["p50"], b.latency_ms[part]["p50"]) for part in a.latency_ms if part in b.latency_ms},
        same_actions=bool(a.actions_sha256) and a.actions_sha256 == b.actions_sha256,
    )


_Pairs = dict[int, tuple[ReportedEpisode, ReportedEpisode]]


def _pair(a: Report, b: Report) -> tuple[str, _Pairs]:
    """Pair the episodes that began alike.

    Equal seeds are equal beginnings. Environments that reset themselves have no seeds after the first, but draw on from it: there,
    episodes of one index began alike if first seed and number of environments are the same.
    """
    if _has_seeds(a) and _has_seeds(b):
        return "seed", _join({episode.seed or 0: episode for episode in a.episodes}, {episode.seed or 0: episode for episode in b.episodes})
    begins_alike = all(a.settings.get(name) == b.settings.get(name) for name in ("seed", "num_envs"))
    if not begins_alike:
        return "index", {}
    return "index", _join({episode.index: episode for episode in a.episodes}, {episode.index: episode for episode in b.episodes})


def _has_seeds(report: Report) -> bool:
    return all(episode.seed is not None for episode in report.episodes)


def _join(left: Mapping[int, ReportedEpisode], right: Mapping[int, ReportedEpisode]) -> _Pairs:
    return {key: (left[key], right[key]) for key in sorted(left) if key in right}


def _paired(pairs: _Pairs, name: str) -> Paired | None:
    told = {key: (a.metrics[name], b.metrics[name]) for key, (a, b) in pairs.items() if name in a.metrics and name in b.metrics}
    if not told:
        return None
    by_outcome: dict[tuple[bool, bool], list[int]] = {(x, y): [] for x in (True, False) for y in (True, False)}
    for key, (in_a, in_b) in told.items():
        by_outcome[bool(in_a), bool(in_b)].append(key)
    only_a, only_b = by_outcome[True, False], by_outcome[False, True]
    return Paired(len(by_outcome[True, True]), len(by_outcome[False, False]), only_a, only_b, mcnemar(len(only_a), len(only_b)))


def _doubts(a: Report, b: Report, paired_by: str, pairs: int) -> list[str]:
    doubts = []
    if a.environment != b.environment:
        doubts.append(f"They ran different tasks: A {environment_text(a)}; B {environment_text(b)}.")
    if not a.episodes or not b.episodes:
        doubts.append(f"{'A' if not a.episodes else 'B'} has no finished episode.")
    elif not pairs:
        why = f"A has seeds {_span(a)}, B {_span(b)}" if paired_by == "seed" else "their environments reset themselves, from different beginnings"
        doubts.append(f"No episode of one began like one of the other: {why}. The rates below come from different episodes.")
    return doubts


def environment_text(report: Report) -> str:
    """Return what was run, as one would type it."""
    name, *rest = [str(report.environment.get("name", "?"))] + [f"--{key} {value}" for key, value in report.environment.items() if key != "name"]
    return " ".join([name, *rest])


def _span(report: Report) -> str:
    seeds = sorted(episode.seed for episode in report.episodes if episode.seed is not None)
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def _settings(report: Report) -> dict[str, Any]:
    """Return all that may explain a difference, nested names joined by dots."""
    of_policy = report.settings.get("policy_settings") or {}  # given as flags, they stand among those of run as well
    settings = {key: value for key, value in report.settings.items() if key not in NOT_COMPARED and key not in of_policy}
    machine = {key: report.machine.get(key) for key in MACHINE}
    policy = {"name": report.policy.get("name"), "horizon": report.policy.get("horizon"), "config_digest": str(report.policy.get("config_digest"))[:12]}
    return _flat({**settings, "environment": report.environment, "policy": policy, "path": report.path, "machine": machine, "shmbridge": report.shmbridge})


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in nested.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs. A setting that one side does not have, and the other only has as null, is no difference."""
    names = [*a, *(name for name in b if name not in a)]
    # Their types too: true is no 1 there, although Python finds them equal.
    return {name: (a.get(name), b.get(name)) for name in names if repr(a.get(name)) != repr(b.get(name))}
