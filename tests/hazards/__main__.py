"""`python -m tests.hazards`: the table; exit code 1 when something leaks with us, or in CI when a control can't run."""

from __future__ import annotations

import os
import sys

# Read when LangChain is imported; nothing here reports home.
os.environ.update(LANGSMITH_TRACING="false", LITELLM_LOCAL_MODEL_COST_MAP="True")

from rich.console import Console
from rich.table import Table

from tests.hazards.scoreboard import Hazard, NotRun, rows

CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


def main() -> int:
    table, failures = Table("#", "hazard", "bare framework", "with us", title="Hazards"), 0
    for row in rows():
        ours, (said, ran) = row.ours(), _control(row)
        failures += ours or (CI and not ran)
        table.add_row(row.id, row.title, said, "[red]LEAKS[/]" if ours else "holds")
    Console(width=120).print(table)
    return 1 if failures else 0


def _control(row: Hazard) -> tuple[str, bool]:
    """What the bare framework did, and whether it could be run here."""
    try:
        return ("leaks" if row.bare() else "[yellow]no longer leaks: look at this row again[/]"), True
    except NotRun as reason:
        return f"[yellow]not run: {reason}[/]", False


if __name__ == "__main__":
    sys.exit(main())
