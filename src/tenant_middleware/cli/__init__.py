"""The command line: `tenant-middleware --help` lists it. Each command is a function in a module of its own."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tenant_middleware import __version__
from tenant_middleware.cli.audit import audit
from tenant_middleware.cli.balance import balance
from tenant_middleware.cli.demo import demo
from tenant_middleware.cli.drain import drain
from tenant_middleware.cli.explain import explain
from tenant_middleware.cli.export_costs import export_costs
from tenant_middleware.cli.heatmap import heatmap
from tenant_middleware.cli.latency import latency
from tenant_middleware.cli.lifecycle import erase, export, receipt, resume, suspend, training
from tenant_middleware.cli.queue import queue
from tenant_middleware.cli.reconcile import reconcile
from tenant_middleware.cli.report import report
from tenant_middleware.cli.usage import usage
from tenant_middleware.errors import ConfigurationError, InvalidInput, TenancyError

INTERRUPTED = 130
MISUSED = 2


class _Commands(TyperGroup):
    """Errors of ours end in one line on stderr: 2 for what the caller can mend, 1 for the rest; Ctrl-C is 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            sys.exit(INTERRUPTED)
        except (TenancyError, ImportError) as error:
            typer.echo(f"tenant-middleware: {error}", err=True)
            sys.exit(MISUSED if isinstance(error, ConfigurationError | InvalidInput) else 1)


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One GenAI application for many tenants: nothing leaks, nobody starves, every dollar has an owner."""


for commands in (
    (demo, explain, usage, drain, export_costs, reconcile, queue, balance, heatmap, latency, report),
    (audit, suspend, resume, export, erase, receipt),
):
    for command in commands:
        app.command()(command)
app.add_typer(training, name="training")


def main() -> None:
    """The console script."""
    app()


__all__ = ["app", "main"]
