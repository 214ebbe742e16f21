"""Every path that a call can take through the frameworks, in one table: isolation, limits and ledger on each.

A row is run for two tenants whose documents and questions hold canaries. Each must see its own canary (the positive
control) and never the other's, be booked for exactly what it asked, be refused when its budget is used up before a
model is asked, and not run at all without a tenant.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from llama_index.core import Document
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import Memory
from llama_index.core.tools import FunctionTool

from tenant_middleware import BudgetExceeded, MissingTenant, Tenancy, Tenant, bind, current_tenant, scope
from tenant_middleware.langchain import (
    GuardInput,
    TenantAgentMiddleware,
    TenantChatModel,
    TenantEmbeddings,
    TenantVectorStore,
    tenant_tool,
)
from tenant_middleware.litellm import TenantRouter
from tenant_middleware.llamaindex import (
    TenantChatStore,
    TenantEmbedding,
    TenantIndex,
    TenantLLM,
    tenant_index,
)
from tenant_middleware.local import embeddings, llama_embedding, scripted_tool_model
from tests.llamaindex.conftest import VALUES, EchoLLM

pytestmark = pytest.mark.filterwarnings(
    "ignore::pydantic.warnings.PydanticDeprecatedSince20",
    "ignore::langchain_core._api.beta_decorator.LangChainBetaWarning",
)


@dataclass
class World:
    """One application for both tenants."""

    tenancy: Tenancy
    model: TenantChatModel
    store: TenantVectorStore
    agent: Any
    llm: TenantLLM
    index: TenantIndex
    tool_agent: FunctionAgent
    router: TenantRouter


@tenant_tool(owner="tenant")
def notes(tenant: Tenant) -> list[dict[str, str]]:
    """Notes of the calling tenant."""
    return [{"tenant": tenant.id, "note": canary(tenant)}]


def note() -> str:
    """The calling tenant's note."""
    return canary(current_tenant())


def canary(tenant: Tenant) -> str:
    return f"CANARY-OF-{tenant.id}"


def world_of(tenancy: Tenancy) -> World:
    gate = tenancy.gate
    model = TenantChatModel(model=scripted_tool_model(), model_name="openai/local", gate=gate)
    llm = TenantLLM(EchoLLM(asked=[]), model_name="openai/local", gate=gate)
    embed = TenantEmbedding(llama_embedding(), model_name="local/embed", gate=gate)
    over_litellm = ModelOverLiteLLM(router=_router(tenancy))
    return World(
        tenancy,
        model,
        TenantVectorStore(
            vectors=tenancy.vectors, embedding=TenantEmbeddings(embeddings(), model_name="local/embed", gate=gate)
        ),
        create_agent(model, tools=[notes], middleware=[TenantAgentMiddleware(tenancy)]),
        llm,
        tenant_index(vectors=tenancy.vectors, embed_model=embed, llm=llm),
        FunctionAgent(tools=[FunctionTool.from_defaults(note)], llm=llm),
        over_litellm.router,
    )


def _router(tenancy: Tenancy) -> TenantRouter:
    params = {"model": "openai/m", "api_key": "x", "mock_response": "a mocked answer"}
    return TenantRouter(tenancy, model_list=[{"model_name": "openai/local", "litellm_params": params}], num_retries=0)


class ModelOverLiteLLM(BaseChatModel):
    """A LangChain model that speaks through LiteLLM's Router, which has a gate of its own."""

    router: Any
    asked_model: str = "openai/local"

    @property
    def _llm_type(self) -> str:
        return "over-litellm"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        wire = convert_to_openai_messages(messages)
        answer = await self.router.acompletion(self.asked_model, wire, max_tokens=kwargs.get("max_tokens"))
        message = AIMessage(answer.choices[0].message.content)
        return ChatResult(generations=[ChatGeneration(message=message)])


def ask() -> str:
    """What a tenant asks: its canary is in the question, for models that echo."""
    return f"Say {canary(current_tenant())}"


def _memory(world: World) -> Memory:
    return Memory.from_defaults(session_id="s", chat_store=TenantChatStore(world.tenancy.history))


