"""A tenant's way out: refused everywhere, exported and read back, erased with a receipt, whatever is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tenant_middleware.admission.call import Call
from tenant_middleware.context import scope
from tenant_middleware.errors import (
    ConfigurationError,
    InvalidInput,
    StoreUnavailable,
    TenancyError,
    TenantMismatch,
    TenantSuspended,
)
from tenant_middleware.isolation.cache import exact_key, question
from tenant_middleware.isolation.history import Message
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.lifecycle import Receipt, erase, export_tenant, import_tenant, resume, suspend
from tenant_middleware.lifecycle.receipt import verify
from tenant_middleware.local import local_redis
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tests.assurance.deployments import DEPLOYMENTS, DIMENSION, in_memory, over_redis, policy, traces

ACME, GLOBEX = Tenant("acme", "pro", "ann"), Tenant("globex", "pro", "bob")
VECTOR = [1.0] * DIMENSION
CONTENT = ("vectors", "history", "cache", "exact_cache", "provider_ids", "ledger")


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with local_redis() as url:
        yield url


@contextmanager
def on_clean_redis(url: str, folder: Path, **more: Any) -> Iterator[Tenancy]:
    with Redis.from_url(url) as client:
        for index in client.execute_command("FT._LIST"):
            client.execute_command("FT.DROPINDEX", index, "DD")
        client.flushall()
    with over_redis(url, folder, **more) as tenancy:
        yield tenancy


def fill(tenancy: Tenancy, tenant: Tenant, count: int = 30) -> None:
    """Something of everything, with the same ids for every tenant."""
    records = [Record(f"doc-{i}", [1.0, i / 9, *VECTOR[2:]], f"{tenant.id} says {i}", {"n": i}) for i in range(count)]
    tenancy.vectors.upsert(tenant, records)
    tenancy.history.append(tenant, "support", [Message("user", f"I am of {tenant.id}"), Message("assistant", "ü\n")])
    rules = tenancy.cache.rules_for(tenant)
    asked = question(tenant, rules, "What is the price?", VECTOR)
    tenancy.cache.store(tenant, asked, f"answer of {tenant.id}", version=tenancy.cache.lookup(tenant, asked).version)
    tenancy.exact_cache.store(tenant, exact_key(tenant, rules, {"q": 1}), f"exact of {tenant.id}")
    with scope(tenant), tenancy.gate.call(tenancy.gate.new_call("openai/local")) as hold:
        hold.report(Usage(3, 4))
    tenancy.drain()


def view(tenancy: Tenancy, tenant: Tenant) -> Any:
    """All that a tenant can see."""
    rules = tenancy.cache.rules_for(tenant)
    return (
        sorted((r.id, r.text, r.metadata["n"]) for r in tenancy.vectors.export(tenant)),
        tenancy.history.read(tenant, "support"),
        tenancy.exact_cache.lookup(tenant, exact_key(tenant, rules, {"q": 1})),
        tenancy.cache.lookup(tenant, question(tenant, rules, "What is the price?", VECTOR)).answer,
        tenancy.ledger.totals(by="tenant")[tenant.id],
    )


def ways_in(tenancy: Tenancy, tenant: Tenant) -> dict[str, Any]:
    rules_key = "k" * 64
    call, asked = Call(tenant, "openai/local"), question(tenant, tenancy.cache.rules_for(GLOBEX), "x", VECTOR)
    return {
        "identity": lambda: tenancy.policy.admit(tenant.id, tenant.tier),
        "gate": lambda: tenancy.gate.release(tenancy.gate.admit(call)),
        "search": lambda: tenancy.vectors.query(tenant, VECTOR),
        "write": lambda: tenancy.vectors.upsert(tenant, [Record("x", VECTOR)]),
        "memory": lambda: tenancy.history.read(tenant, "support"),
        "remember": lambda: tenancy.history.append(tenant, "support", [Message("user", "x")]),
        "exact": lambda: tenancy.exact_cache.lookup(tenant, rules_key),
        "semantic": lambda: tenancy.cache.lookup(tenant, asked),
        "provider ids": lambda: tenancy.provider_state.ids.owns(tenant, "response", "x"),
    }


def refused(tenancy: Tenancy, tenant: Tenant) -> list[str]:
    """The ways in that refuse."""
    found = []
    for name, way in ways_in(tenancy, tenant).items():
        try:
            way()
        except TenantSuspended:
            found.append(name)
    return found


def test_a_suspended_tenant_is_refused_by_every_way_in_and_served_again(tmp_path: Path) -> None:
    with in_memory(tmp_path) as tenancy:
        fill(tenancy, ACME)
        fill(tenancy, GLOBEX)
        before = view(tenancy, GLOBEX)
        suspend(tenancy, "acme")
        assert refused(tenancy, ACME) == list(ways_in(tenancy, ACME))
        assert view(tenancy, GLOBEX) == before and refused(tenancy, GLOBEX) == []
        resume(tenancy, "acme")
        assert refused(tenancy, ACME) == []


def test_every_worker_refuses_within_its_refresh(redis_url: str, tmp_path: Path) -> None:
    with on_clean_redis(redis_url, tmp_path) as one, over_redis(redis_url, tmp_path) as other:
        fill(one, ACME)
        assert refused(other, ACME) == []
        learnt = threading.Event()
        bar = other.policy.bar

        def noted(ids: frozenset[str]) -> None:
            bar(ids)
            if "acme" in ids:
                learnt.set()

        other._watch._bar = noted
        suspend(one, "acme")
        assert learnt.wait(10) and refused(other, ACME) == list(ways_in(other, ACME))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform doesn't fork")
def test_a_forked_worker_learns_of_it_too(tmp_path: Path) -> None:
    """A server that loads the application before it forks its workers, which have none of its threads."""
    program = f"""
