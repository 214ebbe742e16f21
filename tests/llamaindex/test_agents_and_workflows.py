"""Agents and workflows run for the tenant that started them, in every task that LlamaIndex makes for them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import Context

from tenant_middleware import (
    IsolationBreach,
    MissingTenant,
    ModelForbidden,
    Tenancy,
    Tenant,
    TenantMismatch,
    current_tenant,
    pin,
    scope,
    telemetry,
)
from tenant_middleware.llamaindex import (
    TenantChatStore,
    TenantFunctionAgent,
    TenantLLM,
    TenantMemory,
    dump_context,
    load_context,
    observe_llamaindex,
    tenant_tags,
)
from tests.llamaindex.conftest import EchoLLM, calls

# LlamaIndex's own: it reads every attribute of an agent, calls what it deprecates, and says that it leaves memory out.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::workflows.context.state_store.UnserializableKeyWarning"),
]

ROWS = {tenant: f"INVOICE-{tenant}" for tenant in ("acme", "globex", "Acme", "acme2")}


def invoices() -> str:
    """Open invoices of the calling customer."""
    return ROWS[current_tenant().id]


def breaking() -> str:
    """A tool whose store finds a foreign row."""
    raise IsolationBreach("a foreign record was found: nothing was returned")


def agent(llm: TenantLLM, tool: Any = invoices, **options: Any) -> FunctionAgent:
    return FunctionAgent(tools=[FunctionTool.from_defaults(tool)], llm=llm, **options)


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_agents_steps_and_tools_run_for_its_tenant(
    tenancy: Tenancy, llm: TenantLLM, echo: EchoLLM, pair: tuple[Tenant, Tenant], streaming: bool
) -> None:
    shared = agent(llm, streaming=streaming)

    async def ask(tenant: Tenant) -> str:
        async with scope(tenant):
            memory = Memory.from_defaults(session_id="s", chat_store=TenantChatStore(tenancy.history))
            return str(await shared.run("Which are open?", memory=memory))

    answers = await asyncio.gather(*(ask(tenant) for tenant in pair * 3))
    assert answers == [ROWS[tenant.id] for tenant in pair * 3]
    assert calls(tenancy) == {tenant.id: 6 for tenant in pair}
    for messages, _ in echo.asked:
        told = {row for row in ROWS.values() for message in messages if row == (message.content or "")}
        assert len(told) <= 1, "one prompt held two tenants' rows"


async def test_a_workflow_of_agents_stays_with_its_tenant(
    tenancy: Tenancy, llm: TenantLLM, pair: tuple[Tenant, Tenant]
) -> None:
    flow = AgentWorkflow(agents=[agent(llm, name="front", description="asks")], root_agent="front")
    for tenant in pair:
        async with scope(tenant):
            memory = Memory.from_defaults(session_id="s", chat_store=TenantChatStore(tenancy.history))
            assert str(await flow.run(user_msg="Which are open?", memory=memory)) == ROWS[tenant.id]
    assert calls(tenancy) == {tenant.id: 2 for tenant in pair}


async def test_without_a_tenant_no_model_is_called(llm: TenantLLM, echo: EchoLLM) -> None:
    with pytest.raises(MissingTenant):
        await agent(llm).run("Which are open?", memory=_nothing())
    assert echo.asked == []


async def test_a_refusal_ends_an_agents_run_as_itself(tenancy: Tenancy, echo: EchoLLM, acme: Tenant) -> None:
    forbidden = TenantLLM(echo, model_name="gpt-5", gate=tenancy.gate)
    async with scope(acme):
        with pytest.raises(ModelForbidden):
            await agent(forbidden).run("Which are open?", memory=_memory(tenancy))


async def test_a_breach_in_a_tool_reaches_the_model_as_a_message_without_content(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant
) -> None:
    """LlamaIndex turns whatever a tool raises into its output; our messages say nothing of anybody."""
    async with scope(acme):
        answer = str(await agent(llm, breaking).run("Which are open?", memory=_memory(tenancy)))
    assert answer == "a foreign record was found: nothing was returned"


async def test_a_react_agent_over_a_plain_model_is_gated(tenancy: Tenancy, acme: Tenant) -> None:
    said = "Thought: I can answer without using any more tools.\nAnswer: nothing is open"
    llm = TenantLLM(EchoLLM(asked=[], use_tools=False), model_name="openai/local", gate=tenancy.gate)
    react = ReActAgent(tools=[FunctionTool.from_defaults(invoices)], llm=llm)
    async with scope(acme):
        assert str(await react.run(said, memory=_memory(tenancy))) == "nothing is open"
    assert calls(tenancy) == {"acme": 1}


async def test_a_runs_events_read_elsewhere_are_refused_when_pinned(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant
) -> None:
    async with scope(acme):
        run = agent(llm).run("Which are open?", memory=_memory(tenancy))
        events = pin(run.stream_events())
        mine = [event async for event in events]
        await run
        assert any(isinstance(event, AgentStream) for event in mine)
        again = agent(llm).run("Which are open?", memory=_memory(tenancy))
        foreign = pin(again.stream_events())
    async with scope(globex):
        with pytest.raises(TenantMismatch):
            await anext(foreign)
    await again
    assert calls(tenancy) == {"acme": 4}, "the run itself went on for acme"


async def test_a_context_goes_on_under_its_own_tenant_alone(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant
) -> None:
    front, secret = agent(llm), b"for tests only"
    async with scope(acme):
        context: Context[Any] = Context(front)
        await front.run("Which are open?", ctx=context, memory=None)
        kept = json.loads(json.dumps(dump_context(context, secret=secret)))
        assert load_context(front, kept, secret=secret)
    async with scope(globex):
        with pytest.raises(TenantMismatch):
            load_context(front, kept, secret=secret)


# Instrumentation.


async def test_spans_are_timed_per_tenant_and_kept_nowhere(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, bool]] = []

    def note(tenant: Tenant, which: str, step: str, seconds: float, *, failed: bool) -> None:
        assert which == "llamaindex" and seconds >= 0
        seen.append((tenant.id, step, failed))

    monkeypatch.setattr(telemetry, "framework", note)
    handler = observe_llamaindex()
    try:
        assert observe_llamaindex() is handler
        for tenant in (acme, globex):
            async with scope(tenant):
                llm.complete(f"canary of {tenant.id}")
                await agent(llm).run("Which are open?", memory=_memory(tenancy))
        assert {who for who, step, _ in seen if step == "FunctionAgent.run"} == {"acme", "globex"}
        assert {step for _, step, _ in seen} >= {"FunctionAgent.run"} and not any(failed for *_, failed in seen)
        assert not handler.open_spans and not handler.completed_spans and not handler.dropped_spans
    finally:
        get_dispatcher().span_handlers.remove(handler)


class Noting(BaseEventHandler):
    seen: list[dict[str, Any]] = []

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(dict(event.tags))


def test_events_carry_the_tenant(llm: TenantLLM, acme: Tenant, globex: Tenant) -> None:
    from llama_index.core.prompts import PromptTemplate

    noting, dispatcher = Noting(seen=[]), get_dispatcher()
    dispatcher.add_event_handler(noting)
    try:
        for tenant in (acme, globex):
            with scope(tenant), tenant_tags():
                llm.predict(PromptTemplate("one two"))
    finally:
        dispatcher.event_handlers.remove(noting)
    assert {tags["tenant.id"] for tags in noting.seen} == {"acme", "globex"}


def _memory(tenancy: Tenancy) -> Memory:
    return Memory.from_defaults(session_id="s", chat_store=TenantChatStore(tenancy.history))


def _nothing() -> Any:
    from llama_index.core.memory import ChatMemoryBuffer

    return ChatMemoryBuffer.from_defaults()


async def test_a_tenants_memory_may_be_given_to_an_agent(
    tenancy: Tenancy, llm: TenantLLM, pair: tuple[Tenant, Tenant]
) -> None:
    owner, other = pair
    agent = TenantFunctionAgent(tools=[], llm=llm)
    with scope(owner):
        memory = TenantMemory(ChatMemoryBuffer.from_defaults())
        await agent.run("my word is xylophone", memory=memory)
        assert "xylophone" in str(await memory.aget_all())
    with scope(other), pytest.raises(TenantMismatch):
        await agent.run("what is my word?", memory=memory)
    assert set(calls(tenancy)) == {owner.id}
