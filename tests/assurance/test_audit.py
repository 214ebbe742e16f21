"""The audit finds one seeded defect per probe, keeps silent on a healthy system, and leaves nothing behind."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from langgraph.checkpoint.redis import RedisSaver
from langgraph.store.redis import RedisStore
from redis import Redis

from tenant_middleware.assurance import reports
from tenant_middleware.assurance.audit import AuditReport, Finding, audit
from tenant_middleware.assurance.probes import CATALOGUE, Probe
from tenant_middleware.assurance.schedule import audit_every
from tenant_middleware.context import scope
from tenant_middleware.errors import AuthenticationError, ConfigurationError, TenantMismatch
from tenant_middleware.isolation.cache import exact_key
from tenant_middleware.isolation.history import Message
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.langchain.probes import PROBES as LANGCHAIN
from tenant_middleware.langchain.probes import probes as langchain_probes
from tenant_middleware.llamaindex.probes import PROBES as LLAMAINDEX
from tenant_middleware.local import local_redis
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tests.assurance.defects import ADAPTER_DEFECTS, DEFECTS
from tests.assurance.deployments import DEPLOYMENTS, DIMENSION, in_memory, over_redis, traces

ACME, GLOBEX = Tenant("acme", "pro"), Tenant("globex", "pro")


def run(tenancy: Tenancy, **options: Any) -> AuditReport:
    return audit(tenancy, dimension=DIMENSION, pause=0, **options)


def bad(report: AuditReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.outcome != "held"]


ALL = (*CATALOGUE, *LANGCHAIN, *LLAMAINDEX)


def test_every_probe_has_a_defect_and_ids_are_unique() -> None:
    ids = [probe.id for probe in ALL]
    assert len(set(ids)) == len(ids) and set(ids) == {*DEFECTS, *ADAPTER_DEFECTS}


def _marked(probe: Probe) -> Any:
    of_a_guard = (pytest.mark.guardrail,) if probe.id.startswith("guard.") else ()
    return pytest.param(probe, id=probe.id, marks=of_a_guard)


@pytest.mark.parametrize("probe", [_marked(probe) for probe in ALL])
def test_a_seeded_defect_is_found(probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_memory(tmp_path) as tenancy:
        assert run(tenancy, probes=[probe]).exit_code == 0
        with monkeypatch.context() as patch:
            (DEFECTS | ADAPTER_DEFECTS)[probe.id](patch, tenancy)
            report = run(tenancy, probes=[probe])
        found = {finding.probe for finding in report.leaks}
        assert probe.id in found and report.exit_code == 1, report.findings


@contextmanager
def traffic(tenancy: Tenancy, dice: random.Random) -> Iterator[list[BaseException]]:
    """Two real tenants at work on the same backends meanwhile, each looking at its own alone."""
    stop, errors = threading.Event(), list[BaseException]()

    def work(tenant: Tenant, seed: int) -> None:
        mine = random.Random(seed)
        try:
            while not stop.is_set():
                vector = [mine.random() + 0.1 for _ in range(DIMENSION)]
                tenancy.vectors.upsert(tenant, [Record(str(mine.randrange(9)), vector, tenant.id)])
                assert {hit.text for hit in tenancy.vectors.query(tenant, vector, 20)} <= {tenant.id}
                tenancy.history.append(tenant, "support", [Message("user", tenant.id)])
                assert {m.content for m in tenancy.history.read(tenant, "support", last=5)} == {tenant.id}
                key = exact_key(tenant, tenancy.exact_cache.rules_for(tenant), {"q": mine.randrange(9)})
                tenancy.exact_cache.store(tenant, key, tenant.id)
                assert tenancy.exact_cache.lookup(tenant, key) == tenant.id
        except BaseException as error:  # noqa: BLE001  handed to the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(tenant, dice.random())) for tenant in (ACME, GLOBEX)]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def silent_under_load(name: str, folder: Path, runs: int) -> None:
    dice = random.Random(name)
    with DEPLOYMENTS[name](folder) as tenancy, traffic(tenancy, dice) as errors:
        for _ in range(runs):
            report = run(tenancy, seed=dice.getrandbits(32))
            assert not bad(report), report.findings
    assert not errors, errors


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_healthy_system_is_silent_under_load(name: str, tmp_path: Path) -> None:
    silent_under_load(name, tmp_path, 10)


@pytest.mark.long
@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_healthy_system_is_silent_fifty_times(name: str, tmp_path: Path) -> None:
    silent_under_load(name, tmp_path, 50)


@pytest.mark.parametrize("isolation", ["namespace", "filter", "silo"])
def test_it_leaves_nothing_even_when_interrupted(isolation: str, tmp_path: Path) -> None:
    def interrupt(stage: Any, who: Tenant) -> object:
        raise KeyboardInterrupt

    with local_redis() as url, over_redis(url, tmp_path, isolation) as tenancy, Redis.from_url(url) as client:
        tenancy.vectors.upsert(ACME, [Record("1", [1.0] * DIMENSION, "acme's")])
        assert not bad(run(tenancy))

        assert not traces(client)
        broken = (*CATALOGUE[:20], Probe("zz", "interrupted", interrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tenancy, probes=broken)
        assert not traces(client) and not tenancy.standings.guests()
        assert tenancy.vectors.count(ACME) == 1


def test_a_saver_and_a_store_of_the_application_are_tried_and_left_clean(tmp_path: Path) -> None:
    """Real ones, on the Redis that the tenants share."""
    with local_redis() as url, over_redis(url, tmp_path) as tenancy, Redis.from_url(url) as client:
        with RedisSaver.from_conn_string(url) as saver, RedisStore.from_conn_string(url) as store:
            saver.setup()
            store.setup()
            report = run(tenancy, probes=langchain_probes(saver, store))
            assert not bad(report) and not traces(client)


def test_guests_are_unknown_afterwards_and_never_authenticate(tmp_path: Path) -> None:
    seen: list[Tenant] = []

    def note(stage: Any, who: Tenant) -> object:
        seen.append(who)
        assert stage.tenancy.policy.admits(who)
        with pytest.raises(AuthenticationError):
            stage.tenancy.policy.admit(who.id, who.tier)
        return stage.code if who == stage.owner or stage.lost else None

    with in_memory(tmp_path) as tenancy:
        report = run(tenancy, probes=[Probe("x", "note", note)])
        assert report.exit_code == 0 and len(set(seen)) == 2
        assert not any(tenancy.policy.admits(guest) for guest in seen)
        run(tenancy, only=["documents"])
        assert tenancy.observations is not None
        assert not {row.tenant_id for row in tenancy.observations.read() if row.tenant_id.startswith("tm-audit")}


def test_a_control_that_fails_is_exit_code_2(tmp_path: Path) -> None:
    cases: dict[str, Callable[[Any, Tenant], object]] = {
        "nobody finds it": lambda stage, who: None,
        "it could never leak": lambda stage, who: stage.code if who == stage.owner else None,
    }
    with in_memory(tmp_path) as tenancy:
        for name, attack in cases.items():
            report = run(tenancy, probes=[Probe(name, name, attack)])
            assert report.exit_code == 2 and "control" in report.findings[0].detail
        skipped = run(tenancy, probes=[Probe("x", "x", cases["nobody finds it"], needs=lambda stage: "not here")])
        assert skipped.exit_code == 2 and skipped.findings[0].outcome == "skipped"
        with pytest.raises(ConfigurationError):
            run(tenancy, only=["no such probe"])
        with scope(ACME), pytest.raises(TenantMismatch):
            run(tenancy)


def test_reports_tell_the_same(tmp_path: Path) -> None:
    findings = (
        Finding("a", "tries <a>", "held"),
        Finding("b", "b", "LEAK", "at <answer>"),
        Finding("c", "c", "CONTROL FAILED", "why"),
        Finding("d", "d", "skipped", "why not"),
    )
    report = AuditReport(7, 0.0, findings)
    assert report.exit_code == 1
    assert reports.as_json(report)["findings"][1]["detail"] == "at <answer>"
    suite = ElementTree.fromstring(reports.as_junit(report))
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    page = reports.as_html(report)
    assert "at &lt;answer&gt;" in page and "<a>" not in page and "Something LEAKED" in page


def test_it_runs_on_a_schedule(tmp_path: Path) -> None:
    seen: list[AuditReport] = []
    twice = threading.Event()

    def wait(seconds: float) -> bool:
        assert seconds == 3600
        if len(seen) == 2:
            twice.set()
        return len(seen) >= 2

    with in_memory(tmp_path) as tenancy:
        with audit_every(tenancy, 3600, only=["memory.session"], on_report=seen.append, wait=wait):
            assert twice.wait(30)
        assert [report.exit_code for report in seen] == [0, 0]