async def _said(stream: Any) -> str:
    return "".join([str(getattr(step, "content", step)) for step in [one async for one in stream]])


async def _last(stream: Any) -> str:
    return str([step async for step in await stream][-1])


def _in_threads(world: World) -> str:
    with ThreadPoolExecutor(2) as pool:
        return str(list(pool.map(bind(lambda text: world.model.invoke(text).content), [ask(), ask()])))


async def _litellm(world: World, **options: Any) -> str:
    answer = await world.router.acompletion("openai/local", [{"role": "user", "content": ask()}], **options)
    return canary(current_tenant()) if answer.choices[0].message.content else ""


async def _litellm_stream(world: World) -> str:
    stream = await world.router.acompletion("openai/local", [{"role": "user", "content": ask()}], stream=True)
    return canary(current_tenant()) if [chunk async for chunk in stream] else ""


async def _nested(world: World) -> str:
    """The wrapper inside the agent's middleware, over LiteLLM with a gate: one reservation, one row."""
    inner = ModelOverLiteLLM(router=world.router)
    model = TenantChatModel(model=inner, model_name="openai/local", gate=world.tenancy.gate)
    ours = TenantAgentMiddleware(world.tenancy, on_budget="raise")
    agent = create_agent(model, tools=[], middleware=[ours])
    out = await agent.ainvoke({"messages": [("user", ask())]})
    assert out["messages"][-1].content == "a mocked answer"
    return str(out["messages"][0].content)


async def _chat_stream(world: World) -> str:
    chat = world.index.as_chat_engine(chat_mode="context", memory=_memory(world))
    streamed = await chat.astream_chat(ask())
    return "".join([token async for token in streamed.async_response_gen()]) + _texts(streamed.source_nodes)


async def _agent_events(world: World) -> str:
    run = world.tool_agent.run(ask(), memory=_memory(world))
    events = "".join([str(event) async for event in run.stream_events()])
    return events + str(await run)


def _chain(world: World) -> Any:
    return RunnableLambda(lambda text: text) | GuardInput(world.tenancy.guard) | world.model


def _asked() -> Any:
    return {"messages": [("user", ask())]}


def _texts(nodes: Any) -> str:
    return " ".join(node.text for node in nodes)


Path = Callable[[World], Any]
CHAT, EMBED, TOKENS = "chat", "embedding", "messages"
RAG = {CHAT: 1, EMBED: 1}

