"""The figures as a table and as benchmarks/results.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.entries import Entry, Measured

RESULTS = Path(__file__).parent / "results.json"


def goal(entry: Entry) -> str:
    if entry.target is None:
        return "-"
    sign = ">=" if entry.better == "higher" else "<="
    far = "" if entry.limit is None else f" to {entry.limit:g}"
    return f"{sign} {entry.target:g}{far}"


def table(rows: Iterable[tuple[Entry, Measured]]) -> Table:
    made = Table(title="Benchmarks: medians, side by side in the same run")
    for heading in ("name", "value", "unit", "target", "", "runs: lowest to highest", "beside"):
        made.add_column(heading, justify="right" if heading in ("value", "target") else "left")
    for entry, measured in rows:
        verdict = "" if entry.target is None else ("[green]met[/]" if entry.met(measured.value) else "[red]missed[/]")
        spread = f"{min(measured.runs):.3g} to {max(measured.runs):.3g} ({len(measured.runs)})"
        beside = ", ".join(f"{name} {value:,.4g}" for name, value in measured.beside.items())
        made.add_row(entry.name, f"{measured.value:.4g}", entry.unit, goal(entry), verdict, spread, beside)
    return made


def as_json(entry: Entry, measured: Measured) -> dict[str, Any]:
    return {
        "value": measured.value,
        "unit": entry.unit,
        "better": entry.better,
        "target": entry.target,
        "limit": entry.limit,
        "met": entry.met(measured.value),
        "runs": list(measured.runs),
        "beside": dict(measured.beside),
    }


def write(rows: Iterable[tuple[Entry, Measured]], path: Path = RESULTS) -> None:
    """Put these figures into the file; those of areas that didn't run stay as they are."""
    known: Mapping[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    new = {entry.name: as_json(entry, measured) for entry, measured in rows}
    path.write_text(json.dumps(dict(sorted((dict(known) | new).items())), indent=2) + "\n", "utf-8")


def show(console: Console, rows: list[tuple[Entry, Measured]], missing: list[str]) -> None:
    console.print(table(rows))
    for name in missing:
        console.print(f"[red]missing[/] {name}: it is declared and nothing measures it")
