"""What the demo saw, and the one JSON object of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tenant_middleware.assurance.audit import Finding
from tenant_middleware.clock import utc
from tenant_middleware.demo.chain import Answer
from tenant_middleware.errors import Refusal
from tenant_middleware.metering.ledger import LedgerRow


@dataclass(slots=True)
class Report:
    """Everything the demo saw, in the order it happened."""

    tiers: dict[str, str]
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    refused: list[tuple[str, Refusal]] = field(default_factory=list)
    blocked: list[tuple[str, Refusal]] = field(default_factory=list)
    flood: dict[str, Any] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    rows: Sequence[LedgerRow] = ()

    @property
    def isolated(self) -> bool:
        """Whether each probe found its canary as the owner, not as anybody else, and again with the guard off."""
        outcomes = {one.outcome for one in self.findings}
        return "held" in outcomes and outcomes <= {"held", "skipped"}

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints. `blocked` is apart from `refusals`: no waiting makes a blocked text good."""
        return {
            "tenants": [
                {"id": name, "tier": tier, "answers": [_answer(one) for one in self.answers.get(name, [])]}
                for name, tier in self.tiers.items()
            ],
            "refusals": [_refusal(name, refusal) for name, refusal in self.refused],
            "blocked": [{"tenant": name, "kind": one.code, "rule": one.rule} for name, one in self.blocked],
            "flood": self.flood,
            "ledger": _ledger(self.rows),
            "isolation": [_finding(one) for one in self.findings if one.outcome != "skipped"],
        }


def _finding(one: Finding) -> dict[str, Any]:
    """What three runs of a probe saw; the last is None when an earlier one had already failed."""
    held, leaked = one.outcome == "held", one.outcome == "LEAK"
    owner_found = held or leaked or one.detail.startswith("mutation")
    return {
        "probe": one.probe,
        "tries": one.tries,
        "outcome": one.outcome,
        "owner_found": owner_found,
        "foreign_found": leaked,
        "leaked_with_guard_off": None if leaked or not owner_found else held,
    }


def _answer(one: Answer) -> dict[str, Any]:
    cache = "hit" if one.hit else "miss"
    return {"question": one.question, "answer": one.text, "sources": one.sources, "cache": cache}


def _refusal(tenant_id: str, refusal: Refusal) -> dict[str, Any]:
    entry: dict[str, Any] = {"tenant": tenant_id, "kind": refusal.code, "rule": refusal.rule}
    if refusal.resets_at is not None:
        entry["resets_at"] = refusal.resets_at.isoformat()
    return entry | {"retry_after": refusal.retry_after}


def _ledger(rows: Sequence[LedgerRow]) -> dict[str, Any]:
    by_tenant: dict[str, Decimal] = {}
    for row in rows:
        by_tenant[row.tenant_id] = by_tenant.get(row.tenant_id, Decimal(0)) + row.cost_usd
    return {
        "total_usd": exact(sum((row.cost_usd for row in rows), Decimal(0))),
        "by_tenant": {name: exact(cost) for name, cost in sorted(by_tenant.items())},
        "calls": [_call(row) for row in rows],
    }


def _call(row: LedgerRow) -> dict[str, Any]:
    return {
        "tenant": row.tenant_id,
        "call_id": row.call_id,
        "at": utc(row.at).isoformat(),
        "model": row.model,
        "kind": str(row.kind),
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "status": row.status,
        "cost_usd": exact(row.cost_usd),
    }


def exact(usd: Decimal) -> str:
    """Dollars with all nine decimals: the ledger's own resolution."""
    return f"{usd:.9f}"
