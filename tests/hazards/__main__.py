"""`python -m tests.hazards`: the table, and its page in docs; 1 when something leaks with us or a row is missing.

In CI also when a control can't run. `--no-page` leaves the documentation as it is.
"""

from __future__ import annotations

import os
import sys

# Read when LangChain is imported; nothing here reports home.
os.environ.update(LANGSMITH_TRACING="false", LITELLM_LOCAL_MODEL_COST_MAP="True")

import litellm
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.hazards.page import PAGE, Result, complete, text
from tests.hazards.scoreboard import Hazard, NotRun, rows

litellm.suppress_debug_info = True  # it prints a list of providers for a model that it doesn't know
CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
_LEAKS = "leaks"


def main() -> int:
    console, table = Console(width=120), Table("#", "hazard", "bare framework", "with us", title="Hazards")
    results, failures = list[Result](), 0
    for row in rows():
        leaks, (said, ran) = row.ours(), _control(row)
        failures += leaks or (CI and not ran)
        results.append(Result(row.id, row.title, said, leaks))
        shown = said if said == _LEAKS else f"[yellow]{escape(said)}[/]"
        table.add_row(row.id, escape(row.title), shown, "[red]LEAKS[/]" if leaks else "holds")
    console.print(table)
    missing = complete(result.id for result in results)
    if missing:
        console.print(f"[red]missing, doubled or unknown: {', '.join(missing)}[/]")
    if "--no-page" not in sys.argv:
        PAGE.write_text(text(results), encoding="utf-8")
    return 1 if failures or missing else 0


def _control(row: Hazard) -> tuple[str, bool]:
    """What the bare framework did, and whether it could be run here."""
    try:
        return (_LEAKS if row.bare() else "no longer leaks: look at this row again"), True
    except NotRun as reason:
        return f"not run: {reason}", False


if __name__ == "__main__":
    sys.exit(main())
