"""Everything one page says about a period, as values: collected once, shown as HTML or JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from tenant_middleware.admission.period import span_at
from tenant_middleware.clock import utc
from tenant_middleware.metering.ledger import By, Totals
from tenant_middleware.metering.observations import REFUSAL, Observed
from tenant_middleware.policy import Policy
from tenant_middleware.reporting.heatmap import MEASURES, HeatMap, heat_map, stretch
from tenant_middleware.reporting.latency import Evidence, Verdict, Verdicts, verdicts


class Books(Protocol):
    """What a report reads of a ledger."""

    def totals(self, by: By, *, since: float | None = None, until: float | None = None) -> Mapping[str, Totals]: ...
    def timeline(
        self, width: int, *, since: float | None = None, until: float | None = None
    ) -> Mapping[tuple[int, str], Totals]: ...
    def spent_nano(self, tenant_id: str, *, since: float) -> int: ...


class Observatory(Protocol):
    """What a report reads of the observations."""

    def read(
        self, *, since: float | None = None, until: float | None = None, tenant_id: str | None = None
    ) -> list[Observed]: ...


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """A tenant's budget in the running period. `exhausted_at` is when it ends at the pace so far, if it does."""

    tenant_id: str
    usd: Decimal
    period: str
    spent_usd: Decimal
    resets_at: float
    exhausted_at: float | None

    @property
    def share(self) -> float:
        return float(self.spent_usd / self.usd) if self.usd else 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """A period in figures; `tenant_id` is set when it is for that tenant's eyes and says nothing of the others."""

    since: float
    until: float
    tenant_id: str | None
    tenants: Mapping[str, Totals]
    models: Mapping[str, Totals]
    heat_maps: tuple[HeatMap, ...]
    budgets: tuple[BudgetLine, ...]
    refusals: tuple[tuple[str, str, int], ...]
    verdicts: tuple[Verdict, ...]
    prices: str
    audit: Mapping[str, Any] | None = None

    @property
    def whole(self) -> Totals:
        return summed(self.tenants.values())


def summed(all_of: Iterable[Totals]) -> Totals:
    """Totals added up, exactly."""
    names = ("calls", "embeddings", "cache_hits", "prompt_tokens", "completion_tokens", "cost_nano")
    sums: Counter[str] = Counter()
    for one in all_of:
        sums.update({name: getattr(one, name) for name in names})
    return Totals(**{name: sums[name] for name in names})


def saved_usd(totals: Totals) -> Decimal:
    """What the cache has saved, by estimate: each hit at the mean cost of a call that was paid."""
    return totals.cost_usd / totals.calls * totals.cache_hits if totals.calls else Decimal(0)


def collect(
    books: Books,
    observatory: Observatory,
    *,
    since: float,
    until: float,
    policy: Policy | None = None,
    prices: str = "",
    tenant_id: str | None = None,
    audit: Mapping[str, Any] | None = None,
) -> Report:
    """The report of a period; with `tenant_id`, what that tenant may see. `audit` is what an audit printed as JSON."""
    width = stretch(until - since)
    timeline = books.timeline(width, since=since, until=until)
    observed = observatory.read(since=since, until=until)
    before = observatory.read(since=since - (until - since), until=since)
    found = verdicts(observed, before)
    tenants = books.totals("tenant", since=since, until=until)
    models = books.totals("model", since=since, until=until)
    if tenant_id is not None:
        timeline = {key: totals for key, totals in timeline.items() if key[1] == tenant_id}
        observed = [row for row in observed if row.tenant_id == tenant_id]
        found = Verdicts(_alone(one) for one in found if one.tenant_id == tenant_id)
        tenants = {name: totals for name, totals in tenants.items() if name == tenant_id}
        models, audit = {}, None
    heats = tuple(
        heat_map(measure, since=since, until=until, width=width, timeline=timeline, observed=observed)
        for measure in MEASURES
    )
    return Report(
        since=since,
        until=until,
        tenant_id=tenant_id,
        tenants=tenants,
        models=models,
        heat_maps=heats,
        budgets=tuple(_budgets(books, policy, tenants, until)) if policy is not None else (),
        refusals=tuple(_refusals(observed)),
        verdicts=tuple(found),
        prices=prices,
        audit=audit,
    )


