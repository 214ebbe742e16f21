"""The catalogue: every way to another tenant's data that the audit tries, in one order."""

from __future__ import annotations

from tenant_middleware.assurance.probes import caches, calls, documents, memory, tokens
from tenant_middleware.assurance.probes.stage import Probe, Stage

CATALOGUE: tuple[Probe, ...] = (
    *documents.PROBES,
    *memory.PROBES,
    *caches.PROBES,
    *calls.PROBES,
    *tokens.PROBES,
)

__all__ = ["CATALOGUE", "Probe", "Stage"]
