"""Whatever three tenants do, in whatever order, with faults and cancellations between: nobody reads a foreign byte.

Every backend of a deployment is one system under test: a Redis with one shared index, Pinecone with one shared
namespace, and the same in memory. Each text carries its owner's mark; every text that any read returns is looked at.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from redis import Redis

from tenant_middleware.assurance.callables import Loop
from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.context import scope
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.isolation.cache import Question, exact_key, question
from tenant_middleware.isolation.history import Message
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.local import local_redis
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tests.assurance.deployments import DIMENSION, policy
from tests.pinecone_server.app import PineconeServer

TENANTS = tuple(Tenant(name, "pro", "user") for name in ("Acme", "acme", "acme2"))
NAMES = ("a", "b", "a:b", "acme", "acme:a", "*", "")
STEPS = 100
MOST_LOST = 10  # replies of Pinecone's: its SDK waits in real time before it asks again
_MARK = re.compile(r"<(\w+)>")

who = st.sampled_from(TENANTS)
names = st.sampled_from(NAMES[:-1])
turns = st.sampled_from((0.0, 0.1, 0.9))
systems = st.sampled_from(("memory", "redis", "pinecone"))


class Deployment:
    """The systems under test, what was counted, and ways to hurt the servers."""

    def __init__(self, tenancies: dict[str, Tenancy], redis: Redis, pinecone: PineconeServer, loop: Loop) -> None:
        self.tenancies, self.redis, self.pinecone, self.loop = tenancies, redis, pinecone, loop
        self.operations = self.cancelled = self.leaks = self.lost = 0
        self.texts, self.faults = Counter[str](), Counter[str]()

    def cut_connections(self) -> None:
        self.faults["redis"] += 1
        self.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def spoil_requests(self, times: int) -> None:
        """The next requests are refused, up to more often than the client tries, or one is carried out unanswered."""
        self.faults["pinecone"] += 1
        self.pinecone.faults.clear()
        self.pinecone.requests.clear()
        if times == 0 and self.lost < MOST_LOST:
            self.lost += 1
            self.pinecone.fail("lost")
        else:
            self.pinecone.fail(503, times + 1, retry_after="0")


class Machine(RuleBasedStateMachine):
    deployment: Deployment

    def read(self, system: str, tenant: Tenant, texts: list[str | None]) -> None:
        """Every text that came back belongs to the reader."""
        for text in texts:
            if text is not None:
                self.deployment.texts[system] += 1
                if _MARK.findall(text) != [tenant.id]:
                    self.deployment.leaks += 1
                    raise AssertionError("a foreign byte was read")

    def do(self, system: str, act: Callable[[Tenancy], Any]) -> Any:
        """One operation; a store that was just hurt may refuse it, with an error of ours."""
        self.deployment.operations += 1
        try:
            return act(self.deployment.tenancies[system])
        except StoreUnavailable:
            assert self.deployment.faults[system]
            return None

    @rule(system=systems, tenant=who, name=names, turned=turns)
    def write(self, system: str, tenant: Tenant, name: str, turned: float) -> None:
        record = Record(name, _vector(turned), _text(tenant, name), {"kind": name, "list": ["x", name]})
        written = self.do(system, lambda t: t.vectors.upsert(tenant, [record]) or True)
        if written:
            found = self.do(system, lambda t: t.vectors.fetch(tenant, [name]))
            assert found is None or [one.text for one in found] == [_text(tenant, name)]

    @rule(system=systems, tenant=who, turned=turns, name=names, filtered=st.booleans())
    def search(self, system: str, tenant: Tenant, turned: float, name: str, filtered: bool) -> None:
        where = {"$or": [{"kind": name}, {"kind": {"$ne": name}}]} if filtered else None
        hits = self.do(system, lambda t: t.vectors.query(tenant, _vector(turned), 50, where))
        self.read(system, tenant, [hit.text for hit in hits or ()])

    @rule(system=systems, tenant=who)
    def enumerate(self, system: str, tenant: Tenant) -> None:
        self.read(system, tenant, [one.text for one in self.do(system, lambda t: list(t.vectors.export(tenant))) or ()])
        for session in self.do(system, lambda t: t.history.sessions(tenant)) or ():
            self.remembered(system, tenant, session)

    @rule(system=systems, tenant=who, name=names)
    def delete(self, system: str, tenant: Tenant, name: str) -> None:
        self.do(system, lambda t: t.vectors.delete(tenant, [name]))

    @rule(system=systems, tenant=who, name=names)
    def delete_where(self, system: str, tenant: Tenant, name: str) -> None:
        self.do(system, lambda t: t.vectors.delete(tenant, where={"kind": name}))

    @rule(system=systems, tenant=who, name=names)
    def remember(self, system: str, tenant: Tenant, name: str) -> None:
        self.do(system, lambda t: t.history.append(tenant, name, [Message("user", _text(tenant, name))]))

    @rule(system=systems, tenant=who, name=names)
    def remembered(self, system: str, tenant: Tenant, name: str) -> None:
        found = self.do(system, lambda t: t.history.read(tenant, name, last=20))
        self.read(system, tenant, [message.content for message in found or ()])

    @rule(system=systems, tenant=who, name=names, to=names)
    def move(self, system: str, tenant: Tenant, name: str, to: str) -> None:
        found = self.do(system, lambda t: t.history.move_oldest(tenant, name, to, 2))
        self.read(system, tenant, [message.content for message in found or ()])

    @rule(system=systems, tenant=who, name=names)
    def clear(self, system: str, tenant: Tenant, name: str) -> None:
        self.do(system, lambda t: t.history.clear(tenant, name))

    @rule(system=systems, tenant=who, other=who, name=names, store=st.booleans())
    def exact(self, system: str, tenant: Tenant, other: Tenant, name: str, store: bool) -> None:
        """With one's own key, or with one that somebody else's would be."""

        def act(t: Tenancy) -> str | None:
            rules = t.exact_cache.rules_for(tenant)
            if store:
                t.exact_cache.store(tenant, exact_key(tenant, rules, {"q": name}), _text(tenant, name))
            return t.exact_cache.lookup(tenant, exact_key(other, rules, {"q": name}))

        self.read(system, tenant, [self.do(system, act)])

    @rule(system=systems, tenant=who, turned=turns, store=st.booleans())
    def semantic(self, system: str, tenant: Tenant, turned: float, store: bool) -> None:
        def act(t: Tenancy) -> str | None:
            asked = _question(t, tenant, turned)
            found = t.cache.lookup(tenant, asked)
            if store:
                t.cache.store(tenant, asked, _text(tenant, "answer"), version=found.version)
            return found.answer

        self.read(system, tenant, [self.do(system, act)])

    @rule(system=systems, tenant=who)
    def call(self, system: str, tenant: Tenant) -> None:
        def act(t: Tenancy) -> None:
            with scope(tenant), t.gate.call(t.gate.new_call("openai/local")) as hold:
                hold.report(Usage(1, 1))

        self.do(system, act)

    @rule(system=systems, tenant=who, other=who, name=names, point=st.integers(0, 12))
    def cancel(self, system: str, tenant: Tenant, other: Tenant, name: str, point: int) -> None:
        """A call is cancelled on its way, and somebody else reads on the same connections."""
        tenancy = self.deployment.tenancies[system]

        async def act() -> list[Message]:
            begun = asyncio.ensure_future(tenancy.history.aread(tenant, name))
            searching = asyncio.ensure_future(tenancy.vectors.aquery(tenant, _vector(0.0)))
            for _ in range(point):
                await asyncio.sleep(0)
            begun.cancel()
            searching.cancel()
            found = await tenancy.history.aread(other, name, last=20)
            hits = await tenancy.vectors.aquery(other, _vector(0.1), 50)
            await asyncio.gather(begun, searching, return_exceptions=True)
            return [*found, *(Message("user", hit.text) for hit in hits)]

        self.deployment.cancelled += 1
        found = self.do(system, lambda t: self.deployment.loop.run(act()))
        self.read(system, other, [message.content for message in found or ()])

    @rule(often=st.integers(0, 7), times=st.integers(0, 9))
    def hurt(self, often: int, times: int) -> None:
        if often == 0:
            self.deployment.cut_connections()
        elif often == 1:
            self.deployment.spoil_requests(times)


def _vector(turned: float) -> list[float]:
    return [1.0] * (DIMENSION - 1) + [1.0 - turned]


def _text(tenant: Tenant, name: str) -> str:
    return f"<{tenant.id}> wrote {name}"


def _question(tenancy: Tenancy, tenant: Tenant, turned: float) -> Question:
    return question(tenant, tenancy.cache.rules_for(tenant), "What is the price?", _vector(turned))


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    tenants = {tenant.id: {"tier": "pro"} for tenant in TENANTS}
    with local_redis() as url, Redis.from_url(url) as client, PineconeServer() as server:
        loop, opened = Loop(), dict[str, Tenancy]()
        redis = dict.fromkeys(("admission", "history", "cache", "vectors"), url)
        for name, backends in (("memory", {}), ("redis", redis), ("pinecone", {})):
            (tmp_path / name).mkdir()
            values = policy("filter", **backends, ledger=f"sqlite:///{tmp_path / name}/ledger.db")
            opened[name] = Tenancy.from_mapping({**values, "tenants": tenants})
        server.create_index("docs", DIMENSION)
        patient = ManualClock()  # a retry's wait passes at once
        documents = PineconeVectors(
            "docs", api_key="key", controller=server.url, isolation="filter", clock=patient, kinds=("filter",)
        )
        # Behind the tenancy's own, which makes cached answers miss; a pinecone:// URL has no place for a controller.
        opened["pinecone"].vectors.inner = documents  # type: ignore[attr-defined]  # VersionedVectors
        try:
            yield Deployment(opened, client, server, loop)
        finally:
            loop.run(documents.aclose())
            for tenancy in opened.values():
                loop.run(tenancy.aclose())
            loop.close()


def explore(deployment: Deployment, operations: int, **more: Any) -> None:
    Machine.deployment = deployment
    few = settings(
        max_examples=operations // STEPS,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    while deployment.operations < operations:
        run_state_machine_as_test(Machine, settings=few)
    assert deployment.texts.total() > operations // 4 and deployment.cancelled
    assert min(deployment.texts[name] for name in deployment.tenancies) > operations // 50
    assert deployment.faults["redis"] and deployment.faults["pinecone"]


def test_ten_thousand_operations(deployment: Deployment) -> None:
    explore(deployment, 10_000)


@pytest.mark.long
def test_a_million_operations(deployment: Deployment) -> None:
    explore(deployment, 1_000_000)


def test_the_machine_sees_a_leak(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the tenant's condition left out of searches, the same machine fails."""
    monkeypatch.setattr("tenant_middleware.isolation.place.under_tenant", lambda place, where: where)
    monkeypatch.setattr("tenant_middleware.isolation.place.verify", lambda place, rows: None)
    # What is stored outlives an example, so a failure is not made smaller, and may be found flaky when tried again.
    # On a busy machine a store may be too slow before anything leaked, which ends a run too.
    for _ in range(5):
        with pytest.raises((AssertionError, Flaky)):
            explore(deployment, 2_000, phases=[Phase.generate])
        if deployment.leaks:
            return
    pytest.fail("nothing leaked")
