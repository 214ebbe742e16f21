"""The contract of a Ledger, for any backend: subclass LedgerContract and give it the fixture `ledger`, empty.

Two tenants whose names differ in case alone, and one whose name begins with another's, share every table.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal

import pytest

from tenant_middleware.metering.ledger import Ledger, LedgerRow, Totals

# Thursday 2025-05-15 12:00:00 UTC.
NOON = 1_747_310_400.0
DAY = 86_400.0


def entry(tenant_id: str = "acme", call_id: str = "c", **changes: object) -> LedgerRow:
    """A chat call of 10 + 5 tokens for 1,500 nano-dollars."""
    plain = LedgerRow(
        tenant_id,
        call_id,
        NOON,
        "gold",
        "ann",
        "openai/small",
        "chat",
        "openai",
        10,
        2,
        5,
        1,
        1_500,
        "policy",
        "2025-05",
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # the fields of a row


class LedgerContract:
    """What every Ledger promises."""

    @pytest.fixture
    def ledger(self) -> Ledger:
        """An empty ledger; override this."""
        raise LookupError("LedgerContract: override the fixture ledger")

    def test_a_row_comes_back_as_it_was(self, ledger: Ledger) -> None:
        rows = [
            entry(),
            entry(
                call_id="d",
                at=NOON + 1.25,
                subject=None,
                latency=0.5,
                queue_wait=0.25,
                stream=True,
                status="cancelled",
                source="estimated",
                attempts=3,
                attempt_ids="a,b",
            ),
        ]
        assert ledger.write(rows) == 2
        assert list(ledger.rows()) == rows

    def test_a_call_counts_once_and_the_first_row_stays(self, ledger: Ledger) -> None:
        assert ledger.write([entry(), entry(cost_nano=9)]) == 1
        assert ledger.write([entry(cost_nano=7)]) == 0
        assert [row.cost_nano for row in ledger.rows()] == [1_500]

    @pytest.mark.parametrize("other", ["Acme", "acme2", "globex"])
    def test_one_call_id_of_two_tenants_is_two_calls(self, ledger: Ledger, other: str) -> None:
        assert ledger.write([entry("acme"), entry(other, cost_nano=3)]) == 2
        assert [row.cost_nano for row in ledger.rows(tenant_id="acme")] == [1_500]
        assert [row.cost_nano for row in ledger.rows(tenant_id=other)] == [3]
        sums = ledger.totals("tenant")
        assert (sums["acme"].cost_nano, sums[other].cost_nano) == (1_500, 3)
        assert ledger.totals(tenant_id=other).cost_nano == 3
        assert {name: one.cost_nano for name, one in ledger.totals("tenant", tenant_id="acme").items()} == {
            "acme": 1_500
        }
        assert ledger.totals(tenant_id="nobody") == Totals()
        assert ledger.spent_nano(other, since=0) == 3

    def test_sums_are_exact(self, ledger: Ledger) -> None:
        large = 2**53 - 1
        ledger.write([entry(call_id=str(n), cost_nano=large - n) for n in range(3)])
        assert ledger.totals().cost_nano == 3 * large - 3
        assert ledger.totals().cost_usd == Decimal(3 * large - 3) / 10**9

    def test_kinds_are_counted_apart(self, ledger: Ledger) -> None:
        ledger.write(
            [
                entry(call_id="chat"),
                entry(call_id="embed", kind="embedding", completion_tokens=0),
                entry(call_id="hit", status="cache_hit", prompt_tokens=0, completion_tokens=0, cost_nano=0),
            ]
        )
        assert ledger.totals() == Totals(1, 1, 1, 20, 5, 3_000)

    def test_no_rows_sum_to_nothing(self, ledger: Ledger) -> None:
        assert ledger.totals() == Totals()
        assert ledger.totals("tenant") == {}
        assert ledger.spent_nano("acme", since=0) == 0
        assert ledger.write([]) == 0

    @pytest.mark.parametrize(
        ("by", "names"),
        [
            ("model", {"m", "n"}),
            ("day", {"2025-05-15", "2025-05-16"}),
            ("subject", {"ann", ""}),
            ("tier", {"gold", "free"}),
        ],
    )
    def test_sums_by_name(self, ledger: Ledger, by: str, names: set[str]) -> None:
        other = entry(call_id="d", model="n", at=NOON + DAY, subject=None, tier="free", cost_nano=4)
        ledger.write([entry(model="m"), other])
        sums = ledger.totals(by)  # type: ignore[call-overload]  # one of the names it takes
        assert set(sums) == names
        assert sum(one.cost_nano for one in sums.values()) == 1_504

    def test_each_model_has_its_share_of_a_call_that_went_on_with_another(self, ledger: Ledger) -> None:
        one, two = (
            {"model": "m", "prompt_tokens": 4, "completion_tokens": 1, "cost_nano": 300},
            {"model": "n", "prompt_tokens": 6, "completion_tokens": 4, "cost_nano": 1_200},
        )
        ledger.write([entry(model="n", by_model=json.dumps([one, two])), entry("Acme", "d", model="n", cost_nano=5)])
        assert ledger.totals("model") == {"m": Totals(0, 0, 0, 4, 1, 300), "n": Totals(2, 0, 0, 16, 9, 1_205)}
        assert ledger.totals() == Totals(2, 0, 0, 20, 10, 1_505)
        assert ledger.totals("tenant")["acme"].cost_nano == 1_500
        assert ledger.totals("model", tenant_id="Acme") == {"n": Totals(1, 0, 0, 10, 5, 5)}

    def test_since_counts_and_until_does_not(self, ledger: Ledger) -> None:
        ledger.write([entry(call_id=str(n), at=NOON + n, cost_nano=10**n) for n in range(4)])
        assert ledger.totals(since=NOON + 1, until=NOON + 3).cost_nano == 110
        assert [row.call_id for row in ledger.rows(since=NOON + 3)] == ["3"]

    def test_a_budget_counts_a_call_where_it_began(self, ledger: Ledger) -> None:
        ledger.write([entry(call_id="over the edge", latency=20.0), entry(call_id="after", latency=5.0, cost_nano=7)])
        assert ledger.spent_nano("acme", since=NOON - 10) == 7

    def test_hostile_text_stops_nobody(self, ledger: Ledger) -> None:
        ledger.write([entry(model="x\0'; DROP TABLE tenant_ledger; --\ud800", subject="é\0"), entry(call_id="d")])
        assert ledger.totals().calls == 2

    def test_many_writers_of_the_same_rows(self, ledger: Ledger) -> None:
        rows = [entry(call_id=f"{n:04}") for n in range(200)]
        with ThreadPoolExecutor(4) as pool:
            new = list(pool.map(lambda turn: ledger.write(rows[turn * 10 :] + rows[: turn * 10]), range(8)))
        assert sum(new) == 200
        assert ledger.totals().cost_nano == 200 * 1_500
