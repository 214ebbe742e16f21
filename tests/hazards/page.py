"""The scoreboard as a page of the documentation: what was run, on which versions, and how each row came out."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "scoreboard.md"
# H14 was no leak: with a plain LiteLLM install a hit of its local cache raises ModuleNotFoundError.
ROWS = tuple(f"H{number}" for number in range(1, 24) if number != 14)
_PACKAGES = ("langchain-core", "langgraph", "llama-index-core", "litellm", "redis")
_HEAD = """# Scoreboard

What today's frameworks do with two tenants, and what the same code does with tenant_middleware. Each row is a program:
one side runs on the bare framework and must still leak, or the row proves nothing; the other side runs with us and must
not. In both, the owner finds its own data by the same way, so that silence isn't mistaken for isolation.

```sh
make hazards
```

runs all of them again and writes this page. A row that leaks with us, or is missing, ends it with an error. A bare
framework that no longer leaks is shown as such and kept: somebody has to look at that row.
"""
_FOOT = """
What this is not: a list of everything that can go wrong. It is what was found by looking, in these versions. Three
controls need older packages and run in an environment of their own, which is made when it is first needed: H16 and H17,
whose packages pin an old Pinecone SDK, and H19, the incident of March 2023, which redis-py has mended since (the same
cancellations don't leak in the version above; a test says so).
"""


class Result(NamedTuple):
    """One row as it came out."""

    id: str
    title: str
    bare: str
    leaks: bool


def complete(found: Iterable[str]) -> list[str]:
    """Which rows are missing, and which are there twice or unknown."""
    ids = list(found)
    return [*sorted(set(ROWS) - set(ids)), *sorted({one for one in ids if ids.count(one) > 1 or one not in ROWS})]


def text(results: Iterable[Result]) -> str:
    """The page."""
    lines = [f"| {r.id} | {r.title} | {r.bare} | {'**LEAKS**' if r.leaks else 'holds'} |" for r in results]
    table = ["| # | Hazard | Bare framework | With us |", "|---|---|---|---|", *lines]
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return "\n".join([_HEAD, *table, f"\nRun with {versions}.", _FOOT])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