import os, sys, time
from tenant_middleware.lifecycle import suspend
from tenant_middleware.tenancy import Tenancy
tenancy = Tenancy.from_mapping({policy(ledger=f"sqlite:///{tmp_path}/ledger.db")!r})
if child := os.fork():
    suspend(tenancy, "acme")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tenancy.close()
    sys.exit(code)
end = time.monotonic() + 20
while not tenancy.policy.is_barred("acme"):
    if time.monotonic() > end:
        os._exit(3)
    time.sleep(0.05)
os._exit(4 if tenancy.policy.is_barred("globex") else 0)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_call_in_flight_still_settles(tmp_path: Path) -> None:
    with in_memory(tmp_path) as tenancy:
        with scope(ACME), tenancy.gate.call(tenancy.gate.new_call("openai/local")) as hold:
            suspend(tenancy, "acme")
            hold.report(Usage(1, 1))
        assert tenancy.ledger.totals(by="tenant")["acme"].calls == 1


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_erased_everywhere_and_nobody_elses(name: str, tmp_path: Path) -> None:
    with DEPLOYMENTS[name](tmp_path) as tenancy:
        for tenant in (ACME, GLOBEX):
            fill(tenancy, tenant)
        before = view(tenancy, GLOBEX)
        receipt = erase(tenancy, ACME, confirm="acme", wait=lambda s: None)
        fates = {store.store: store.fate for store in receipt.stores}
        assert receipt.complete and fates.pop("ledger") == "HIDDEN" and set(fates.values()) == {"GONE"}, receipt
        assert view(tenancy, GLOBEX) == before
        assert refused(tenancy, ACME) == list(ways_in(tenancy, ACME))
        totals = tenancy.ledger.totals(by="tenant")
        assert "acme" not in totals and sum(total.calls for total in totals.values()) == 2
        assert {row.subject for row in tenancy.ledger.rows() if row.tenant_id != "globex"} == {None}
        for url in {url for _, url in tenancy.settings.backends if url and url.startswith("redis")}:
            with Redis.from_url(url) as client:
                assert traces(client, "globex") and not traces(client, "acme")
        with pytest.raises(ConfigurationError):
            resume(tenancy, "acme")
        again = erase(tenancy, ACME, confirm="acme", wait=lambda s: None)
        assert again.complete and not any(store.erased for store in again.stores if store.store in CONTENT)


def test_the_fair_queue_forgets_too(redis_url: str, tmp_path: Path) -> None:
    """Its keys are named after pools, not tenants, and its figures after tenants."""
    patient = policy()["tiers"]["pro"] | {"queue_timeout": 30}  # a server that just began hands out nothing yet
    pool = {"pools": {"shared": {"models": ["openai/*"], "slots": 4}}}
    with on_clean_redis(redis_url, tmp_path, queue=pool, tiers={"pro": patient}) as tenancy:
        for tenant in (ACME, GLOBEX):
            fill(tenancy, tenant, 3)
        assert _in_the_queue(tenancy) == {"acme", "globex"}
        receipt = erase(tenancy, ACME, confirm="acme", wait=lambda s: None)
        (told,) = [store for store in receipt.stores if store.store == "fair queue"]
        assert (told.fate, told.erased) == ("GONE", 1) and _in_the_queue(tenancy) == {"globex"}
        with Redis.from_url(redis_url) as client:
            assert not traces(client, "acme")


def _in_the_queue(tenancy: Tenancy) -> set[str]:
    return {lane.tenant_id for pool in tenancy.gate.queue.state() for lane in pool.lanes}


