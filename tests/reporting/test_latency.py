"""Latency verdicts name who is slow and where, and leave alone who only works at another hour."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.traffic import HOUR, Slowdown, day
from tenant_middleware.metering.observations import Observed, bucket
from tenant_middleware.reporting.latency import verdicts
from tenant_middleware.reporting.ranks import Stratum, compare, holm

SAMPLES = st.lists(st.integers(-5, 5), min_size=1, max_size=40)


@given(SAMPLES, SAMPLES)
def test_one_window_is_mann_and_whitneys_test(mine: list[int], theirs: list[int]) -> None:
    found = compare([(Stratum(Counter(mine + theirs)), Counter(mine))])
    assert found is not None
    expected = stats.mannwhitneyu(mine, theirs, alternative="greater", method="asymptotic", use_continuity=False)
    assert found.superiority == pytest.approx(expected.statistic / (len(mine) * len(theirs)))
    if len(set(mine + theirs)) > 1:
        assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


def test_nobody_to_compare_with_is_no_finding() -> None:
    assert compare([(Stratum(Counter({1: 5})), Counter({1: 5}))]) is None


def test_holm_is_never_below_the_plain_value_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def by_tenant(rows: list[Observed], before: list[Observed] | None = None) -> dict[str, str]:
    return {one.tenant_id: str(one) for one in verdicts(rows, before or [])}


def test_one_slow_stage_of_one_tenant_is_found_and_nobody_else_is() -> None:
    slow = Slowdown("retrieval", 2.0, "t07")
    found = by_tenant(day(random.Random(3), tenants=12, slow=slow))
    assert found["t07"] == "only this tenant: retrieval"
    assert not any(one.startswith("only") for tenant, one in found.items() if tenant != "t07")


@pytest.mark.parametrize(
    ("stage", "verdict"), [("first_token", "provider: first_token"), ("retrieval", "everyone: retrieval")]
)
def test_what_is_slow_for_all_is_nobodys_own(stage: str, verdict: str) -> None:
    before = day(random.Random(5), tenants=12, differences=random.Random(1))
    today = day(random.Random(6), tenants=12, slow=Slowdown(stage), start=24 * HOUR, differences=random.Random(1))
    found = Counter(by_tenant(today, before).values())
    assert found.most_common(1)[0][0] == verdict and not any(one.startswith("only") for one in found)
    assert set(by_tenant(before, before).values()) <= {"usual", "too few calls"}


def at(hour: int, tenant: str, seconds: float, times: int) -> Observed:
    return Observed(hour * HOUR, tenant, "stage:queue", bucket(seconds), times)


def test_who_works_at_the_busy_hour_is_not_slow_and_without_windows_it_would_be() -> None:
    noise = [0.7, 1.0, 1.4]
    rows = [at(3, tenant, 0.1 * n, 100) for tenant in ("night", "both") for n in noise]
    rows += [at(15, tenant, 1.0 * n, 100) for tenant in ("day", "both") for n in noise]
    assert set(by_tenant(rows).values()) == {"usual"}
    mixed = [row._replace(window=0) for row in rows]
    assert by_tenant(mixed)["day"] == "only this tenant: queue"


def test_a_few_slow_calls_are_no_verdict() -> None:
    rows = [at(1, "small", 5.0, 8), at(1, "big", 0.1, 1_000)]
    assert by_tenant(rows) == {"small": "too few calls", "big": "usual"}