def _alone(verdict: Verdict) -> Verdict:
    """A verdict without the others' figures."""
    own = tuple(
        Evidence(one.stage, one.calls, 0, one.median, 0.0, 0.0, one.chance, one.found) for one in verdict.evidence
    )
    return Verdict(verdict.tenant_id, verdict.scope, verdict.stage, own)


def _budgets(books: Books, policy: Policy, tenants: Iterable[str], now: float) -> Iterable[BudgetLine]:
    lines = []
    for tenant_id in tenants:
        if tenant_id not in policy.tenants:
            continue
        budget = policy.terms_of(tenant_id).budget
        if budget is None:
            continue
        span = span_at(now, budget.period)
        spent = Decimal(books.spent_nano(tenant_id, since=span.start)) / 10**9
        pace = float(spent) / max(now - span.start, 1.0)
        ends = span.start + float(budget.usd) / pace if pace > 0 else None
        exhausted = ends if ends is not None and ends < span.end else None
        lines.append(BudgetLine(tenant_id, budget.usd, budget.period, spent, span.end, exhausted))
    return sorted(lines, key=lambda line: (-line.share, line.tenant_id))


def _refusals(observed: Sequence[Observed]) -> list[tuple[str, str, int]]:
    counts: Counter[tuple[str, str]] = Counter()
    for row in observed:
        if row.name.startswith(REFUSAL):
            counts[row.tenant_id, row.name.removeprefix(REFUSAL)] += row.times
    return [(tenant, rule, times) for (tenant, rule), times in counts.most_common()]


def as_json(report: Report) -> dict[str, Any]:
    """The report as one JSON object; money as exact decimal text, times in ISO 8601, UTC."""
    return {
        "since": _iso(report.since),
        "until": _iso(report.until),
        "tenant": report.tenant_id,
        "total": _figures(report.whole),
        "tenants": [{"id": name, **_figures(one)} for name, one in report.tenants.items()],
        "models": [{"model": name, **_figures(one)} for name, one in report.models.items()],
        "heat_maps": [_heat(one) for one in report.heat_maps],
        "budgets": [_budget(one) for one in report.budgets],
        "refusals": [{"tenant": tenant, "rule": rule, "times": times} for tenant, rule, times in report.refusals],
        "verdicts": [told(one) for one in report.verdicts],
        "prices": report.prices,
        "audit": report.audit,
    }


def _figures(one: Totals) -> dict[str, Any]:
    return {
        "calls": one.calls,
        "embeddings": one.embeddings,
        "cache_hits": one.cache_hits,
        "prompt_tokens": one.prompt_tokens,
        "completion_tokens": one.completion_tokens,
        "cost_usd": f"{one.cost_usd:.9f}",
        "saved_usd": f"{saved_usd(one):.9f}",
    }


def _heat(one: HeatMap) -> dict[str, Any]:
    rows = [[None if math.isnan(value) else float(f"{value:.6g}") for value in row] for row in one.values]
    return {
        "measure": one.measure,
        "title": one.title,
        "unit": one.unit,
        "tenants": one.tenants,
        "starts": [_iso(at) for at in one.starts],
        "values": rows,
        "left_out": one.left_out,
    }


def _budget(one: BudgetLine) -> dict[str, Any]:
    return {
        "tenant": one.tenant_id,
        "usd": f"{one.usd:f}",
        "period": one.period,
        "spent_usd": f"{one.spent_usd:.9f}",
        "share": round(one.share, 4),
        "resets_at": _iso(one.resets_at),
        "exhausted_at": None if one.exhausted_at is None else _iso(one.exhausted_at),
    }


def told(one: Verdict) -> dict[str, Any]:
    """A verdict as a JSON object; without the others' figures where it has none."""
    evidence = [
        {
            "stage": seen.stage,
            "calls": seen.calls,
            "median": round(seen.median, 6),
            "found": seen.found,
            **(
                {
                    "others": seen.others,
                    "others_median": round(seen.others_median, 6),
                    "superiority": round(seen.superiority, 3),
                    "chance": seen.chance,
                }
                if seen.others
                else {}
            ),
        }
        for seen in one.evidence
    ]
    return {"tenant": one.tenant_id, "verdict": str(one), "scope": one.scope, "stage": one.stage, "evidence": evidence}


def _iso(at: float) -> str:
    return utc(at).isoformat(timespec="seconds")
