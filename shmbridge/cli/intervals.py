"""How sure a rate is, and whether two differ: intervals and tests for numbers that are 0 or 1 per episode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Z_95 = 1.959963984540054
"""The normal distribution's 97.5 % quantile: 2.5 % lie beyond it on either side."""


class Rate(NamedTuple):
    """A rate with its 95 % interval: ``successes`` of ``episodes``."""

    mean: float
    low: float
    high: float
    successes: int
    episodes: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}] ({self.successes}/{self.episodes})"


def wilson(successes: int, count: int, z: float = Z_95) -> Rate:
    """Return a rate with its Wilson score interval, which stays within 0 and 1 and is right for few episodes too.

    With p = successes / count and n = count, its ends are ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)``.

    Args:
        successes: From 0 to ``count``.
        count: At least 1.
        z: Quantile of the normal distribution; the default gives 95 %.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22 (1927), p. 209-212.
    """
    p, shrink = successes / count, 1 + z * z / count
    middle = (p + z * z / (2 * count)) / shrink
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / shrink
    # At 0 and at 1 one end is the rate itself, which rounding must not pass.
    return Rate(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), successes, count)


def rates(episodes: Iterable[Mapping[str, float]]) -> dict[str, Rate]:
    """Return the rate of each number that is called ``…_rate`` and is 0 or 1 in every episode that reports it; others are no rates.

    Args:
        episodes: The metrics of each.
    """
    values: dict[str, list[float]] = {}
    for metrics in episodes:
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    of_rates = {name: found for name, found in values.items() if name.endswith("_rate") and all(value in (0, 1) for value in found)}
    return {name: wilson(round(sum(found)), len(found)) for name, found in of_rates.items()}


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p value of McNemar's exact test: how often chance alone would split the episodes so unevenly, or more.

    Episodes that went alike in both say nothing of a difference. Were there none, each of the others would be won by either side
    with probability 1/2, so the smaller count follows a binomial distribution.

    Args:
        only_a, only_b: Paired episodes in which only the one succeeded.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", Psychometrika 12
    (1947), p. 153-157; the exact form as in A. Agresti, "Categorical Data Analysis", 3rd edition, section 11.1.
    """
    count = only_a + only_b
    tail = sum(math.comb(count, k) for k in range(min(only_a, only_b) + 1))
    p: float = 2 * tail / 2**count
    return min(1.0, p)