# path: what it books (per kind), and how it is called.
PATHS: dict[str, tuple[dict[str, int], Path]] = {
    "langchain model, sync": ({CHAT: 1}, lambda w: w.model.invoke(ask()).content),
    "langchain model, sync stream": ({CHAT: 1}, lambda w: "".join(c.content for c in w.model.stream(ask()))),
    "langchain model, sync batch": ({CHAT: 3}, lambda w: str(w.model.batch([ask()] * 3))),
    "langchain model, async": ({CHAT: 1}, lambda w: w.model.ainvoke(ask())),
    "langchain model, async stream": ({CHAT: 1}, lambda w: _said(w.model.astream(ask()))),
    "langchain model, async batch": ({CHAT: 3}, lambda w: w.model.abatch([ask()] * 3)),
    "langchain model, async events": ({CHAT: 1}, lambda w: _said(w.model.astream_events(ask(), version="v2"))),
    "langchain model, thread pool": ({CHAT: 2}, _in_threads),
    "langchain chain, sync": ({CHAT: 1}, lambda w: _chain(w).invoke(ask()).content),
    "langchain chain, sync stream": ({CHAT: 1}, lambda w: "".join(c.content for c in _chain(w).stream(ask()))),
    "langchain chain, sync batch": ({CHAT: 3}, lambda w: str(_chain(w).batch([ask()] * 3))),
    "langchain chain, async": ({CHAT: 1}, lambda w: _chain(w).ainvoke(ask())),
    "langchain chain, async stream": ({CHAT: 1}, lambda w: _said(_chain(w).astream(ask()))),
    "langchain chain, async batch": ({CHAT: 3}, lambda w: _chain(w).abatch([ask()] * 3)),
    "langchain chain, async events": ({CHAT: 1}, lambda w: _said(_chain(w).astream_events(ask(), version="v2"))),
    "langchain store, sync": ({EMBED: 1}, lambda w: str(w.store.similarity_search("note", k=9))),
    "langchain store, async": ({EMBED: 1}, lambda w: w.store.asimilarity_search("note", k=9)),
    "langchain retriever, sync": ({EMBED: 1}, lambda w: str(w.store.as_retriever().invoke("note"))),
    "langchain retriever, sync batch": ({EMBED: 2}, lambda w: str(w.store.as_retriever().batch(["note", "all"]))),
    "langchain retriever, async": ({EMBED: 1}, lambda w: w.store.as_retriever().ainvoke("note")),
    "langchain retriever, async batch": ({EMBED: 2}, lambda w: w.store.as_retriever().abatch(["note", "all"])),
    "langchain agent, sync": ({CHAT: 2}, lambda w: str(w.agent.invoke(_asked()))),
    "langchain agent, sync stream": ({CHAT: 2}, lambda w: str(list(w.agent.stream(_asked())))),
    "langchain agent, sync batch": ({CHAT: 4}, lambda w: str(w.agent.batch([_asked()] * 2))),
    "langchain agent, async": ({CHAT: 2}, lambda w: w.agent.ainvoke(_asked())),
    "langchain agent, async stream": ({CHAT: 2}, lambda w: _said(w.agent.astream(_asked()))),
    "langchain agent, async token stream": (
        {CHAT: 2},
        lambda w: _said(w.agent.astream(_asked(), stream_mode=TOKENS)),
    ),
    "langchain agent, async events": ({CHAT: 2}, lambda w: _said(w.agent.astream_events(_asked(), version="v2"))),
    "langchain agent over litellm, async": ({CHAT: 1}, _nested),
    "litellm router, async": ({CHAT: 1}, _litellm),
    "litellm router, async stream": ({CHAT: 1}, _litellm_stream),
    "llamaindex model, sync": ({CHAT: 1}, lambda w: str(w.llm.chat([ChatMessage(ask())]))),
    "llamaindex model, sync completion": ({CHAT: 1}, lambda w: str(w.llm.complete(ask()))),
    "llamaindex model, sync stream": ({CHAT: 1}, lambda w: str(list(w.llm.stream_chat([ChatMessage(ask())]))[-1])),
    "llamaindex model, async": ({CHAT: 1}, lambda w: w.llm.achat([ChatMessage(ask())])),
    "llamaindex model, async stream": ({CHAT: 1}, lambda w: _last(w.llm.astream_chat([ChatMessage(ask())]))),
    "llamaindex retriever, sync": ({EMBED: 1}, lambda w: _texts(w.index.as_retriever().retrieve("note"))),
    "llamaindex retriever, async": ({EMBED: 1}, lambda w: w.index.as_retriever().aretrieve("note")),
    "llamaindex query engine, sync": (
        RAG,
        lambda w: str(w.index.as_query_engine().query("note").source_nodes),
    ),
    "llamaindex query engine, sync stream": (
        RAG,
        lambda w: "".join(w.index.as_query_engine(streaming=True).query(ask()).response_gen),
    ),
    "llamaindex query engine, async": (RAG, lambda w: w.index.as_query_engine().aquery(ask())),
    "llamaindex chat engine, sync": (
        RAG,
        lambda w: str(w.index.as_chat_engine(chat_mode="context", memory=_memory(w)).chat(ask())),
    ),
    "llamaindex chat engine, sync stream": (
        RAG,
        lambda w: "".join(
            w.index.as_chat_engine(chat_mode="context", memory=_memory(w)).stream_chat(ask()).response_gen
        ),
    ),
    "llamaindex chat engine, async stream": (RAG, _chat_stream),
    "llamaindex agent, async": ({CHAT: 2}, lambda w: w.tool_agent.run(ask(), memory=_memory(w))),
    "llamaindex agent, async events": ({CHAT: 2}, _agent_events),
}


