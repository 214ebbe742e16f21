"""The demo in a terminal, drawn with Rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tenant_middleware.assurance.audit import Finding
from tenant_middleware.demo.chain import Answer
from tenant_middleware.demo.report import exact
from tenant_middleware.demo.show import Advance
from tenant_middleware.errors import Refusal
from tenant_middleware.metering.ledger import Totals

_COLOURS = {"acme": "cyan", "globex": "magenta", "initech": "yellow"}


class Waiting:
    """Only the progress bars; on a stream that is no terminal, not even these."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def waiting(self, label: str, steps: int | None = None) -> Iterator[Advance]:
        if not self._console.is_terminal:
            yield lambda: None
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(escape(label), total=steps)
            yield lambda: bars.advance(task)

    def chapter(self, title: str, remark: str = "") -> None:
        """Nothing: `--json` prints its one object at the end."""

    def told(self, tenant_id: str, text: str) -> None:
        """Nothing."""

    def answered(self, tenant_id: str, answer: Answer, remark: str = "") -> None:
        """Nothing."""

    def refused(self, tenant_id: str, question: str, refusal: Refusal) -> None:
        """Nothing."""

    def usage(self, totals: dict[str, Totals], whole: Totals) -> None:
        """Nothing."""

    def findings(self, found: Sequence[Finding]) -> None:
        """Nothing."""


class Screen(Waiting):
    """Everything, as it happens."""

    def chapter(self, title: str, remark: str = "") -> None:
        self._console.print()
        self._console.rule(f"[bold]{escape(title)}[/bold]", align="left")
        if remark:
            self._console.print(f"[dim]{escape(remark)}[/dim]")

    def told(self, tenant_id: str, text: str) -> None:
        self._console.print(f"{_name(tenant_id)} {escape(text)}")

    def answered(self, tenant_id: str, answer: Answer, remark: str = "") -> None:
        origin = f"cache hit, {answer.distance:.2f} away" if answer.distance is not None else "cache miss"
        origin = f"[green]{origin}[/green]" if answer.hit else f"[dim]{origin}[/dim]"
        memory = f", {answer.remembered} earlier messages" if answer.remembered else ""
        self._console.print(f"{_name(tenant_id)} {escape(answer.question)}")
        self._console.print(f"          [bold]{escape(answer.text)}[/bold]")
        self._console.print(f"          [dim]from {escape('; '.join(answer.sources))}{memory};[/dim] {origin}")
        if remark:
            self._console.print(f"          [dim italic]{escape(remark)}[/dim italic]")

    def refused(self, tenant_id: str, question: str, refusal: Refusal) -> None:
        self._console.print(f"{_name(tenant_id)} {escape(question)}")
        self._console.print(
            f"          [bold red]{refusal.http_status} {refusal.code}[/bold red] {escape(str(refusal))}"
        )
        if refusal.resets_at is not None:
            self._console.print(f"          [red]resets at {refusal.resets_at:%Y-%m-%d %H:%M} UTC[/red]")
        elif refusal.retry_after is not None:
            self._console.print(f"          [red]retry after {refusal.retry_after:.1f} s[/red]")

    def usage(self, totals: dict[str, Totals], whole: Totals) -> None:
        table = Table("tenant", box=None)
        for heading in ("model calls", "embeddings", "tokens in", "tokens out", "USD"):
            table.add_column(heading, justify="right")
        for name, one in totals.items():
            table.add_row(_name(name), *_figures(one))
        table.add_section()
        table.add_row("[bold]all[/bold]", *_figures(whole))
        self._console.print(table)

    def findings(self, found: Sequence[Finding]) -> None:
        """One line per area; what failed is told by name."""
        table = Table("area", "probes", "held", "", box=None)
        tried = [one for one in found if one.outcome != "skipped"]
        for area, ones in groupby(sorted(tried, key=_area), key=_area):
            probes = list(ones)
            bad = [one for one in probes if one.outcome != "held"]
            told = ", ".join(f"{one.probe}: {one.outcome}" for one in bad)
            shown = f"[bold red]{escape(told)}[/bold red]" if bad else "[green]holds[/green]"
            table.add_row(escape(area), str(len(probes)), str(len(probes) - len(bad)), shown)
        self._console.print(table)


def _area(one: Finding) -> str:
    return one.probe.partition(".")[0]


def _name(tenant_id: str) -> str:
    return f"[bold {_COLOURS.get(tenant_id, 'white')}]{escape(tenant_id):<9}[/]"


def _figures(one: Totals) -> list[str]:
    counts = (one.calls, one.embeddings, one.prompt_tokens, one.completion_tokens)
    return [*(f"{count:,}" for count in counts), exact(one.cost_usd)]
