"""Hazards of packages older than ours; run by the Python of an environment that has them.

`python old_scenes.py bound-at-import|prefix-delete|cancelled-reply ADDRESS`: prints `leaks` or `holds`. Nothing of ours
is imported here. The address is an index host's, or a Redis URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

FIRST, SECOND = "acme", "globex"
VECTOR = [1.0, 0.5, 0.25, 0.1]


def index_at(host: str) -> Any:
    from pinecone import Pinecone

    return Pinecone(api_key="key").Index(host=host)


def bound_at_import(host: str) -> bool:
    """A retriever made for whoever came first, as a module-level name is, and then used for the next one."""
    from langchain_core.embeddings import Embeddings
    from langchain_pinecone import PineconeVectorStore

    class OnePlace(Embeddings):
        def embed_query(self, text: str) -> list[float]:
            return VECTOR

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [VECTOR for _ in texts]

    index = index_at(host)
    for tenant in (FIRST, SECOND):
        PineconeVectorStore(index, OnePlace(), namespace=tenant).add_texts([f"of {tenant}"], ids=["1"])
    retriever = PineconeVectorStore(index, OnePlace(), namespace=FIRST).as_retriever()
    own = PineconeVectorStore(index, OnePlace(), namespace=SECOND).as_retriever()
    assert [found.page_content for found in own.invoke("q")] == [f"of {SECOND}"], "the owner doesn't find its own"
    return [found.page_content for found in retriever.invoke("q")] == [f"of {FIRST}"]


def prefix_delete(host: str) -> bool:
    """The delete by filter fails once; the package then deletes by id prefix, without a separator."""
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
    from llama_index.vector_stores.pinecone import PineconeVectorStore

    index = index_at(host)
    store = PineconeVectorStore(pinecone_index=index, namespace=FIRST)
    for document in ("doc1", "doc10"):
        source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)}
        store.add([TextNode(text=document, embedding=VECTOR, relationships=source)])
    before = {record for page in index.list(namespace=FIRST) for record in page}
    assert len(before) == 2, "the owner's documents aren't there"
    store.delete("doc1")
    after = {record for page in index.list(namespace=FIRST) for record in page}
    return not any(record.startswith("doc10#") for record in after)


def cancelled_reply(url: str) -> bool:
    """A request is cancelled between its question and the reply; the next one on the pool's connection reads that."""

    async def ask() -> bool:
        from redis.asyncio import Redis

        async with Redis.from_url(url, max_connections=1, decode_responses=True) as client:
            await client.mset({FIRST: f"of {FIRST}", SECOND: f"of {SECOND}"})
            assert await client.get(SECOND) == f"of {SECOND}", "the owner doesn't find its own"
            async with Redis.from_url(url) as operator:
                await operator.client_pause(300)  # so that the reply is still to come
            request = asyncio.create_task(client.get(FIRST))
            await asyncio.sleep(0.1)
            request.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await request
            return bool(await client.get(SECOND) == f"of {FIRST}")

    return asyncio.run(ask())


if __name__ == "__main__":
    scenes = {"bound-at-import": bound_at_import, "prefix-delete": prefix_delete, "cancelled-reply": cancelled_reply}
    print("leaks" if scenes[sys.argv[1]](sys.argv[2]) else "holds")
