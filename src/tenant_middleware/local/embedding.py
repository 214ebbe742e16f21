"""LangChain embeddings that need no server."""

from __future__ import annotations

from tenant_middleware.errors import missing_extra
from tenant_middleware.local.wordvectors import embed

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise missing_extra("langchain", "tenant_middleware.local.embeddings") from error


class LocalEmbeddings(Embeddings):
    """wordllama's vectors as plain floats, 256 of them; equal texts give equal vectors in every process."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [embed(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return embed(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.embed_documents(texts)  # microseconds a text: a thread would cost more

    async def aembed_query(self, text: str) -> list[float]:
        return self.embed_query(text)


def embeddings() -> LocalEmbeddings:
    """LangChain embeddings over the table that this process shares."""
    return LocalEmbeddings()
