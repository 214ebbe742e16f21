"""The fixture `tenant_audit`: your own chain under attack by four tenants, with a positive and a mutation control.

pytest loads this in every project that has the package installed, so it imports nothing else until the fixture is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tenant_middleware.assurance.chain import ChainReport
    from tenant_middleware.tenant import Tenant

SEED = "TENANT_AUDIT_SEED"


class TenantAudit:
    """What the fixture gives: call it with `ingest` and `ask` of your chain; it fails the test with the leak's path.

    Each is a function of one text (plain, coroutine or generator), an object with `invoke`, `query`, `chat` or
    `retrieve`, a LangGraph graph over messages, or a URL that takes {"text": ...}, for which `tokens` maps the ids in
    `tenants` to tokens. `seed` repeats a schedule; `tier` names the tier whose terms the audit's tenants get.
    """

    def __init__(self) -> None:
        self.report: ChainReport | None = None
        self.called = False

    def __call__(
        self,
        *,
        ingest: Any,
        ask: Any,
        tenants: Sequence[Tenant] | None = None,
        tokens: Mapping[str, str] | None = None,
        tier: str | None = None,
        seed: int | None = None,
    ) -> ChainReport:
        __tracebackhide__ = True
        self.called = True
        from tenant_middleware.assurance.hosted import audit_chain

        if seed is None:
            seed = int(os.environ.get(SEED) or int.from_bytes(os.urandom(4), "big"))
        self.report = audit_chain(ingest, ask, tenants=tenants, tokens=tokens, tier=tier, seed=seed)
        if not self.report.passed:
            pytest.fail(f"{self.report}\nrepeat with {SEED}={self.report.seed}", pytrace=False)
        return self.report


@pytest.fixture
def tenant_audit() -> Iterator[TenantAudit]:
    """Fails unless each tenant finds its own canaries through your chain, and nobody another's."""
    audit = TenantAudit()
    yield audit
    if not audit.called:
        pytest.fail("tenant_audit was never called: tenant_audit(ingest=..., ask=...)", pytrace=False)
