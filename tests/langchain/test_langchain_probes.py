"""The audit's probes of LangChain's surfaces hold on a healthy system, and each finds a seeded defect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from tenant_middleware.assurance.audit import audit
from tenant_middleware.langchain import probes
from tests.assurance.deployments import DEPLOYMENTS, DIMENSION, in_memory

DEFECTS: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "langchain.thread": lambda patch: patch.setattr(probes, "TenantCheckpointSaver", lambda inner: InMemorySaver()),
    "langchain.store": lambda patch: patch.setattr(probes, "TenantStore", lambda inner: inner),
    "langchain.tool": lambda patch: patch.setattr(probes, "tenant_tool", _unchecked),
    "langchain.retriever": lambda patch: (
        patch.setattr("tenant_middleware.isolation.place.under_tenant", lambda place, where: where),
        patch.setattr("tenant_middleware.isolation.place.verify", lambda place, rows: None),
    ),
}


def _unchecked(fn: Callable[[], Any], owner: str) -> Any:
    class Tool:
        def invoke(self, values: Any) -> Any:
            return fn()

    return Tool()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_healthy(name: str, tmp_path: Path) -> None:
    with DEPLOYMENTS[name](tmp_path) as tenancy:
        report = audit(tenancy, probes=probes.PROBES, dimension=DIMENSION, pause=0)
    assert report.exit_code == 0 and {finding.outcome for finding in report.findings} == {"held"}, report.findings


@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.id)
def test_a_seeded_defect_is_found(probe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DEFECTS[probe.id](monkeypatch)
    with in_memory(tmp_path, "filter") as tenancy:
        report = audit(tenancy, probes=[probe], dimension=DIMENSION, pause=0)
    assert [finding.probe for finding in report.leaks] == [probe.id], report.findings
