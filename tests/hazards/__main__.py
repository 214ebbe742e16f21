"""`python -m tests.hazards`: the table; exit code 1 when something leaks with us."""

from __future__ import annotations

import os
import sys

# Read when LangChain is imported; nothing here reports home.
os.environ.update(LANGSMITH_TRACING="false", LITELLM_LOCAL_MODEL_COST_MAP="True")

from rich.console import Console
from rich.table import Table

from tests.hazards.scoreboard import rows


def main() -> int:
    table, leaks = Table("#", "hazard", "bare framework", "with us", title="Hazards"), 0
    for row in rows():
        bare, ours = row.bare(), row.ours()
        leaks += ours
        said = "leaks" if bare else "[yellow]no longer leaks: look at this row again[/]"
        table.add_row(row.id, row.title, said, "[red]LEAKS[/]" if ours else "holds")
    Console(width=120).print(table)
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
