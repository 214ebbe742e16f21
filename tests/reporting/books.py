"""A ledger and observations of any number of tenants, made from a seed, without a database."""

from __future__ import annotations

import random
from collections import Counter

from tenant_middleware.metering.ledger import By, Totals
from tenant_middleware.metering.observations import REFUSAL, STAGE, Observed, bucket
from tenant_middleware.reporting.report import summed

NOW = 1_764_000_000.0
DAY = 86_400.0


class Made:
    """Books and observatory in one: what a report reads."""

    def __init__(self, tenants: int, *, seed: int = 7, stretches: int = 40) -> None:
        dice = random.Random(seed)
        self.names = [f"tenant-{number:04d}" for number in range(tenants)]
        self.cells: dict[tuple[int, str], Totals] = {}
        counts: Counter[tuple[int, str, str, int]] = Counter()
        width = round(7 * DAY / stretches)
        for name in self.names:
            size = dice.paretovariate(1.2)
            for index in dice.sample(range(stretches), k=min(6 if tenants > 500 else 20, stretches)):
                at = round(NOW - 7 * DAY) + index * width
                calls = 1 + int(5 * size * dice.random())
                self.cells[at, name] = Totals(calls, 0, calls // 4, 400 * calls, 90 * calls, 1_234_567 * calls)
                for _ in range(min(calls, 5)):
                    for stage, typical in (("call", 1.2), ("queue", 0.05), ("retrieval", 0.02)):
                        counts[at, name, STAGE + stage, bucket(typical * dice.lognormvariate(0, 0.7))] += 1
                if dice.random() < 0.05:
                    counts[at, name, REFUSAL + dice.choice(["rpm", "budget"]), 0] += dice.randrange(1, 9)
        self.rows = [Observed(*key, times) for key, times in sorted(counts.items())]

    def totals(self, by: By, *, since: float | None = None, until: float | None = None) -> dict[str, Totals]:
        if by == "model":
            return {"openai/<b>m</b></script>": summed(self.cells.values())}
        cells: dict[str, list[Totals]] = {}
        for (_, name), one in self.cells.items():
            cells.setdefault(name, []).append(one)
        return {name: summed(cells[name]) for name in self.names}

    def timeline(
        self, width: int, *, since: float | None = None, until: float | None = None
    ) -> dict[tuple[int, str], Totals]:
        return {(at // width * width, name): one for (at, name), one in self.cells.items()}

    def spent_nano(self, tenant_id: str, *, since: float) -> int:
        return sum(one.cost_nano for (at, name), one in self.cells.items() if name == tenant_id and at >= since)

    def read(
        self, *, since: float | None = None, until: float | None = None, tenant_id: str | None = None
    ) -> list[Observed]:
        return [row for row in self.rows if (since or 0) <= row.window < (until or 1e12)]
