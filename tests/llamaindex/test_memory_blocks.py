"""LlamaIndex's Memory with a block over a guarded store: one session id of two tenants is two memories."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.memory import Memory, VectorMemoryBlock
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from tenant_middleware import Tenancy
from tenant_middleware.context import scope
from tenant_middleware.llamaindex import TenantChatStore, TenantVectorStore
from tenant_middleware.tenant import Tenant


def memory(tenancy: Tenancy, store: BasePydanticVectorStore) -> Memory:
    """So small that what was said before goes to the block."""
    return Memory.from_defaults(
        session_id="s1",
        token_limit=60,
        chat_history_token_ratio=0.5,
        token_flush_size=20,
        chat_store=TenantChatStore(tenancy.history),
        memory_blocks=[VectorMemoryBlock(vector_store=store, embed_model=MockEmbedding(8), similarity_top_k=5)],
    )


def talk(one: Memory, canary: str) -> str:
    one.put_messages([ChatMessage(role="user", content=f"{canary} and some more words to fill the memory")] * 3)
    for turn in range(4):
        one.put(ChatMessage(role="user", content=f"turn {turn} of a long and tiring conversation about nothing"))
    return recalled(one)


def recalled(one: Memory) -> str:
    return " ".join(str(message.content) for message in one.get(input="What was said?"))


def test_what_one_tenant_said_no_block_tells_another(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    store = TenantVectorStore(vectors=tenancy.vectors)
    with scope(a):
        assert "canary-of-a" in talk(memory(tenancy, store), "canary-of-a")
        assert "canary-of-a" not in " ".join(m.content for m in tenancy.history.read(a, "s1")), "it lies in the block"
    with scope(b):
        assert "canary-of-a" not in recalled(memory(tenancy, store))
        told = talk(memory(tenancy, store), "canary-of-b")
        assert "canary-of-b" in told and "canary-of-a" not in told
    assert tenancy.vectors.count(a) > 0 and tenancy.vectors.count(b) > 0


async def test_the_async_ways_are_the_same(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    store = TenantVectorStore(vectors=tenancy.vectors)
    said = ChatMessage(role="user", content="canary and some more words to fill the memory")
    for tenant in pair:
        async with scope(tenant):
            one = memory(tenancy, store)
            assert "canary" not in " ".join(str(m.content) for m in await one.aget(input="?"))
            await one.aput_messages([said] * 6)
            assert "canary" in " ".join(str(m.content) for m in await one.aget(input="?"))
    await asyncio.sleep(0)


def test_with_the_tenant_taken_out_the_block_tells(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    """The control: the session id alone divides nobody."""
    a, b = pair

    class Everybodys:
        """The same store for one tenant, whoever asks."""

        def __getattr__(self, name: str) -> Any:
            return lambda tenant, *args, **kwargs: getattr(tenancy.vectors, name)(a, *args, **kwargs)

    vectors: Any = Everybodys()
    store = TenantVectorStore(vectors=vectors)
    with scope(a):
        talk(memory(tenancy, store), "canary-of-a")
    with scope(b):
        assert "canary-of-a" in talk(memory(tenancy, store), "canary-of-b")
