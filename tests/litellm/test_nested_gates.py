"""Three gates on one call (agent middleware, model wrapper, LiteLLM): one reservation and one row, over either form."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import pytest
from langchain.agents import create_agent
from litellm import Router

from tenant_middleware import Tenancy, Tenant, scope
from tenant_middleware.admission import plan
from tenant_middleware.backends.in_memory.admission import InMemoryAdmission
from tenant_middleware.langchain import TenantAgentMiddleware, TenantChatModel
from tenant_middleware.litellm import TenantCallback, TenantRouter
from tests.litellm.conftest import ACME, GLOBEX
from tests.paths.test_framework_paths import ModelOverLiteLLM


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose reservations were made, in order."""
    made: list[str] = []
    reserve = InMemoryAdmission.reserve

    def counted(store: InMemoryAdmission, ask: Any) -> Any:
        made.append(ask.tenant.id)
        return reserve(store, ask)

    monkeypatch.setattr(InMemoryAdmission, "reserve", counted)
    return made


@pytest.fixture(params=["callback", "router"])
def agent(request: pytest.FixtureRequest, tenancy: Tenancy, deployments: Any) -> Any:
    if request.param == "router":
        router: Router = TenantRouter(tenancy, model_list=deployments("chat"))
    else:
        litellm.callbacks = [TenantCallback(tenancy)]
        router = Router(model_list=deployments("chat"))
    inner = ModelOverLiteLLM(router=router, asked_model="chat")
    model = TenantChatModel(model=inner, model_name="chat", gate=tenancy.gate)
    return create_agent(model, tools=[], middleware=[TenantAgentMiddleware(tenancy)])


async def ask(agent: Any, tenant: Tenant) -> str:
    async with scope(tenant):
        out = await agent.ainvoke({"messages": [("user", f"[prompt=40][output=8] for {tenant.id}")]})
    return str(out["messages"][-1].content)


async def test_nested_gates_make_one_reservation_and_one_row(agent: Any, tenancy: Tenancy, reserved: list[str]) -> None:
    answers = await asyncio.gather(ask(agent, ACME), ask(agent, GLOBEX))
    assert all(answers)
    assert sorted(reserved) == ["acme", "globex"]
    for tenant in (ACME, GLOBEX):
        (row,) = tenancy.ledger.rows(tenant_id=tenant.id)
        assert (row.prompt_tokens, row.completion_tokens, row.source) == (40, 8, "provider")
        assert row.attempts == 1, "three gates, one call of a provider"
        assert tenancy.balance(tenant).in_flight == 0


async def test_without_the_join_each_gate_reserves(
    agent: Any, reserved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation control."""
    monkeypatch.setattr(plan, "joins", lambda call, root: False)
    await ask(agent, ACME)
    assert len(reserved) > 1
