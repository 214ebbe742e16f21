"""`python -m benchmarks [--only AREA]`: measure, print a table, write results.json; 1 when a target is missed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys

from rich.console import Console
from rich.progress import track

from benchmarks import report
from benchmarks.entries import Area, Measured

AREAS = ("gate", "admission", "queue", "vectors", "history", "cache", "litellm", "guard", "telemetry")


def area(name: str) -> Area | None:
    """The area's module, if it is there already."""
    if importlib.util.find_spec(f"benchmarks.{name}") is None:
        return None
    found = getattr(importlib.import_module(f"benchmarks.{name}"), "AREA", None)
    return found if isinstance(found, Area) else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=AREAS, metavar="AREA", help=f"one of {', '.join(AREAS)}")
    chosen = parser.parse_args(arguments).only
    areas = [found for name in AREAS if chosen in (None, name) and (found := area(name)) is not None]
    # A table in a log is as wide as it needs to be.
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not areas:
        console.print(f"[red]nothing measures the area {chosen!r} yet[/]")
        return 1
    entries = [entry for found in areas for entry in found.entries.values()]
    waiting = Console(stderr=True)
    rows: list[tuple[report.Entry, Measured]] = []
    for entry in track(entries, "Measuring", console=waiting, transient=True, disable=not waiting.is_terminal):
        rows.append((entry, entry.measure()))
    missing = [name for found in areas for name in found.missing]
    report.show(console, rows, missing)
    report.write(rows)
    return 1 if missing or not all(entry.met(measured.value) for entry, measured in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
