"""Ways to another tenant's data through LlamaIndex's surfaces, over the live stores; the audit command adds these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenant_middleware.assurance.callables import Loop
from tenant_middleware.assurance.probes.stage import SESSION, Probe, Stage, tried
from tenant_middleware.context import scope
from tenant_middleware.errors import missing_extra
from tenant_middleware.llamaindex.index import TenantObjects
from tenant_middleware.llamaindex.memory import TenantChatStore
from tenant_middleware.llamaindex.vectors import TenantVectorStore
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.llms import ChatMessage
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
    from llama_index.core.vector_stores.types import (
        FilterCondition,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
    )
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

_K = 10


def _plant(stage: Stage) -> None:
    with scope(stage.owner):
        node = TextNode(id_=stage.record_id, text=stage.canary.text, embedding=stage.vector())
        TenantVectorStore(stage.tenancy.vectors).add([node])


def query(stage: Stage, who: Tenant) -> object:
    """Everything that a caller may try to pass with a query."""
    store = TenantVectorStore(stage.tenancy.vectors)
    theirs = MetadataFilter(key="tenant_id", value=stage.owner.id)
    either = MetadataFilters(filters=[theirs], condition=FilterCondition.OR)
    tries: list[Callable[[], object]] = [
        lambda: store.query(_asked(stage)),
        lambda: store.query(_asked(stage, filters=MetadataFilters(filters=[]))),
        lambda: store.query(_asked(stage, filters=either)),
        lambda: store.query(_asked(stage, node_ids=[stage.record_id])),
        lambda: store.query(_asked(stage), where={"tenant_id": stage.owner.id}),
        lambda: store.get_nodes([stage.record_id]),
        lambda: store.get_nodes(filters=either),
    ]
    with scope(stage.arriving(who)):
        return [tried(attempt) for attempt in tries]


def _asked(stage: Stage, **more: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=stage.vector(), similarity_top_k=_K, **more)


def hop(stage: Stage, who: Tenant) -> object:
    """A node of one's own that is related to the owner's node, and a live object behind the owner's index id."""
    store, objects = TenantVectorStore(stage.tenancy.vectors), TenantObjects()
    with scope(stage.owner):
        objects[stage.record_id] = TextNode(text=stage.canary.text)
    with scope(stage.arriving(who)):
        mine = TextNode(id_="pointer", text="See the next page.", embedding=stage.vector(0.05))
        mine.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=stage.record_id)
        store.add([mine])
        found = store.query(_asked(stage, node_ids=["pointer"])).nodes or ()
        related = [node.next_node.node_id for node in found if node.next_node is not None]
        reached = store.get_nodes(related)
        store.delete_nodes(["pointer"])
        return [reached, [objects.get(node_id) for node_id in related]]


def session(stage: Stage, who: Tenant) -> object:
    """The owner's session of a chat memory by its id, and a list of sessions."""
    loop = Loop()
    try:
        return loop.run(_remembered(TenantChatStore(stage.tenancy.history), stage, who))
    finally:
        loop.close()


async def _remembered(store: TenantChatStore, stage: Stage, who: Tenant) -> object:
    with scope(stage.owner):
        await store.set_messages(SESSION, [ChatMessage(role="user", content=stage.canary.text)])
    with scope(stage.arriving(who)):
        return [await store.get_messages(SESSION), await store.get_keys()]


PROBES = (
    Probe("llamaindex.query", "filters, ids or keywords given with a query", query, _plant),
    Probe("llamaindex.hop", "following a node of one's own to another tenant's", hop, _plant),
    Probe("llamaindex.session", "another tenant's chat memory by its session id", session),
)