def test_the_id_has_to_be_written_once_more(tmp_path: Path) -> None:
    with in_memory(tmp_path) as tenancy:
        fill(tenancy, ACME)
        with pytest.raises(InvalidInput):
            erase(tenancy, ACME, confirm="Acme")
        assert refused(tenancy, ACME) == []


class Own:
    """A store of the application's own."""

    def __init__(self, rows: dict[str, list[str]], sticky: bool = False) -> None:
        self.rows, self.sticky = rows, sticky

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        yield from ({"key": row} for row in self.rows.get(tenant.id, []))

    def erase(self, tenant: Tenant) -> int:
        if self.sticky:
            raise StoreUnavailable("the archive is down", store="archive")
        return len(self.rows.pop(tenant.id, []))

    def leftovers(self, tenant: Tenant) -> Sequence[str]:
        return self.rows.get(tenant.id, [])


def test_a_store_of_ones_own_takes_part_and_what_it_keeps_is_named(tmp_path: Path) -> None:
    with in_memory(tmp_path) as tenancy:
        own = Own({"acme": ["a", "b"], "globex": ["a"]})
        stuck = Own({"acme": ["tape 7"]}, sticky=True)

        class Forgetful(Own):
            def erase(self, tenant: Tenant) -> int:
                return 0

        with pytest.raises(InvalidInput, match="another"):
            erase(tenancy, ACME, confirm="acme", stores={"vectors": own})
        receipt = erase(
            tenancy, ACME, confirm="acme", stores={"own": own, "tape": stuck, "lazy": Forgetful({"acme": ["row 1"]})}
        )
        found = {store.store: store for store in receipt.stores}
        assert (found["own"].fate, found["own"].erased, own.rows) == ("GONE", 2, {"globex": ["a"]})
        assert found["tape"].fate == "UNVERIFIED" and "archive is down" in found["tape"].why
        assert (found["lazy"].fate, found["lazy"].leftovers) == ("UNVERIFIED", ("row 1",))
        assert not receipt.complete and refused(tenancy, ACME)
        stuck.sticky = False
        assert erase(tenancy, ACME, confirm="acme", stores={"tape": stuck}).complete


def test_a_receipt_is_signed(tmp_path: Path) -> None:
    with in_memory(tmp_path) as tenancy:
        receipt = erase(tenancy, ACME, confirm="acme")
        told = json.loads(json.dumps(receipt.as_json()))
        assert isinstance(receipt, Receipt) and receipt.key == "configured" and verify(told, tenancy.secret)
        assert not verify({**told, "tenant_id": "globex"}, tenancy.secret) and not verify(told, b"another key" * 4)
        told["stores"][0]["fate"] = "UNVERIFIED"
        assert not verify(told, tenancy.secret)


def test_without_a_key_that_lasts_a_receipt_says_that_it_is_not_signed() -> None:
    values = policy()
    del values["secrets"]
    with Tenancy.from_mapping(values) as tenancy:
        receipt = erase(tenancy, ACME, confirm="acme")
        assert receipt.complete and (receipt.key, receipt.signature) == ("none", "")
        assert not verify(receipt.as_json(), tenancy.secret)


def test_reservations_are_waited_for(tmp_path: Path) -> None:
    waits: list[float] = []
    with in_memory(tmp_path) as tenancy:
        hold = tenancy.gate.admit(Call(ACME, "openai/local"))

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                tenancy.gate.settle(hold, Usage(1, 1))

        assert erase(tenancy, ACME, confirm="acme", wait=wait).complete
        assert len(waits) == 3 and "acme" not in tenancy.ledger.totals(by="tenant")
        tenancy.standings.put("acme", tenancy.standings.get("globex") or _active())
        tenancy.refresh_standing()
        tenancy.gate.admit(Call(ACME, "openai/local"))
        with pytest.raises(StoreUnavailable):
            erase(tenancy, ACME, confirm="acme", wait=lambda s: None)


def _active() -> Any:
    from tenant_middleware.isolation.standing import Standing

    return Standing("active", 0.0)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_an_export_reads_back_equal(name: str, tmp_path: Path) -> None:
    first, second, after = tmp_path / "1", tmp_path / "2", tmp_path / "after"
    after.mkdir()
    with DEPLOYMENTS[name](tmp_path) as tenancy:
        fill(tenancy, ACME, 600)
        fill(tenancy, GLOBEX, 3)
        manifest = export_tenant(tenancy, ACME, first)
        assert manifest["parts"]["vectors"]["records"] == 600 and manifest["parts"]["ledger"]["records"] == 1
        assert "globex" not in "".join(path.read_text() for path in first.glob("*.jsonl"))
        with pytest.raises(TenantMismatch):
            export_tenant(tenancy, GLOBEX, first)
    with in_memory(after) as tenancy:
        with pytest.raises(TenantMismatch):
            import_tenant(tenancy, GLOBEX, first)
        assert import_tenant(tenancy, ACME, first) == {"vectors": 600, "history": 1}
        export_tenant(tenancy, ACME, second)
    for part in ("vectors", "history"):
        assert sorted(rows(first, part)) == sorted(rows(second, part))


