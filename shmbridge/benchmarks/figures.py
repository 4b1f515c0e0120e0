"""From times to what is printed: percentiles of each path, and ratios of paths that were measured side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

IN_PLACE = "in place"
IN_PLACE_WRITTEN = "in place, just written"
COPIED = "copied"
RING = "matched ring"
RING_WRITTEN = "matched ring, just written"
MEMCPY = "rotating memcpy"
READS = "policy reads"
READS_WRITTEN = "policy reads, just written"


class Key(NamedTuple):
    """One path of one scenario."""

    scenario: str
    path: str

    def __str__(self) -> str:
        return f"{self.scenario} {self.path}"


Samples = Mapping[Key, Sequence[np.ndarray]]
"""Microseconds of each request, one array per block. Blocks of one index were measured one right after the other."""


@dataclass(frozen=True)
class Target:
    """A ratio to be shown: ``(measured − beside) ÷ base``.

    Attributes:
        measured: What is judged.
        base: What it is compared with.
        beside: What it may cost on top.
        asked: The most that the ratio may be; None where it is shown for comparison only.
    """

    measured: Key
    base: Key
    beside: tuple[Key, ...] = ()
    asked: float | None = None

    @property
    def keys(self) -> set[Key]:
        """All that must have been measured."""
        return {self.measured, self.base, *self.beside}

    def __str__(self) -> str:
        less = "".join(f" − {key}" for key in self.beside)
        return f"({self.measured}{less}) ÷ {self.base}" if less else f"{self.measured} ÷ {self.base}"


_STATE = Key("state", COPIED)
TARGETS = (
    Target(_STATE, Key("state", RING), asked=1.8),
    Target(Key("cameras", IN_PLACE), _STATE, (Key("cameras", READS),), asked=1.5),
    Target(Key("cameras", IN_PLACE_WRITTEN), _STATE, (Key("cameras", READS_WRITTEN),), asked=1.5),
    Target(Key("cameras", COPIED), Key("cameras", MEMCPY), (_STATE, Key("cameras", READS_WRITTEN)), asked=1.15),
    Target(Key("cameras", IN_PLACE_WRITTEN), Key("cameras", RING_WRITTEN)),
    Target(Key("cameras", COPIED), Key("cameras", RING)),
    Target(Key("small_cameras", COPIED), Key("small_cameras", RING)),
)


class Row(msgspec.Struct, frozen=True):
    """Percentiles of one path over all its samples, in microseconds."""

    scenario: str
    path: str
    bytes: int
    p50_us: float
    p95_us: float
    p99_us: float
    n: int


class Ratio(msgspec.Struct, frozen=True):
    """One target and what came out: medians over the rounds, of what each round gave by itself."""

    target: str
    ratio: float
    low: float
    """First quartile of the rounds."""
    high: float
    """Third quartile."""
    asked: float | None
    reached: bool | None
    """None where nothing is asked."""
    measured_us: float
    spare_us: float | None
    """How much more it might take, negative where it takes too long; None where nothing is asked."""
    rounds: int


def rows_of(samples: Samples, nbytes: Mapping[str, int]) -> list[Row]:
    """Return one row per path.

    Args:
        samples: Of all paths.
        nbytes: Size of one observation, by scenario.
    """
    rows = []
    for key, blocks in samples.items():
        times = np.concatenate(blocks)
        p50, p95, p99 = (round(float(value), 3) for value in np.percentile(times, (50, 95, 99)))
        rows.append(Row(key.scenario, key.path, nbytes[key.scenario], p50, p95, p99, times.size))
    return rows


def ratios_of(samples: Samples, targets: Sequence[Target] = TARGETS) -> list[Ratio]:
    """Return the ratio of each target all of whose paths were measured."""
    return [_ratio(samples, target) for target in targets if target.keys <= samples.keys()]


def _ratio(samples: Samples, target: Target) -> Ratio:
    measured, base = _medians(samples, target.measured), _medians(samples, target.base)
    beside = sum((_medians(samples, key) for key in target.beside), np.zeros_like(measured))
    low, ratio, high = (round(float(value), 4) for value in np.percentile((measured - beside) / base, (25, 50, 75)))
    spare = None if target.asked is None else round(float(np.median(target.asked * base + beside - measured)), 3)
    reached = None if spare is None else spare >= 0
    return Ratio(str(target), ratio, low, high, target.asked, reached, round(float(np.median(measured)), 3), spare, measured.size)


def _medians(samples: Samples, key: Key) -> np.ndarray:
    return np.array([np.median(block) for block in samples[key]])
