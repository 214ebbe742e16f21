"""Graphs around agents: subgraphs, branches, interrupts, other middleware in any order, hops over shared entities."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.documents import Document
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send

from tenant_middleware import IsolationBreach, MissingTenant, Tenancy, TenancyError, Tenant, TenantMismatch, pin, scope
from tenant_middleware.langchain import (
    TenantAgentMiddleware,
    TenantChatModel,
    TenantCheckpointSaver,
    TenantEmbeddings,
    TenantVectorStore,
    stamp,
    tenant_tool,
    verify_tenant,
)
from tenant_middleware.local import echo_chat_model, embeddings, scripted_tool_model

ROWS = [{"customer": name, "invoice": f"INVOICE-{name}"} for name in ("acme", "globex", "Acme", "acme2")]
ASK: Any = {"messages": [("user", "Which invoices are open?")]}
THREAD: Any = {"configurable": {"thread_id": "support"}}


@tenant_tool(owner="customer")
def invoices(tenant: Tenant) -> list[dict[str, str]]:
    """Open invoices of the calling customer."""
    return [row for row in ROWS if row["customer"] == tenant.id]


@tenant_tool(owner="customer")
def broken_invoices(tenant: Tenant) -> list[dict[str, str]]:
    """Open invoices, by a query that forgot to filter."""
    return ROWS


@pytest.fixture
def model(tenancy: Tenancy) -> TenantChatModel:
    return TenantChatModel(model=scripted_tool_model(), model_name="openai/local", gate=tenancy.gate)


def rows_of(tenancy: Tenancy) -> list[str]:
    return [row.tenant_id for row in tenancy.ledger.rows()]


def neighbours(tenancy: Tenancy, model: TenantChatModel) -> dict[str, Any]:
    """LangChain's own middleware, each as it would be used beside ours."""
    return {
        "model retry": ModelRetryMiddleware(max_retries=2, initial_delay=0.0),
        "tool retry": ToolRetryMiddleware(max_retries=2, initial_delay=0.0),
        "fallback": ModelFallbackMiddleware(
            TenantChatModel(model=echo_chat_model(), model_name="openai/local", gate=tenancy.gate)
        ),
        "model limit": ModelCallLimitMiddleware(run_limit=5),
        "tool limit": ToolCallLimitMiddleware(run_limit=5),
        "pii": PIIMiddleware("email"),
        "summary": SummarizationMiddleware(model=model, trigger=("messages", 50)),
    }


NAMES = ("model retry", "tool retry", "fallback", "model limit", "tool limit", "pii", "summary")


@pytest.mark.parametrize(("inner", "outer"), list(itertools.permutations(NAMES, 2))[::3])
def test_other_middleware_on_either_side_changes_nothing(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant, inner: str, outer: str
) -> None:
    """Positive: each tenant's own row, one ledger row for each model step. Negative: a foreign row ends the run."""
    beside = neighbours(tenancy, model)
    around = [beside[outer], TenantAgentMiddleware(tenancy), beside[inner]]
    agent = create_agent(model, tools=[invoices], middleware=around)
    broken = create_agent(model, tools=[broken_invoices], middleware=around)
    for tenant in (acme, globex):
        with scope(tenant):
            assert f"INVOICE-{tenant.id}" in str(agent.invoke(ASK)["messages"][-1].content)
    assert sorted(rows_of(tenancy)) == ["acme", "acme", "globex", "globex"]
    with scope(acme), pytest.raises(IsolationBreach):
        broken.invoke(ASK)


def test_all_of_them_at_once(tenancy: Tenancy, model: TenantChatModel, acme: Tenant) -> None:
    for turn in range(0, len(NAMES) + 1, 2):
        around: list[Any] = list(neighbours(tenancy, model).values())
        around.insert(turn, TenantAgentMiddleware(tenancy))
        with scope(acme):
            assert "INVOICE-acme" in str(create_agent(model, [invoices], middleware=around).invoke(ASK)["messages"])
            with pytest.raises(IsolationBreach):
                create_agent(model, [broken_invoices], middleware=around).invoke(ASK)


def test_a_human_decides_under_the_right_tenant_alone(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant
) -> None:
    asking = HumanInTheLoopMiddleware(interrupt_on={"invoices": True})
    agent = create_agent(
        model,
        tools=[invoices],
        middleware=[TenantAgentMiddleware(tenancy), asking],
        checkpointer=TenantCheckpointSaver(InMemorySaver()),
    )
    approve: Any = Command(resume={"decisions": [{"type": "approve"}]})
    with scope(acme):
        assert "__interrupt__" in agent.invoke(ASK, THREAD)
    with scope(globex), pytest.raises(TenancyError):
        agent.invoke(approve, THREAD)
    with scope(acme):
        assert "INVOICE-acme" in str(agent.invoke(approve, THREAD)["messages"][-1].content)
    assert set(rows_of(tenancy)) == {"acme"}


class Parent(TypedDict):
    messages: Annotated[list[Any], operator.add]
    said: Annotated[list[str], operator.add]


