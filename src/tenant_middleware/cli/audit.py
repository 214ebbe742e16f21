"""`tenant-middleware audit`: attacks the configured backends, or an endpoint, with tenants made up for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from tenant_middleware.cli.places import PolicyOption, made, policy_path
from tenant_middleware.errors import ConfigurationError, TenancyError

if TYPE_CHECKING:
    from tenant_middleware.assurance.audit import AuditReport
    from tenant_middleware.assurance.probes import Probe


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends an audit as Ctrl-C does, with an exit code of its own."""


TOKENS = ("TENANT_AUDIT_TOKEN_A", "TENANT_AUDIT_TOKEN_B")


def audit(
    policy: PolicyOption = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only probes whose id begins so; may be repeated.")] = None,
    tier: Annotated[str | None, typer.Option(help="The tier whose terms the audit's tenants get.")] = None,
    dimension: Annotated[int | None, typer.Option(help="The dimension of your embeddings.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeat an audit.")] = None,
    saver: Annotated[
        str | None, typer.Option(metavar="MODULE:FACTORY", help="Your LangGraph saver; one in memory otherwise.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="MODULE:FACTORY", help="Your LangGraph store; one in memory otherwise.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help=f"Ask this endpoint instead, with the tokens in {' and '.join(TOKENS)}."),
    ] = None,
    ingest_url: Annotated[str | None, typer.Option(help="Where the endpoint takes documents.")] = None,
    delete_url: Annotated[
        str | None, typer.Option(help="Where the endpoint deletes a document by its text; the canaries stay otherwise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page here.")] = None,
) -> None:
    """Try to get at another tenant's data in every known way; 1 for a leak, 2 when nothing is proven."""
    from tenant_middleware.assurance import reports

    try:
        if url is not None:
            report = _endpoint(url, ingest_url, delete_url)
        else:
            report = _backends(policy_path(policy), probe or [], tier, dimension, seed, _catalogue(saver, store))
    except _Terminated:
        raise typer.Exit(128 + signal.SIGTERM) from None
    except TenancyError as error:  # 1 would say that something leaked
        typer.echo(f"tenant-middleware: {error}", err=True)
        raise typer.Exit(2) from None
    if junit is not None:
        junit.write_text(reports.as_junit(report), encoding="utf-8")
    if html is not None:
        html.write_text(reports.as_html(report), encoding="utf-8")
    if as_json:
        typer.echo(reports.dumps(report))
    else:
        _print(report)
    raise typer.Exit(report.exit_code)


def _backends(
    policy: Path,
    only: list[str],
    tier: str | None,
    dimension: int | None,
    seed: int | None,
    probes: tuple[Probe, ...],
) -> AuditReport:
    from tenant_middleware.assurance.audit import audit as run
    from tenant_middleware.tenancy import Tenancy

    with Tenancy.from_file(policy) as tenancy, _terminated_as_interrupted():
        return run(tenancy, only=only, tier=tier, dimension=dimension, seed=seed, probes=probes)


def _catalogue(saver: str | None, store: str | None) -> tuple[Probe, ...]:
    """The catalogue, and the probes of the adapters whose frameworks are installed here."""
    from tenant_middleware.assurance.probes import CATALOGUE

    found = CATALOGUE
    if find_spec("langgraph") is not None:
        from tenant_middleware.langchain.probes import probes

        given = (made("--saver", saver) if saver else None, made("--store", store) if store else None)
        found += probes(*given)
    elif saver or store:
        raise ConfigurationError("--saver, --store: LangGraph isn't installed: tenant-middleware[langchain]")
    if find_spec("llama_index") is not None:
        from tenant_middleware.llamaindex.probes import PROBES

        found += PROBES
    return found


def _endpoint(url: str, ingest_url: str | None, delete_url: str | None) -> AuditReport:
    from tenant_middleware.assurance.endpoint import audit_endpoint

    tokens = [os.environ.get(name, "") for name in TOKENS]
    if not all(tokens) or tokens[0] == tokens[1] or ingest_url is None:
        raise ConfigurationError(
            f"audit --url: expected --ingest-url, and two tokens of different tenants in {' and '.join(TOKENS)}"
        )
    with _terminated_as_interrupted():
        return audit_endpoint(ingest_url, url, tokens[0], tokens[1], delete=delete_url)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A scheduler ends jobs with SIGTERM; what was planted has to go then too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(report: AuditReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"held": "green", "LEAK": "bold red", "CONTROL FAILED": "yellow", "skipped": "dim"}
    table = Table("probe", "it tries", "outcome", box=None)
    for finding in report.findings:
        outcome = f"[{colours[finding.outcome]}]{finding.outcome}[/]"
        told = f"{outcome}: {escape(finding.detail)}" if finding.detail else outcome
        table.add_row(finding.probe, escape(finding.tries), told)
    console = Console()
    console.print(table)
    if report.swept:
        console.print(f"removed what was left of killed audits: {', '.join(report.swept)}")
    console.print(
        f"{len(report.findings)} probes, {len(report.leaks)} leaks, {len(report.failed_controls)} failed controls, "
        f"seed {report.seed}"
    )
