"""What the demo tells while it runs; a terminal draws it, `--json` stays silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from tenant_middleware.assurance.audit import Finding
from tenant_middleware.demo.chain import Answer
from tenant_middleware.errors import Refusal
from tenant_middleware.metering.ledger import Totals

Advance = Callable[[], None]


class Show(Protocol):
    """One method per kind of thing that happens; `waiting` is entered around whatever takes time."""

    def chapter(self, title: str, remark: str = "") -> None: ...
    def waiting(self, label: str, steps: int | None = None) -> AbstractContextManager[Advance]: ...
    def told(self, tenant_id: str, text: str) -> None: ...
    def answered(self, tenant_id: str, answer: Answer, remark: str = "") -> None: ...
    def refused(self, tenant_id: str, question: str, refusal: Refusal) -> None: ...
    def usage(self, totals: dict[str, Totals], whole: Totals) -> None: ...
    def findings(self, found: Sequence[Finding]) -> None: ...
