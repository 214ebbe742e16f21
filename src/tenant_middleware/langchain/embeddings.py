"""Embeddings through the gate: each batch is a model call of the tenant in context, admitted, settled and booked."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

from tenant_middleware.admission.call import Call, Kind
from tenant_middleware.admission.estimate import batches, text_bound
from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import ConfigurationError, InvalidInput, missing_extra
from tenant_middleware.isolation.place import check_k
from tenant_middleware.langchain.pinned import called_now
from tenant_middleware.langchain.refusals import passing

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise missing_extra("langchain", __name__) from error


class TenantEmbeddings(Embeddings):
    """Wraps any Embeddings; `model_name` is the name that the policy entitles and prices.

    Documents go in batches of at most `batch_size` texts and about `batch_tokens` tokens, each a call of its own: a
    bulk upload waits behind its tenant's share between batches, and other tenants get through. Raises MissingTenant,
    TenantMismatch and the gate's refusals.
    """

    def __init__(
        self,
        embedding: Embeddings,
        *,
        model_name: str,
        gate: ModelGate,
        batch_size: int = 64,
        batch_tokens: int = 8_000,
    ) -> None:
        if not isinstance(embedding, Embeddings):
            raise ConfigurationError(f"TenantEmbeddings: expected Embeddings, got {type(embedding).__name__}")
        if isinstance(embedding, TenantEmbeddings):
            raise ConfigurationError("TenantEmbeddings: these embeddings go through a gate already")
        self.embedding = embedding
        self.model_name = model_name
        self._gate = gate
        self._size = check_k(batch_size, "batch_size")
        self._tokens = batch_tokens

    @passing
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        current_tenant()
        embedded: list[list[float]] = []
        for batch, tokens in self._batches(texts):
            with self._gate.call(self._call(tokens)):
                embedded.extend(_checked(batch, self.embedding.embed_documents(batch)))
        return embedded

    @passing
    def embed_query(self, text: str) -> list[float]:
        with self._gate.call(self._call(text_bound(text))):
            return self.embedding.embed_query(text)

    @passing
    def aembed_documents(self, texts: list[str]) -> Coroutine[Any, Any, list[list[float]]]:
        return called_now(self._documents, texts)

    @passing
    def aembed_query(self, text: str) -> Coroutine[Any, Any, list[float]]:
        return called_now(self._query, text)

    async def _documents(self, texts: list[str]) -> list[list[float]]:
        embedded: list[list[float]] = []
        for batch, tokens in self._batches(texts):
            async with self._gate.acall(self._call(tokens)):
                embedded.extend(_checked(batch, await self.embedding.aembed_documents(batch)))
        return embedded

    async def _query(self, text: str) -> list[float]:
        async with self._gate.acall(self._call(text_bound(text))):
            return await self.embedding.aembed_query(text)

    def _call(self, tokens: int) -> Call:
        return self._gate.new_call(self.model_name, kind=Kind.EMBEDDING, prompt_tokens=tokens)

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[str], int]]:
        return batches(texts, size=self._size, tokens=self._tokens)


def _checked(batch: Sequence[str], embedded: list[list[float]]) -> list[list[float]]:
    if len(embedded) != len(batch):
        raise InvalidInput(f"embedding: expected {len(batch)} vectors from the model, got {len(embedded)}")
    return embedded
