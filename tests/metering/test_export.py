"""What leaves the ledger says the same as the ledger: CSV, JSON Lines, FOCUS, and the commands that write them."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tenant_middleware.backends.sql import SqlLedger
from tenant_middleware.cli import app
from tenant_middleware.metering import export, focus
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.testing.ledger import DAY, NOON, entry

from .focus_rules import broken_columns, broken_row

ROWS = [
    entry("acme", "1"),
    entry("acme", "2", cost_nano=333, subject='=cmd|"/C calc"!A0'),
    entry("acme", "3", model="openai/large", cost_nano=9_007_199_254_740_991),
    entry("acme", "4", at=NOON + DAY, price_source="litellm", price_as_of="abc"),
    entry("acme", "hit", status="cache_hit", cost_nano=0, prompt_tokens=0, completion_tokens=0, price_source="",
          price_as_of="", source="provider"),
    entry("Acme", "1", cost_nano=7),
    entry("globex", "1", kind="image", provider="", model="pictures", prompt_tokens=0, completion_tokens=0),
    entry("globex", "2", at=NOON + 31 * DAY, source="estimated"),
]  # fmt: skip


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/usage.db"
    books = SqlLedger(url)
    books.write(ROWS)
    books.close()
    return url


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stdout


def focus_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_focus_keeps_the_published_rules(ledger_url: str) -> None:
    text = run("export-costs", "--ledger", ledger_url, "--format", "focus")
    assert broken_columns(text.partition("\n")[0].split(",")) == []
    rows = focus_rows(text)
    assert [broken_row(row) for row in rows] == [[]] * len(rows)
    assert len(rows) == 7


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("BilledCost", ""),
        ("BilledCost", "1,5"),
        ("ListCost", "99"),
        ("ChargePeriodEnd", "2025-05-15"),
        ("ChargePeriodEnd", "2025-05-15T00:00:00Z"),
        ("ChargeCategory", "usage"),
        ("PricingUnit", ""),
        ("SubAccountType", ""),
        ("SkuPriceId", ""),
    ],
)
def test_the_rules_find_a_broken_row(ledger_url: str, column: str, value: str) -> None:
    row = focus_rows(run("export-costs", "--ledger", ledger_url, "--format", "focus"))[0]
    assert broken_row(row | {column: value})


def test_the_rules_find_a_broken_heading() -> None:
    assert broken_columns([name for name in focus.COLUMNS if name != "ServiceProviderName"])
    assert broken_columns([*focus.COLUMNS, "Tenant"])
    assert broken_columns(["x_Mine", *focus.COLUMNS])


def test_focus_counts_every_nano_dollar_on_its_tenant(ledger_url: str) -> None:
    rows = focus_rows(run("export-costs", "--ledger", ledger_url, "--format", "focus"))
    for tenant in ("acme", "Acme", "globex"):
        billed = sum(Decimal(row["BilledCost"]) for row in rows if row["SubAccountId"] == tenant)
        assert billed == sum(row.cost_usd for row in ROWS if row.tenant_id == tenant)
    hits = [row for row in rows if row["x_CacheHits"] != "0"]
    assert len(hits) == 1 and hits[0]["BilledCost"] == "0.000000000"
    june = next(row for row in rows if row["ChargePeriodStart"].startswith("2025-06"))
    assert (june["BillingPeriodStart"], june["BillingPeriodEnd"]) == ("2025-06-01T00:00:00Z", "2025-07-01T00:00:00Z")
    image = next(row for row in rows if row["ServiceName"] == "Image Generation")
    assert (image["PricingQuantity"], image["PricingUnit"], image["ServiceProviderName"]) == (
        "1",
        "Requests",
        "self-hosted",
    )


def test_focus_names_the_account_and_the_days(ledger_url: str) -> None:
    text = run(
        "export-costs", "--ledger", ledger_url, "--format", "focus", "--since", "2025-05-16", "--until", "2025-05-17",
        "--billing-account", "platform-7",
    )  # fmt: skip
    (row,) = focus_rows(text)
    assert (row["BillingAccountId"], row["x_Calls"], row["x_PriceAsOf"]) == ("platform-7", "1", "abc")


def test_csv_and_jsonl_have_every_call(ledger_url: str, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run("export-costs", "--ledger", ledger_url))))
    assert list(rows[0]) == list(export.COLUMNS)
    assert sum(Decimal(row["cost_usd"]) for row in rows) == sum(row.cost_usd for row in ROWS)
    assert [row["subject"] for row in rows if row["call_id"] == "2" and row["tenant_id"] == "acme"] == [
        '\'=cmd|"/C calc"!A0'
    ]
    out = tmp_path / "costs.jsonl"
    run("export-costs", "--ledger", ledger_url, "--format", "jsonl", "--tenant", "acme", "--out", str(out))
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert {line["tenant_id"] for line in lines} == {"acme"}
    assert len(lines) == 5
    assert lines[0]["time"] == "2025-05-15T12:00:00.000+00:00"


def test_rows_of_one_charge_have_one_price() -> None:
    """Two prices of a day are two charges, so that a figure can be worked out again."""
    rows: list[LedgerRow] = [entry(call_id="1"), entry(call_id="2", price_as_of="2025-06")]
    assert len({row["SkuPriceId"] for row in focus.charges(rows)}) == 2


def test_each_models_charge_has_its_share_of_a_call() -> None:
    shares = [{"model": "openai/dear", "cost_nano": 1_000}, {"model": "openai/small", "cost_nano": 500}]
    found = {row["SkuId"]: row for row in focus.charges([entry(by_model=json.dumps(shares))])}
    assert {name: (row["BilledCost"], row["x_Calls"]) for name, row in found.items()} == {
        "openai/dear/chat": ("0.000001000", 0),
        "openai/small/chat": ("0.000000500", 1),
    }
    assert [
        broken_row({name: "" if value is None else str(value) for name, value in row.items()}) for row in found.values()
    ] == [[], []]


def test_focus_tells_writes_to_a_providers_cache() -> None:
    (row,) = focus.charges([entry(cache_write_tokens=5, cache_write_1h_tokens=3), entry(call_id="d")])
    assert (row["x_CacheWriteTokens"], row["x_CacheWrite1hTokens"]) == (5, 3)
