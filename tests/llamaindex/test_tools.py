"""A tool runs for the calling tenant, its rows are checked, and a refusal in it ends the agent's run."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.tools import FunctionTool

from tenant_middleware import ConfigurationError, InvalidInput, IsolationBreach, MissingTenant, Tenancy, Tenant, scope
from tenant_middleware.isolation import tools as checks
from tenant_middleware.llamaindex import (
    StopsOnRefusal,
    TenantAgentWorkflow,
    TenantFunctionAgent,
    TenantLLM,
    TenantReActAgent,
    TenantTool,
    tenant_tool,
)
from tests.llamaindex.conftest import EchoLLM, calls

# LlamaIndex's own: it reads every attribute of an agent, calls what it deprecates, and says that it leaves memory out.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::workflows.context.state_store.UnserializableKeyWarning"),
]

Rows = list[dict[str, str]]
TABLE: Rows = [{"customer": tenant, "text": f"INVOICE-{tenant}"} for tenant in ("acme", "globex", "Acme", "acme2")]


def invoices(tenant: Tenant) -> Rows:
    """Open invoices of the calling customer."""
    return [row for row in TABLE if row["customer"] == tenant.id]


async def ainvoices(tenant: Tenant) -> Rows:
    """Open invoices of the calling customer."""
    return invoices(tenant)


def everybodys() -> Rows:
    """A tool that forgets its filter."""
    return list(TABLE)


def broken() -> Rows:
    """A tool whose service is down."""
    raise ConnectionError("the service is down")


def agent_of(llm: TenantLLM, tool: Any) -> TenantFunctionAgent:
    return TenantFunctionAgent(tools=[tool], llm=llm)


async def ask(agent: Any, tenant: Tenant) -> str:
    async with scope(tenant):
        return str(await agent.run("Which are open?", memory=None))


@pytest.mark.parametrize("fn", [invoices, ainvoices])
async def test_each_tenant_gets_its_own_rows_by_one_agent(
    tenancy: Tenancy, llm: TenantLLM, pair: tuple[Tenant, Tenant], fn: Any
) -> None:
    shared = agent_of(llm, tenant_tool(fn, owner="customer"))
    for mine, other in (pair, pair[::-1]):
        answer = await ask(shared, mine)
        assert f"INVOICE-{mine.id}" in answer
        assert f"'INVOICE-{other.id}'" not in answer
    assert calls(tenancy) == {tenant.id: 2 for tenant in pair}


def _function(llm: TenantLLM, tool: Any) -> Any:
    return agent_of(llm, tool)


def _workflow(llm: TenantLLM, tool: Any) -> Any:
    front = FunctionAgent(tools=[tool], llm=llm, name="front", description="asks")
    return TenantAgentWorkflow(agents=[front], root_agent="front")


@pytest.mark.parametrize("build", [_function, _workflow])
async def test_a_foreign_row_ends_the_run_before_the_model_hears_of_it(
    tenancy: Tenancy, llm: TenantLLM, echo: EchoLLM, acme: Tenant, build: Any
) -> None:
    with pytest.raises(IsolationBreach):
        await ask(build(llm, tenant_tool(everybodys, owner="customer")), acme)
    assert "INVOICE" not in str(echo.asked)
    assert calls(tenancy) == {"acme": 1}, "no second model call"


async def test_a_react_agents_run_ends_as_well(tenancy: Tenancy, acme: Tenant) -> None:
    said = "Thought: I need a tool.\nAction: everybodys\nAction Input: {}"
    llm = TenantLLM(EchoLLM(asked=[], use_tools=False), model_name="openai/local", gate=tenancy.gate)
    react = TenantReActAgent(tools=[tenant_tool(everybodys, owner="customer")], llm=llm)
    with pytest.raises(IsolationBreach):
        async with scope(acme):
            await react.run(said, memory=None)
    assert calls(tenancy) == {"acme": 1}


async def test_without_the_check_the_foreign_rows_reach_the_model(
    llm: TenantLLM, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation control of the tests above."""
    monkeypatch.setattr(checks, "owned_rows", lambda result, owner, tenant: result)
    assert "INVOICE-globex" in await ask(agent_of(llm, tenant_tool(everybodys, owner="customer")), acme)


async def test_a_bare_agent_goes_on_after_a_breach(llm: TenantLLM, acme: Tenant) -> None:
    """The control of the agents that stop: when this fails, LlamaIndex lets refusals through by itself."""
    bare = FunctionAgent(tools=[tenant_tool(everybodys, owner="customer")], llm=llm)
    answer = await ask(bare, acme)
    assert "nothing was returned" in answer
    assert "INVOICE" not in answer


async def test_a_tools_own_error_stays_a_message(llm: TenantLLM, acme: Tenant) -> None:
    assert await ask(agent_of(llm, tenant_tool(broken, tenantless=True)), acme) == "the service is down"


def test_the_model_never_sees_the_tenant_and_cant_send_one(acme: Tenant) -> None:
    tool = tenant_tool(invoices, owner="customer")
    assert tool.metadata.get_parameters_dict()["properties"] == {}
    assert "enant" not in (tool.metadata.description or "")
    with scope(acme):
        assert tool().raw_output == invoices(acme)
        for wrong in ({"tenant": "globex"}, {"customer": "globex"}):
            with pytest.raises(InvalidInput, match="doesn't declare"):
                tool(**wrong)
        with pytest.raises(InvalidInput, match="doesn't declare"):
            tool("globex")


async def test_an_argument_may_come_by_position(acme: Tenant) -> None:
    """LlamaIndex sends a single argument so, and the tenant stands before it in the function."""

    def invoice(tenant: Tenant, number: int) -> dict[str, Any]:
        """One invoice."""
        return {"customer": tenant.id, "number": number}

    tool = tenant_tool(owner="customer", name="one_invoice")(invoice)
    assert isinstance(tool, TenantTool)
    assert tool.metadata.name == "one_invoice"
    with scope(acme):
        expected = {"customer": "acme", "number": 7}
        assert tool(7).raw_output == tool(number=7).raw_output == (await tool.acall(7)).raw_output == expected


def test_a_tool_outside_a_scope_fails_closed() -> None:
    with pytest.raises(MissingTenant):
        tenant_tool(invoices, owner="customer")()


@pytest.mark.parametrize("wrong", [{}, {"owner": "customer", "tenantless": True}])
def test_a_tool_must_say_how_its_rows_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="owner='field'"):
        tenant_tool(invoices, **wrong)


def test_an_agent_that_calls_tools_another_way_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="another method"):
        type("Renamed", (StopsOnRefusal, FunctionTool), {})
