"""A rank test on counted times: is one sample slower than another, window by window?

Times are compared within a window only, so that a daily rhythm, or a tenant that works at night, is no difference.
That is van Elteren's test (1960): Wilcoxon's rank sum per stratum, weighted by 1 / (N + 1), with ties corrected.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple


class Stratum:
    """All times of one window, from which one sample is set against the rest again and again."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        self.buckets = sorted(counts)
        self.counts = counts
        self.below = [0, *accumulate(counts[index] for index in self.buckets)]
        self.size = self.below[-1]
        self.ties = sum(count**3 - count for count in counts.values())

    def at_most(self, index: int) -> tuple[int, int]:
        """How many times lie below a bucket, and how many in it."""
        place = bisect_left(self.buckets, index)
        return self.below[place], self.counts.get(index, 0)


class Compared(NamedTuple):
    """A sample against the rest of its strata.

    `superiority` is the chance that one of its times is longer than one of theirs (0.5: no difference); `p` is that
    of so much slowness, or more, by chance alone (one-sided).
    """

    size: int
    others: int
    superiority: float
    p: float


def compare(strata: Iterable[tuple[Stratum, Mapping[int, int]]]) -> Compared | None:
    """A sample, given by its counts in each stratum, against the others there; None where there are no others."""
    size = others = 0
    shift = variance = won = pairs = 0.0
    for whole, mine in strata:
        n = sum(mine.values())
        m = whole.size - n
        if not n or not m:
            continue
        size, others = size + n, others + m
        wins, weight = _wins(whole, mine), 1.0 / (whole.size + 1)
        tie_term = whole.ties / (whole.size * (whole.size - 1)) if whole.size > 1 else 0.0
        shift += weight * (wins - n * m / 2)
        variance += weight**2 * n * m / 12 * (whole.size + 1 - tie_term)
        won, pairs = won + weight * wins, pairs + weight * n * m
    if not pairs:
        return None
    p = 0.5 * math.erfc(shift / math.sqrt(2 * variance)) if variance > 0 else 1.0
    return Compared(size, others, won / pairs, p)


def _wins(whole: Stratum, mine: Mapping[int, int]) -> float:
    """Mann and Whitney's U: pairs in which my time is longer, ties half."""
    wins, mine_below = 0.0, 0
    for index in sorted(mine):
        count = mine[index]
        below, same = whole.at_most(index)
        wins += count * (below - mine_below + (same - count) / 2)
        mine_below += count
    return wins


def counts_of_others(strata: Sequence[tuple[Stratum, Mapping[int, int]]]) -> dict[int, float]:
    """The others' counts as if they had come in the windows in which the sample came."""
    weighted: dict[int, float] = defaultdict(float)
    for whole, mine in strata:
        n = sum(mine.values())
        m = whole.size - n
        if not n or not m:
            continue
        for index in whole.buckets:
            weighted[index] += (whole.counts[index] - mine.get(index, 0)) * n / m
    return weighted


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number: the chance of any false alarm among all of them (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(p_values[index] * (len(p_values) - rank), 1.0))
        adjusted[index] = worst
    return adjusted