def parent(tenancy: Tenancy, model: TenantChatModel, tools: Any = (invoices,)) -> Any:
    """A graph whose node is an agent with a state of its own."""
    agent = create_agent(model, tools=list(tools), middleware=[TenantAgentMiddleware(tenancy)])
    builder = StateGraph(Parent)
    builder.add_node("ask", lambda state: {"said": [agent.invoke(ASK)["messages"][-1].content]})
    builder.add_node("again", lambda state: {"said": [agent.invoke(ASK)["messages"][-1].content]})
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "again")
    return builder.compile(checkpointer=TenantCheckpointSaver(InMemorySaver()))


def test_an_agent_in_a_subgraph_belongs_to_its_runs_tenant(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant
) -> None:
    graph = parent(tenancy, model)
    for tenant in (acme, globex):
        with scope(tenant):
            said = graph.invoke({"messages": [], "said": []}, THREAD)["said"]
            assert len(said) == 2 and all(f"INVOICE-{tenant.id}" in text for text in said)
    with scope(acme), pytest.raises(IsolationBreach):
        parent(tenancy, model, [broken_invoices]).invoke({"messages": [], "said": []}, THREAD)
    with pytest.raises(MissingTenant):
        graph.invoke({"messages": [], "said": []}, THREAD)


async def test_a_pinned_graph_stream_is_refused_elsewhere_between_two_subgraphs(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant
) -> None:
    graph = parent(tenancy, model)
    with scope(acme):
        steps = pin(graph.stream({"messages": [], "said": []}, THREAD))
        asteps = pin(graph.astream({"messages": [], "said": []}, {"configurable": {"thread_id": "other"}}))
    assert "ask" in next(steps) and "ask" in await anext(asteps)
    with scope(globex):
        with pytest.raises(TenantMismatch):
            next(steps)
        with pytest.raises(TenantMismatch):
            await anext(asteps)
    assert set(rows_of(tenancy)) == {"acme"}


class Fan(TypedDict):
    found: Annotated[list[str], operator.add]


@pytest.fixture
def store(tenancy: Tenancy) -> TenantVectorStore:
    embedding = TenantEmbeddings(embeddings(), model_name="embed", gate=tenancy.gate)
    return TenantVectorStore(vectors=tenancy.vectors, embedding=embedding)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_parallel_branches_search_for_their_runs_tenant(
    tenancy: Tenancy, store: TenantVectorStore, pair: tuple[Tenant, Tenant], asynchronous: bool
) -> None:
    def search(state: dict[str, str]) -> dict[str, list[str]]:
        return {"found": [doc.page_content for doc in store.similarity_search(state["ask"], k=5)]}

    builder = StateGraph(Fan)
    builder.add_node("search", search)
    builder.add_conditional_edges(START, lambda state: [Send("search", {"ask": f"price {n}"}) for n in range(6)])
    graph = builder.compile()
    for tenant in pair:
        with scope(tenant):
            store.add_texts([f"price of {tenant.id}"], ids=["d"])
    for tenant in pair:
        with scope(tenant):
            out = await graph.ainvoke({"found": []}) if asynchronous else graph.invoke({"found": []})
            assert out["found"] == [f"price of {tenant.id}"] * 6
    with pytest.raises(MissingTenant):
        graph.invoke({"found": []})


# A corpus whose documents name entities that both tenants know: from a hit of one's own, the next hop leads anywhere.

ENTITIES = [f"supplier {letter}" for letter in "ABCDEFGHIJ"]


def corpus(tenant: str) -> list[Document]:
    return [
        Document(
            id=f"d{n}",
            page_content=f"{tenant} pays {entity} {n} USD.",
            metadata={"entity": entity, "tenant": tenant},
        )
        for n, entity in enumerate(ENTITIES)
    ]


@pytest.mark.parametrize("tenants", [("acme", "globex")])
def test_a_hop_over_shared_entities_leaks_bare_and_not_with_us(
    store: TenantVectorStore, acme: Tenant, globex: Tenant, tenants: tuple[str, str]
) -> None:
    shared: dict[str, list[Document]] = {}
    for tenant in (acme, globex):
        with scope(tenant):
            store.add_documents(corpus(tenant.id))
            for doc in stamp(corpus(tenant.id)):
                shared.setdefault(doc.metadata["entity"], []).append(doc)

    def bare(entity: str) -> list[Document]:
        return shared[entity]

    def checked(entity: str) -> list[Document]:
        return verify_tenant(shared[entity])

    def scoped(entity: str) -> list[Document]:
        return store.similarity_search(entity, k=10, filter={"entity": entity})

    def rate(hop: Callable[[str], list[Document]]) -> tuple[float, float]:
        """Shares of queries that end with another's document, and with one's own."""
        leaked = found = 0
        for tenant in (acme, globex):
            with scope(tenant):
                for entity in ENTITIES:
                    seed = store.similarity_search(f"What is paid to {entity}?", k=1)[0]
                    try:
                        reached = hop(seed.metadata["entity"])
                    except IsolationBreach:
                        continue
                    leaked += any(tenant.id not in doc.page_content for doc in reached)
                    found += any(tenant.id in doc.page_content for doc in reached)
        return leaked / (2 * len(ENTITIES)), found / (2 * len(ENTITIES))

    assert rate(bare)[0] > 0.5, "the control no longer leaks"
    assert rate(checked)[0] == 0
    assert rate(scoped) == (0, 1)