async def _run(path: Path, world: World) -> str:
    found = path(world)
    if inspect.isawaitable(found):
        found = await found
    return str(found)


@pytest.fixture
def world() -> Iterator[World]:
    values = VALUES | {"tiers": {"enterprise": VALUES["tiers"]["enterprise"] | {"max_output_tokens": 4_000}}}
    with Tenancy.from_mapping(values) as tenancy:
        yield world_of(tenancy)


def fill(world: World, *tenants: Tenant) -> Counter[tuple[str, str]]:
    for tenant in tenants:
        with scope(tenant):
            world.index.insert(Document(doc_id="note", text=f"A note: {canary(tenant)}"))
    return booked(world)


def booked(world: World) -> Counter[tuple[str, str]]:
    return Counter((row.tenant_id, str(row.kind)) for row in world.tenancy.ledger.rows())


@pytest.mark.parametrize("name", PATHS)
async def test_isolation_and_ledger(world: World, acme: Tenant, globex: Tenant, name: str) -> None:
    books, path = PATHS[name]
    before = fill(world, acme, globex)
    for tenant, other in ((acme, globex), (globex, acme)):
        async with scope(tenant):
            seen = await _run(path, world)
        assert canary(tenant) in seen, "the owner doesn't see its own canary by this path"
        assert canary(other) not in seen
    assert booked(world) - before == {(tenant.id, kind): n for tenant in (acme, globex) for kind, n in books.items()}


@pytest.mark.parametrize("name", PATHS)
async def test_concurrent_tenants_do_not_meet(world: World, acme: Tenant, globex: Tenant, name: str) -> None:
    _, path = PATHS[name]
    fill(world, acme, globex)

    async def one(tenant: Tenant) -> tuple[Tenant, str]:
        async with scope(tenant):
            return tenant, await _run(path, world)

    for tenant, seen in await asyncio.gather(*(one(tenant) for tenant in (acme, globex, acme, globex))):
        assert canary(tenant) in seen
        assert canary(globex if tenant == acme else acme) not in seen


@pytest.mark.parametrize("name", PATHS)
async def test_limits(world: World, acme: Tenant, globex: Tenant, name: str) -> None:
    """acme's budget is used up: refused on every path before anything is asked. globex isn't touched."""
    _, path = PATHS[name]
    values = VALUES | {"tenants": VALUES["tenants"] | {"acme": {"tier": "enterprise", "budget": {"usd": "0"}}}}
    with Tenancy.from_mapping(values) as tenancy:
        poor = world_of(tenancy)
        poor.agent = create_agent(
            poor.model, tools=[notes], middleware=[TenantAgentMiddleware(tenancy, on_budget="raise")]
        )
        fill(poor, globex)
        before = booked(poor)
        async with scope(acme):
            with pytest.raises(BudgetExceeded):
                await _run(path, poor)
        assert booked(poor) == before
        async with scope(globex):
            assert canary(globex) in await _run(path, poor)


@pytest.mark.parametrize("name", PATHS)
async def test_without_a_tenant_nothing_runs(world: World, name: str) -> None:
    _, path = PATHS[name]
    with pytest.raises(MissingTenant):
        await _run(_asking_anyway(path), world)
    assert not booked(world)


def _asking_anyway(path: Path) -> Path:
    """The path with a question that needs no tenant to be written."""

    def asked(world: World) -> Any:
        globals_of = path.__globals__
        own = globals_of["ask"]
        globals_of["ask"] = lambda: "Say hello"
        try:
            return path(world)
        finally:
            globals_of["ask"] = own

    return asked


def test_the_table_covers_each_framework_both_ways() -> None:
    for framework in ("langchain", "litellm", "llamaindex"):
        names = [name for name in PATHS if name.startswith(framework)]
        assert any("async" in name for name in names)
        assert framework == "litellm" or any(", sync" in name for name in names)
        assert any("stream" in name for name in names)
    assert dataclasses.is_dataclass(World)
