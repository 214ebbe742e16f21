"""Ways to another tenant's data through LangChain's and LangGraph's own surfaces; the audit command adds these.

A saver and a store are the application's, not the policy's: name yours, or the wrappers are tried over new ones in
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tenant_middleware.assurance.probes.stage import SESSION, Probe, Stage, tried
from tenant_middleware.context import scope
from tenant_middleware.errors import missing_extra
from tenant_middleware.keys import namespace
from tenant_middleware.langchain.history import TenantChatHistory
from tenant_middleware.langchain.memory import TenantCheckpointSaver
from tenant_middleware.langchain.store import TenantStore
from tenant_middleware.langchain.tools import tenant_tool
from tenant_middleware.langchain.vectors import TenantVectorStore
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.embeddings import Embeddings
    from langchain_core.messages import HumanMessage
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.store.base import BaseStore
    from langgraph.store.memory import InMemoryStore
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

_THREAD: Any = {"configurable": {"thread_id": SESSION}}


class _Fixed(Embeddings):
    """Every text has the canary's embedding."""

    def __init__(self, vector: list[float]) -> None:
        self._vector = vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._vector for _ in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._vector


def thread(saver: TenantCheckpointSaver, stage: Stage, who: Tenant) -> object:
    """The owner's thread id, a run that goes on in it, and a listing of all threads."""
    builder = StateGraph(MessagesState)
    builder.add_node("reply", lambda state: {"messages": [("ai", "noted")]})
    builder.add_edge(START, "reply")
    graph: Any = builder.compile(checkpointer=saver)
    with scope(stage.owner):
        graph.invoke({"messages": [("user", stage.canary.text)]}, _THREAD)
    try:
        with scope(stage.arriving(who)):
            state = graph.get_state(_THREAD).values
            going_on = graph.invoke({"messages": [("user", "And?")]}, _THREAD)
            return [state, going_on, [found.checkpoint for found in saver.list(None)]]
    finally:
        for tenant in (stage.owner, who):
            with scope(tenant):
                saver.delete_thread(SESSION)


def store(memories: TenantStore, stage: Stage, who: Tenant) -> object:
    """The root of all namespaces, and the owner's namespace by its name."""
    with scope(stage.owner):
        memories.put(("users", "ann"), "note", {"text": stage.canary.text})
    try:
        with scope(stage.arriving(who)):
            found = [memories.search(()), memories.search((stage.owner.id,)), memories.get(("users", "ann"), "note")]
            return [item.dict() if hasattr(item, "dict") else item for each in found for item in _listed(each)]
    finally:
        with scope(stage.owner):
            memories.clear_tenant()


def session(stage: Stage, who: Tenant) -> object:
    """The owner's session of a chat history by its id, in the live store."""
    with scope(stage.owner):
        TenantChatHistory(stage.tenancy.history, SESSION).add_messages([HumanMessage(stage.canary.text)])
    with scope(stage.arriving(who)):
        return TenantChatHistory(stage.tenancy.history, SESSION).messages


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _plant(stage: Stage) -> None:
    stage.tenancy.vectors.upsert(stage.owner, [stage.record(kind="note")])


def retriever(stage: Stage, who: Tenant) -> object:
    """Everything that a caller may try to pass with a call."""
    documents = TenantVectorStore(vectors=stage.tenancy.vectors, embedding=_Fixed(stage.vector()))
    asked, theirs = stage.canary.question, {"tenant_id": stage.owner.id}
    found = documents.as_retriever(search_kwargs={"k": 10})
    tries: list[Callable[[], object]] = [
        lambda: found.invoke(asked),
        lambda: found.invoke(asked, filter=None),
        lambda: found.invoke(asked, filter=theirs),
        lambda: found.invoke(asked, namespace=namespace(stage.owner)),
        lambda: found.invoke(asked, {"configurable": theirs, "metadata": theirs}),
        lambda: documents.get_by_ids([stage.record_id]),
        lambda: documents.max_marginal_relevance_search(asked, k=10),
    ]
    with scope(stage.arriving(who)):
        return [tried(attempt) for attempt in tries]


def tool(stage: Stage, who: Tenant) -> object:
    """A tool whose query forgot the tenant and gives the owner's rows to everybody."""

    def notes() -> list[dict[str, str]]:
        """All notes."""
        return [{"tenant_id": stage.owner.id, "text": stage.canary.text}]

    with scope(stage.arriving(who)):
        return tenant_tool(notes, owner="tenant_id").invoke({})


def probes(saver: BaseCheckpointSaver[Any] | None = None, memories: BaseStore | None = None) -> tuple[Probe, ...]:
    """The probes, over the application's saver and store of long-term memories, wrapped or not."""
    threads = saver if isinstance(saver, TenantCheckpointSaver) else TenantCheckpointSaver(saver or InMemorySaver())
    kept = memories if isinstance(memories, TenantStore) else TenantStore(memories or InMemoryStore())
    return (
        Probe(
            "langchain.thread",
            "another tenant's LangGraph thread id, and a listing of threads",
            partial(thread, threads),
        ),
        Probe("langchain.store", "LangGraph's store from its root", partial(store, kept)),
        Probe("langchain.session", "another tenant's chat history by its session id", session),
        Probe("langchain.retriever", "a filter, namespace or config given with the call", retriever, _plant),
        Probe("langchain.tool", "a tool that returns another tenant's rows", tool),
    )


PROBES = probes()
