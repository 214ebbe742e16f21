"""A pytest plugin in which no guardrail guards: isolation has to hold all the same.

`python -m pytest -p tests.open_guard ...`. Tests of the guardrails themselves carry the mark `guardrail` and are left
out; everything else runs with an input guard that allows everything and a canary guard that sees nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tenant_middleware.assurance.audit import audit
from tenant_middleware.guardrails import CanaryGuard, InputGuard, Verdict

ALLOW = Verdict("allow")


class _Nothing(CanaryGuard):
    def sightings(self, text: str, tenant: Any = None) -> list[Any]:
        return []


def _check(guard: InputGuard, segments: Any, tenant: Any) -> Verdict:
    return ALLOW


async def _acheck(guard: InputGuard, segments: Any, tenant: Any) -> Verdict:
    return ALLOW


def pytest_configure(config: pytest.Config) -> None:
    InputGuard.check = _check  # type: ignore[method-assign]
    InputGuard.acheck = _acheck  # type: ignore[method-assign]
    CanaryGuard.sightings = _Nothing.sightings  # type: ignore[method-assign]
    # The probes of a guard are tests of a guardrail too.
    defaults = audit.__kwdefaults__
    defaults["probes"] = tuple(probe for probe in defaults["probes"] if not probe.id.startswith("guard."))


def pytest_report_header() -> str:
    return "guardrails: replaced by ones that allow everything"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept: Sequence[pytest.Item] = [item for item in items if item.get_closest_marker("guardrail") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept
