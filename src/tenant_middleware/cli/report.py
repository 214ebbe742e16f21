"""`tenant-middleware report`: one page about a period, for whoever asks where the money and the time went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tenant_middleware.cli.places import POLICIES, LedgerOption, PolicyOption, Since, ledger_url
from tenant_middleware.errors import InvalidInput
from tenant_middleware.policy import Policy


def report(
    policy: PolicyOption = None,
    ledger: LedgerOption = None,
    since: Since = "7d",
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
    tenant: Annotated[
        str | None, typer.Option(help="A report for this tenant's eyes: nothing of the others.", show_default=False)
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="What `audit --json` printed, to be shown.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of writing a page.")] = False,
) -> None:
    """Write totals, heat maps, budgets, refusals and latency verdicts as one self-contained HTML page."""
    from tenant_middleware.cli.period import opened, period
    from tenant_middleware.metering.price_book import PriceBook
    from tenant_middleware.reporting.report import as_json as to_json
    from tenant_middleware.reporting.report import collect

    start, end = period(since)
    rules = _policy(policy)
    with opened(ledger_url(ledger, policy)) as (books, observatory):
        found = collect(
            books,
            observatory,
            since=start,
            until=end,
            policy=rules,
            prices="" if rules is None else f"snapshot {PriceBook(rules.prices).snapshot}",
            tenant_id=tenant,
            audit=None if audit is None else _audit(audit),
        )
    if tenant is not None and not found.tenants:
        raise InvalidInput("the ledger has nothing of this tenant in that time: check its id, or look further back")
    if as_json:
        typer.echo(json.dumps(to_json(found), indent=2))
        return
    from tenant_middleware.reporting.page import to_html

    out.write_text(to_html(found), encoding="utf-8")
    typer.echo(f"wrote {out}")


def _policy(given: Path | None) -> Policy | None:
    from tenant_middleware.settings import load

    path = given or next((one for one in POLICIES if one.is_file()), None)
    return None if path is None else load(path)[1]


def _audit(path: Path) -> dict[str, Any]:
    """An audit's outcome in a sentence; raises InvalidInput for a file that is something else."""
    try:
        findings = json.loads(path.read_text(encoding="utf-8"))["findings"]
        leaks = [one["probe"] for one in findings if one["outcome"] == "LEAK"]
        broken = [one["probe"] for one in findings if one["outcome"] == "CONTROL FAILED"]
        held = sum(one["outcome"] == "held" for one in findings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path}: expected what `tenant-middleware audit --json` prints") from error
    summary = f"{held} probes held, {len(leaks)} leaked, {len(broken)} had a control that failed"
    if leaks or broken:
        summary += f": {', '.join([*leaks, *broken])}"
    return {"passed": bool(held) and not leaks and not broken, "summary": summary}
