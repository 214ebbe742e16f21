"""The command line: the demo, what a tenant may do and why, and what everybody used."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from tenant_middleware.errors import Refusal, TenancyError
from tenant_middleware.metering.ledger import By, Totals

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Multi-tenancy for LangChain, LlamaIndex and LiteLLM."
)

DEMO_POLICY = Path(".tenant-middleware") / "tenancy.toml"
DEMO_LEDGER = DEMO_POLICY.with_name("demo.db")
Policy = Annotated[Path | None, typer.Option("--policy", help="default: tenancy.toml, or else the demo's")]


@app.command()
def demo(
    llm: Annotated[str, typer.Option(help="local, or litellm:MODEL for a provider")] = "local",
    as_json: Annotated[bool, typer.Option("--json", help="print one object and nothing else")] = False,
) -> None:
    """Three tenants, two of them competitors, on one chain: answers, refusals, costs and an isolation check."""
    try:
        from tenant_middleware.demo.run import run
        from tenant_middleware.demo.screen import Screen, Waiting

        report = run(Waiting(Console(stderr=True)) if as_json else Screen(Console()), llm=llm)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        raise typer.Exit(130) from None
    except (TenancyError, ImportError) as error:
        raise _told(error) from None
    if as_json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    if not all(found.held for found in report.findings):
        raise typer.Exit(1)


@app.command()
def explain(
    tenant: Annotated[str, typer.Argument(help="the tenant's id")],
    policy: Policy = None,
    tier: Annotated[str | None, typer.Option(help="the tier claim of a tenant that the policy doesn't list")] = None,
) -> None:
    """Every value in force for a tenant, and the rule of the policy that decided it."""
    from tenant_middleware.settings import load

    try:
        _, rules = load(_policy_file(policy))
        rows = rules.explain(rules.admit(tenant, tier))
    except (TenancyError, Refusal) as error:
        raise _told(error) from None
    table = Table("value of", "is", "because of")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@app.command()
def usage(
    by: Annotated[str, typer.Option(help="tenant, model, kind, day, tier or subject")] = "tenant",
    ledger: Annotated[str | None, typer.Option(help="the ledger's SQLAlchemy URL; default: the policy's")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="a policy file; default: tenancy.toml, or the demo's ledger")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="comma separated, with a header")] = False,
) -> None:
    """Calls, tokens and dollars from the ledger, exact."""
    from tenant_middleware.backends.sql import SqlLedger

    if by not in get_args(By):
        raise _told(ValueError(f"--by: expected {', '.join(get_args(By))}"))
    try:
        books = SqlLedger(ledger or _ledger_url(policy))
        try:
            totals: dict[str, Totals] = books.totals(by=by)  # type: ignore[call-overload]  # checked above
        finally:
            books.close()
    except TenancyError as error:
        raise _told(error) from None
    if as_json:
        sys.stdout.write(json.dumps({name: _plain(total) for name, total in totals.items()}, indent=2) + "\n")
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow([by, *_plain(Totals())])
        writer.writerows([name, *_plain(total).values()] for name, total in totals.items())
    else:
        Console().print(_table(by, totals))


def _policy_file(given: Path | None) -> Path:
    here = Path("tenancy.toml")
    return given or (DEMO_POLICY if not here.exists() and DEMO_POLICY.exists() else here)


def _ledger_url(policy: Path | None) -> str:
    from tenant_middleware.settings import load

    found = _policy_file(policy)
    if found == DEMO_POLICY:
        return f"sqlite:///{DEMO_LEDGER}"
    return load(found)[0].backends.ledger


def _plain(total: Totals) -> dict[str, Any]:
    return {
        "calls": total.calls,
        "embeddings": total.embeddings,
        "cache_hits": total.cache_hits,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "cost_usd": f"{total.cost_usd:f}",
    }


def _table(by: str, totals: dict[str, Totals]) -> Table:
    table = Table(by, *(name.replace("_", " ") for name in _plain(Totals())))
    for name, total in sorted(totals.items()):
        table.add_row(name, *map(str, _plain(total).values()))
    return table


def _told(error: Exception) -> typer.Exit:
    Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
    return typer.Exit(2)