def rows(folder: Path, part: str) -> list[str]:
    found = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text("utf-8").splitlines()]
    return [
        json.dumps({**row, "vector": [round(x, 5) for x in row.get("vector", ())]}, sort_keys=True) for row in found
    ]


def test_a_cut_off_export_goes_on(tmp_path: Path) -> None:
    class Breaks(Own):
        broken = True

        def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
            for number, row in enumerate(super().export(tenant)):
                if number == 3 and self.broken:
                    raise StoreUnavailable("gone", store="own")
                yield row

    own = Breaks({"acme": [f"row {i}" for i in range(9)]})
    with in_memory(tmp_path) as tenancy:
        fill(tenancy, ACME)
        with pytest.raises(StoreUnavailable):
            export_tenant(tenancy, ACME, tmp_path / "out", stores={"own": own})
        assert not (tmp_path / "out" / "manifest.json").exists()
        with (tmp_path / "out" / "own.part").open("a") as part:
            part.write('{"key": "row 4')  # cut off in the middle of a line
        own.broken = False
        manifest = export_tenant(tenancy, ACME, tmp_path / "out", stores={"own": own})
        lines = (tmp_path / "out" / "own.jsonl").read_text().splitlines()
        assert [json.loads(line)["key"] for line in lines] == [f"row {i}" for i in range(9)]
        assert manifest["parts"]["own"]["records"] == 9
        (tmp_path / "out" / "vectors.jsonl").write_text("{}\n")
        with pytest.raises(InvalidInput, match="vectors isn't as it was"):
            import_tenant(tenancy, ACME, tmp_path / "out")
        (tmp_path / "out" / "manifest.json").write_text("[]")
        for folder in ("out", "nowhere"):
            with pytest.raises(InvalidInput, match="no finished export"):
                import_tenant(tenancy, ACME, tmp_path / folder)


def test_an_import_reads_no_file_outside_its_folder(tmp_path: Path) -> None:
    """A manifest that was changed names the part of another tenant's export, whose digest somebody knows."""
    with in_memory(tmp_path) as tenancy:
        for tenant, folder in ((ACME, "acme"), (GLOBEX, "globex")):
            fill(tenancy, tenant)
            export_tenant(tenancy, tenant, tmp_path / folder)
        manifest, theirs = ((tmp_path / name / "manifest.json") for name in ("acme", "globex"))
        changed, other = json.loads(manifest.read_text()), json.loads(theirs.read_text())
        changed["parts"]["history"] = {**other["parts"]["history"], "file": "../globex/history.jsonl"}
        manifest.write_text(json.dumps(changed))
        before = [tenancy.history.read(ACME, session) for session in tenancy.history.sessions(ACME)]
        with pytest.raises(InvalidInput, match="history isn't as it was"):
            import_tenant(tenancy, ACME, tmp_path / "acme")
        assert [tenancy.history.read(ACME, session) for session in tenancy.history.sessions(ACME)] == before
        (tmp_path / "acme" / "history.jsonl").write_bytes((tmp_path / "globex" / "history.jsonl").read_bytes())
        changed["parts"]["history"]["file"] = "history.jsonl"
        manifest.write_text(json.dumps(changed))
        assert import_tenant(tenancy, ACME, tmp_path / "acme")["history"] == 1, "the control: the digest is right"


def test_an_export_and_an_erasure_exclude_each_other(tmp_path: Path) -> None:
    with in_memory(tmp_path) as tenancy:
        fill(tenancy, ACME)

        class Meanwhile(Own):
            def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
                with pytest.raises(ConfigurationError, match="export of this tenant is running"):
                    erase(tenancy, ACME, confirm="acme")
                assert refused(tenancy, GLOBEX) == []
                yield {"key": "x"}

        export_tenant(tenancy, ACME, tmp_path / "one", stores={"own": Meanwhile({})})
        assert refused(tenancy, ACME) == [] and tenancy.vectors.count(ACME) == 31
        assert erase(tenancy, ACME, confirm="acme").complete
        with pytest.raises(ConfigurationError):
            export_tenant(tenancy, ACME, tmp_path / "two")


def test_a_suspended_tenant_can_be_exported(tmp_path: Path) -> None:
    with in_memory(tmp_path) as tenancy:
        fill(tenancy, ACME)
        suspend(tenancy, "acme")
        assert export_tenant(tenancy, ACME, tmp_path / "out")["parts"]["vectors"]["records"] == 30
        with pytest.raises(TenancyError):
            tenancy.vectors.count(ACME)
