"""Whatever two tenants do under the same ids, each sees what a dictionary of its own would show it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tenant_middleware.isolation.filters import parse, predicate
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.vectors import axis
from tests.vectors.backends import EVERYWHERE, STORES

PAIRS = [("Acme", "acme"), ("acme", "acme2"), ("a.b", "a-b")]
IDS = st.sampled_from(["1", "10", "a/b", "ü", "x" * 600])
DATA = st.fixed_dictionaries({}, optional={"kind": st.sampled_from(["x", "y", "x y"]), "live": st.booleans()})
WHERE = st.sampled_from(
    [{"kind": "x"}, {"kind": {"$ne": "x"}}, {"live": True}, {"$or": [{"kind": "y"}, {"live": {"$exists": False}}]}]
)
WHO = st.integers(0, 1)


def machine(name: str, kind: Isolation) -> type[RuleBasedStateMachine]:
    class TwoTenants(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.running = ExitStack()
            self.vectors: Any = self.running.enter_context(STORES[name]())(kind)
            self.models: list[dict[str, tuple[str, dict[str, Any]]]] = [{}, {}]
            self.written = 0

        @initialize(pair=st.sampled_from(PAIRS))
        def begin(self, pair: tuple[str, str]) -> None:
            self.tenants = [Tenant(each, "free") for each in pair]

        @rule(who=WHO, ids=st.lists(IDS, min_size=1, max_size=4), data=DATA)
        def upsert(self, who: int, ids: list[str], data: dict[str, Any]) -> None:
            records = []
            for record_id in ids:
                self.written += 1
                text = f"{self.tenants[who].id} {self.written}"
                records.append(Record(record_id, axis(self.written), text, data))
                self.models[who][record_id] = (text, data)
            self.vectors.upsert(self.tenants[who], records)

        @rule(who=WHO, ids=st.lists(IDS, max_size=3))
        def delete(self, who: int, ids: list[str]) -> None:
            self.vectors.delete(self.tenants[who], ids)
            for record_id in ids:
                self.models[who].pop(record_id, None)

        @rule(who=WHO, where=WHERE)
        def delete_where(self, who: int, where: dict[str, Any]) -> None:
            self.vectors.delete(self.tenants[who], where=where)
            holds = predicate(parse(where))
            self.models[who] = {key: value for key, value in self.models[who].items() if not holds(value[1])}

        @rule(who=WHO)
        def erase(self, who: int) -> None:
            assert self.vectors.erase(self.tenants[who]) == len(self.models[who])
            self.models[who] = {}

        @rule(who=WHO, where=WHERE, turn=st.integers(0, 5))
        def ask(self, who: int, where: dict[str, Any], turn: int) -> None:
            holds = predicate(parse(where))
            expected = {text for text, data in self.models[who].values() if holds(data)}
            assert {hit.text for hit in self.vectors.query(self.tenants[who], axis(turn), 50, where)} == expected

        @invariant()
        def each_sees_its_own(self) -> None:
            for tenant, model in zip(getattr(self, "tenants", ()), self.models, strict=False):
                assert self.vectors.list_ids(tenant) == sorted(model)
                found = self.vectors.fetch(tenant, sorted(model) or ["1"])
                assert {record.id: (record.text, record.metadata) for record in found} == model
                assert {hit.text for hit in self.vectors.query(tenant, axis(0), 50)} == {
                    text for text, _ in model.values()
                }

        def teardown(self) -> None:
            self.vectors.close()
            self.running.close()

    return TwoTenants


@pytest.mark.parametrize(("name", "kind"), EVERYWHERE, ids=["-".join(each) for each in EVERYWHERE])
def test_two_tenants(name: str, kind: Isolation) -> None:
    examples = 60 if name == "memory" else 6
    profile = settings(
        settings(),
        max_examples=examples,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine(name, kind), settings=profile)
