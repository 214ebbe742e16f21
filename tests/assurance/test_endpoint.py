"""The audit of a service from outside, over real HTTP: leaks are found, silence needs both controls, canaries go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from tenant_middleware.assurance.audit import AuditReport
from tenant_middleware.assurance.endpoint import audit_endpoint
from tenant_middleware.cli import app
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.tenant import Tenant
from tests.assurance.test_chain_audit import Chain, served, tight

TOKENS = {"Bearer a": Tenant("acme", "pro"), "Bearer b": Tenant("globex", "pro")}


def audited(chain: Chain, *, delete: bool = True) -> AuditReport:
    with served(chain, TOKENS) as url:
        where = f"{url}/delete" if delete else None
        return audit_endpoint(f"{url}/ingest", f"{url}/ask", "a", "b", delete=where, seed=5)


def outcomes(report: AuditReport, part: str) -> list[str]:
    return [finding.outcome for finding in report.findings if finding.probe.startswith(f"endpoint.{part}")]


def test_a_tight_service_holds_and_keeps_no_canary() -> None:
    chain = tight()
    report = audited(chain)
    assert report.exit_code == 0 and {finding.outcome for finding in report.findings} == {"held"}, report.findings
    for part, many in (("own", 2), ("foreign", 2), ("anonymous", 1), ("mutation", 2), ("removed", 4)):
        assert outcomes(report, part) == ["held"] * many
    assert set(map(len, chain.shelves.values())) == {0}


def test_a_service_that_leaks_is_found_with_the_path() -> None:
    report = audited(Chain(lambda tenant: ""))
    assert report.exit_code == 1 and outcomes(report, "foreign") == ["LEAK", "LEAK"]
    assert "came out to A at answer" in " ".join(finding.detail for finding in report.leaks)


def test_what_cant_be_deleted_is_named() -> None:
    chain = tight()
    report = audited(chain, delete=False)
    assert report.exit_code == 0 and outcomes(report, "removed") == ["skipped"] * 4
    kept = " ".join(text for shelf in chain.shelves.values() for text in shelf)
    named = [finding.detail.split()[5] for finding in report.findings if finding.outcome == "skipped"]
    assert all(code in kept for code in named) and len(set(named)) == 2


class ShowsTheFirst(Chain):
    """Answers with one text alone, whatever the question: what leaked behind it would stay unseen."""

    def ask(self, question: str) -> list[str]:
        return self.shelves.get(self.key(current_tenant()), [])[:1]


class Busy(Chain):
    """Finds its own and says 'come again' to the rest."""

    def ask(self, question: str) -> list[str]:
        found = super().ask(question)
        if not any(question.split()[-2] in text for text in found):
            raise StoreUnavailable("too busy", store="chain")
        return found


class KeepsAll(Chain):
    def delete(self, text: str) -> None: ...


@pytest.mark.parametrize(("make", "part"), [(ShowsTheFirst, "mutation"), (Busy, "foreign"), (KeepsAll, "removed")])
def test_silence_that_proves_nothing_is_exit_code_2(
    make: Callable[[Callable[[Tenant], str]], Chain], part: str
) -> None:
    report = audited(make(lambda tenant: tenant.id))
    assert report.exit_code == 2 and "CONTROL FAILED" in outcomes(report, part), report.findings


@contextmanager
def interrupted_at(chain: Chain, calls: int) -> Iterator[None]:
    from tenant_middleware.assurance import endpoint

    send, sent = endpoint.send, list[str]()

    def counted(url: str, text: str, token: str) -> str:
        sent.append(url)
        if len(sent) == calls:
            raise KeyboardInterrupt
        return send(url, text, token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "send", counted)
        yield


def test_an_interruption_leaves_no_canary() -> None:
    chain = tight()
    with interrupted_at(chain, 5), pytest.raises(KeyboardInterrupt):
        audited(chain)
    assert set(map(len, chain.shelves.values())) == {0}


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANT_AUDIT_TOKEN_A", "a")
    monkeypatch.setenv("TENANT_AUDIT_TOKEN_B", "b")
    with served(tight(), TOKENS) as url:
        places = ["--url", f"{url}/ask", "--ingest-url", f"{url}/ingest", "--delete-url", f"{url}/delete"]
        done = CliRunner().invoke(app, ["audit", *places, "--json"])
        assert done.exit_code == 0 and json.loads(done.output)["leaks"] == 0
        monkeypatch.setenv("TENANT_AUDIT_TOKEN_B", "a")
        assert CliRunner().invoke(app, ["audit", *places]).exit_code == 2
