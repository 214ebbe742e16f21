"""The values in force for one tenant, as `tenancy.explain` shows them."""

from __future__ import annotations

from typing import NamedTuple

from tenant_middleware.policy import Explained
from tenant_middleware.tables import html_table


class Explanation(NamedTuple):
    """Every resolved value of a tenant with the rule that decided it; prints as a table."""

    rows: tuple[Explained, ...]

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        return "\n".join(f"{row.name:<{width}}  {row.value}  [{row.rule}]" for row in self.rows)

    def _repr_html_(self) -> str:
        return html_table(("", "value", "rule"), self.rows)
