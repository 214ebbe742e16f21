"""Is it slow for everyone, at the provider, or only for this tenant, and in which stage?

A tenant is compared with all others in the same windows; everyone is compared with the time before.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from tenant_middleware.metering.observations import STAGE, Observed, quantile
from tenant_middleware.reporting.ranks import Compared, Stratum, compare, counts_of_others, holm
from tenant_middleware.tables import html_table
from tenant_middleware.telemetry import CALL

Scope = Literal["usual", "only this tenant", "everyone", "provider", "too few calls"]
WHOLE_CALL = STAGE + CALL  # the sum of others, so it names no cause
PROVIDER_STAGES = ("first_token", "generation")

# A finding needs all three: unlikely by chance among all that were looked at, clearly shifted, and worth a look.
MOST_CHANCE = 0.01
LEAST_SUPERIORITY = 0.57
LEAST_RATIO = 1.5
LEAST_CALLS = 30
# For everyone: most tenants are slower than they were themselves.
EVERYONE_RATIO = 1.5
EVERYONE_SHARE = 0.6
EVERYONE_TENANTS = 3

_Counts = dict[str, dict[int, dict[str, Counter[int]]]]  # stage, window, tenant


@dataclass(frozen=True, slots=True)
class Evidence:
    """One stage of one tenant beside the others: medians in seconds (`generation`: per output token).

    `chance` is the adjusted p value, `superiority` the share of pairs in which the tenant's call took longer;
    `found` says that the stage is slow for this tenant and not for the others.
    """

    stage: str
    calls: int
    others: int
    median: float
    others_median: float
    superiority: float
    chance: float
    found: bool = False

    @property
    def ratio(self) -> float:
        return self.median / self.others_median if self.others_median > 0 else math.inf if self.median > 0 else 1.0

    @property
    def superiority_at_least(self) -> float:
        """The lower end of a one-sided 95 % interval: a few slow calls are not yet a slow tenant."""
        return self.superiority - 1.645 * math.sqrt((1 / self.calls + 1 / self.others) / 12)


def _is_found(one: Evidence) -> bool:
    """Whether a stage is slow for this tenant and not for the others."""
    return (
        one.calls >= LEAST_CALLS
        and one.chance <= MOST_CHANCE
        and one.superiority_at_least >= LEAST_SUPERIORITY
        and one.ratio >= LEAST_RATIO
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one tenant's latency comes down to, with the evidence of every stage it went through."""

    tenant_id: str
    scope: Scope
    stage: str | None
    evidence: tuple[Evidence, ...]

    def __str__(self) -> str:
        return self.scope if self.stage is None else f"{self.scope}: {self.stage}"


class Verdicts(list[Verdict]):
    """A verdict for each tenant; a table where a notebook shows it."""

    def _repr_html_(self) -> str:
        return html_table(("tenant", "verdict", "evidence"), [(v.tenant_id, v, _in_words(v)) for v in self])


def _in_words(verdict: Verdict) -> str:
    return "; ".join(
        f"{one.stage}: {one.calls} calls, median {one.median * 1e3:.3g} ms, others {one.others_median * 1e3:.3g} ms"
        for one in verdict.evidence
        if one.found
    )


@dataclass(frozen=True, slots=True)
class Shift:
    """A stage that became slower for most tenants: the middle of their ratios to the time before."""

    stage: str
    ratio: float
    slower: int
    tenants: int


def verdicts(rows: Iterable[Observed], before: Iterable[Observed] = ()) -> Verdicts:
    """A verdict for each tenant in `rows`; `before` is the time that everyone is compared with."""
    counts = _by_stage(rows)
    shifts = shifted(counts, _by_stage(before))
    compared = list(_compared(counts))
    chances = holm([found.p for _, _, found, _ in compared])
    evidence: dict[str, list[Evidence]] = defaultdict(list)
    for (tenant_id, stage, found, medians), chance in zip(compared, chances, strict=True):
        seen = Evidence(stage, found.size, found.others, *medians, found.superiority, chance)
        evidence[tenant_id].append(replace(seen, found=_is_found(seen)))
    tenants = sorted({tenant for windows in counts.values() for each in windows.values() for tenant in each})
    return Verdicts(_verdict(tenant, evidence.get(tenant, []), shifts) for tenant in tenants)


def _verdict(tenant_id: str, evidence: list[Evidence], shifts: Sequence[Shift]) -> Verdict:
    shown = tuple(sorted(evidence, key=lambda one: one.stage))
    alone = max((one for one in evidence if one.found), key=lambda one: one.ratio, default=None)
    if alone is not None:
        return Verdict(tenant_id, "only this tenant", alone.stage, shown)
    if shifts:
        slowest = max(shifts, key=lambda shift: shift.ratio)
        return Verdict(tenant_id, "provider" if slowest.stage in PROVIDER_STAGES else "everyone", slowest.stage, shown)
    enough = any(one.calls >= LEAST_CALLS for one in evidence)
    return Verdict(tenant_id, "usual" if enough else "too few calls", None, shown)


def _by_stage(rows: Iterable[Observed]) -> _Counts:
    counts: _Counts = defaultdict(lambda: defaultdict(lambda: defaultdict(Counter)))
    for row in rows:
        if row.name.startswith(STAGE) and row.name != WHOLE_CALL:
            counts[row.name.removeprefix(STAGE)][row.window][row.tenant_id][row.bucket] += row.times
    return counts


def _compared(counts: _Counts) -> Iterable[tuple[str, str, Compared, tuple[float, float]]]:
    for stage, windows in counts.items():
        strata = {window: Stratum(_summed(tenants.values())) for window, tenants in windows.items()}
        for tenant in sorted({tenant for tenants in windows.values() for tenant in tenants}):
            mine = [(strata[window], tenants[tenant]) for window, tenants in windows.items() if tenant in tenants]
            found = compare(mine)
            if found is not None:
                own = quantile(_summed(sample for _, sample in mine), 0.5)
                yield tenant, stage, found, (own, quantile(counts_of_others(mine), 0.5))


def _summed(samples: Iterable[Mapping[int, int]]) -> Counter[int]:
    whole: Counter[int] = Counter()
    for sample in samples:
        whole.update(sample)
    return whole


def shifted(now: _Counts, before: _Counts) -> list[Shift]:
    """Stages in which most tenants are slower than they were themselves."""
    found = []
    for stage, windows in now.items():
        ratios = _own_ratios(windows, before.get(stage, {}))
        slower = sum(ratio >= EVERYONE_RATIO for ratio in ratios)
        if len(ratios) >= EVERYONE_TENANTS and slower >= EVERYONE_SHARE * len(ratios):
            found.append(Shift(stage, median(ratios), slower, len(ratios)))
    return found


def _own_ratios(
    now: Mapping[int, Mapping[str, Counter[int]]], before: Mapping[int, Mapping[str, Counter[int]]]
) -> list[float]:
    mine, earlier = _per_tenant(now), _per_tenant(before)
    ratios = []
    for tenant in mine.keys() & earlier.keys():
        if min(sum(mine[tenant].values()), sum(earlier[tenant].values())) < LEAST_CALLS:
            continue
        old, new = quantile(earlier[tenant], 0.5), quantile(mine[tenant], 0.5)
        if old > 0:
            ratios.append(new / old)
    return ratios


def _per_tenant(windows: Mapping[int, Mapping[str, Counter[int]]]) -> dict[str, Counter[int]]:
    summed: dict[str, Counter[int]] = defaultdict(Counter)
    for tenants in windows.values():
        for tenant, sample in tenants.items():
            summed[tenant].update(sample)
    return summed
