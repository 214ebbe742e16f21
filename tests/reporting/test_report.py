"""The report adds up, escapes what it shows, and a tenant's own says nothing of the others."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tenant_middleware import Tenancy, Tenant, Usage, scope
from tenant_middleware.assurance.audit import audit
from tenant_middleware.assurance.reports import dumps
from tenant_middleware.cli import app
from tenant_middleware.policy import Policy
from tenant_middleware.reporting.heatmap import MEASURES, heat_map, shade, stretch, to_png, to_table
from tenant_middleware.reporting.page import to_html
from tenant_middleware.reporting.report import as_json, collect, summed
from tests.reporting.books import DAY, NOW, Made

TIER = {
    "rpm": 600,
    "tpm": 600_000,
    "max_concurrency": 4,
    "budget": {"usd": "0.5", "period": "month"},
    "models": ["m"],
    "max_output_tokens": 64,
}


def policy(made: Made) -> Policy:
    return Policy.model_validate({"tiers": {"pro": TIER}, "tenants": {name: {"tier": "pro"} for name in made.names}})


def test_totals_are_the_ledgers_to_the_nano_dollar() -> None:
    made = Made(50)
    found = collect(made, made, since=NOW - 7 * DAY, until=NOW, policy=policy(made))
    assert found.whole == summed(made.cells.values()) and len(found.tenants) == 50
    values = as_json(found)
    assert sum(Decimal(one["cost_usd"]) for one in values["tenants"]) == Decimal(values["total"]["cost_usd"])
    cost = next(one for one in found.heat_maps if one.measure == "cost")
    assert len(cost.tenants) == 30 and cost.left_out == 20
    assert [line.share for line in found.budgets] == sorted((line.share for line in found.budgets), reverse=True)
    assert any(line.exhausted_at and line.exhausted_at < line.resets_at for line in found.budgets)


def test_what_stands_in_names_is_text() -> None:
    made = Made(3)
    page = to_html(collect(made, made, since=NOW - 7 * DAY, until=NOW))
    assert "<b>m</b>" not in page and page.count("</script>") == 2
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page) and "@import" not in page


def test_a_tenants_own_report_says_nothing_of_the_others() -> None:
    made = Made(50)
    one, others = made.names[3], [name for name in made.names if name != made.names[3]]
    values = collect(made, made, since=NOW - 7 * DAY, until=NOW, policy=policy(made), tenant_id=one)
    told = to_html(values) + json.dumps(as_json(values))
    assert one in told and not any(name in told for name in others)
    assert "others" not in json.dumps(as_json(values)["verdicts"])
    assert values.whole == summed(cell for (_, name), cell in made.cells.items() if name == one)
    everyones = to_html(collect(made, made, since=NOW - 7 * DAY, until=NOW))
    assert all(name in everyones for name in others)  # the control: without `tenant_id` they are there


@pytest.mark.parametrize("measure", list(MEASURES))
def test_each_measure_has_a_map_in_the_terminal_and_as_a_picture(measure: str, tmp_path: Path) -> None:
    made, width = Made(5), stretch(7 * DAY)
    heat = heat_map(
        measure,  # type: ignore[arg-type]  # parametrised
        since=NOW - 7 * DAY,
        until=NOW,
        width=width,
        timeline=made.timeline(width),
        observed=made.rows,
    )
    assert heat.tenants and heat.highest > 0 and len(heat.starts) == len(heat.values[0])
    assert to_table(heat).row_count == len(heat.tenants)
    to_png(heat, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_a_flood_leaves_shades_for_the_others() -> None:
    assert [shade(value, 100.0) for value in (0.0, 1.0, 20.0, 100.0)] == [0, 1, 3, 5]


def test_the_commands_read_what_an_application_left(tmp_path: Path) -> None:
    ledger = f"sqlite:///{tmp_path}/usage.db"
    values = {
        "tiers": {"pro": TIER},
        "tenants": {"acme": {"tier": "pro"}, "globex": {"tier": "pro"}},
        "prices": {"m": {"input_usd_per_million": "1", "output_usd_per_million": "2"}},
        "backends": {"ledger": ledger},
    }
    with Tenancy.from_mapping(values) as tenancy:
        for tenant in (Tenant("acme", "pro"), Tenant("globex", "pro")):
            with scope(tenant):
                for _ in range(3):
                    with tenancy.gate.call(tenancy.gate.new_call("m", prompt_tokens=10)) as hold:
                        hold.report(Usage(10, 5))
    run = CliRunner()
    told = run.invoke(app, ["latency", "--ledger", ledger, "--json"])
    assert [one["tenant"] for one in json.loads(told.stdout)["verdicts"]] == ["acme", "globex"]
    assert "admission" in run.invoke(app, ["latency", "acme", "--ledger", ledger]).stdout
    assert "globex" in run.invoke(app, ["heatmap", "tokens", "--ledger", ledger]).stdout
    page = tmp_path / "report.html"
    assert run.invoke(app, ["report", "--ledger", ledger, "-o", str(page), "--tenant", "acme"]).exit_code == 0
    assert "acme" in page.read_text() and "globex" not in page.read_text()
    assert json.loads(run.invoke(app, ["report", "--ledger", ledger, "--json"]).stdout)["total"]["calls"] == 6


def test_the_report_shows_what_an_audit_printed(tmp_path: Path) -> None:
    values = {"policy": {"unlisted_tenants": True}, "tiers": {"pro": TIER}}
    ledger = f"sqlite:///{tmp_path}/usage.db"
    with Tenancy.from_mapping(values | {"backends": {"ledger": ledger}}) as tenancy:
        healthy = audit(tenancy, seed=1, only=["documents.search"], pause=0)
    (tmp_path / "audit.json").write_text(dumps(healthy))
    page, run = tmp_path / "report.html", CliRunner()
    words = ["report", "--ledger", ledger, "-o", str(page), "--audit"]
    assert run.invoke(app, [*words, str(tmp_path / "audit.json")]).exit_code == 0
    assert "probes held, 0 leaked" in page.read_text()
    (tmp_path / "audit.json").write_text(dumps(healthy).replace('"held"', '"LEAK"'))
    run.invoke(app, [*words, str(tmp_path / "audit.json")])
    assert "0 probes held" in page.read_text() and "documents.search" in page.read_text()
    (tmp_path / "audit.json").write_text("{}")
    assert run.invoke(app, [*words, str(tmp_path / "audit.json")]).exit_code == 2
