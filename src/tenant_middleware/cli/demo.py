"""`tenant-middleware demo`: three tenants, one chain, a real local model."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tenant_middleware.errors import missing_extra


def demo(
    llm: Annotated[str, typer.Option(help="local, or litellm:MODEL with the provider's key set.")] = "local",
    redis: Annotated[bool, typer.Option("--redis", help="Over a real Redis, started for this run.")] = False,
    vectors: Annotated[str, typer.Option(help="The documents alone: memory, or redis started for this run.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
) -> None:
    """Three tenants, two of them competitors, ask through one chain: answers, refusals, costs, isolation."""
    from rich.console import Console

    try:
        from tenant_middleware.demo.run import run
        from tenant_middleware.demo.screen import Screen, Waiting
    except ModuleNotFoundError as error:
        raise missing_extra("langchain", "tenant-middleware demo") from error

    show = Waiting(Console(stderr=True)) if as_json else Screen(Console())
    report = run(show, llm=llm, redis=redis, vectors=vectors)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False))
    if not report.isolated:
        typer.echo("the isolation check failed", err=True)
        raise typer.Exit(1)
