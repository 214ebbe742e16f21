"""LlamaIndex embeddings through the gate: each batch is a model call of the tenant in context."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from tenant_middleware.admission.call import Call, Kind
from tenant_middleware.admission.estimate import batches, text_bound
from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.errors import ConfigurationError, InvalidInput, missing_extra
from tenant_middleware.isolation import seal
from tenant_middleware.llamaindex.key_values import TenantKVStore
from tenant_middleware.llamaindex.pinned import Unpickled, called_now

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

Vector = list[float]


class TenantEmbedding(Unpickled, BaseEmbedding):
    """Wraps any BaseEmbedding; `model_name` is the name that the policy entitles and prices.

    Texts go in batches of at most `embed_batch_size` (the inner model's when left out) and about `batch_tokens` tokens,
    one after the other, each a call of its own: a bulk upload waits behind its tenant's share between batches.
    `embeddings_cache` keeps each tenant's own. Raises MissingTenant, TenantMismatch and the gate's refusals.
    """

    _inner: BaseEmbedding = PrivateAttr()
    _gate: ModelGate = PrivateAttr()
    _batch_tokens: int = PrivateAttr()

    def __init__(
        self,
        embedding: BaseEmbedding,
        *,
        model_name: str,
        gate: ModelGate,
        embed_batch_size: int | None = None,
        batch_tokens: int = 8_000,
        embeddings_cache: TenantKVStore | None = None,
    ) -> None:
        if not isinstance(embedding, BaseEmbedding):
            raise ConfigurationError(f"TenantEmbedding: expected a BaseEmbedding, got {type(embedding).__name__}")
        if isinstance(embedding, TenantEmbedding):
            raise ConfigurationError("TenantEmbedding: this embedding goes through a gate already")
        if embedding.embeddings_cache is not None:
            raise ConfigurationError(
                "TenantEmbedding: the inner embedding has a cache, which all tenants would share; take it off and give "
                "the wrapper embeddings_cache=TenantKVStore(...)"
            )
        if embeddings_cache is not None and not isinstance(embeddings_cache, TenantKVStore):
            raise ConfigurationError(
                f"embeddings_cache: expected a TenantKVStore, got {type(embeddings_cache).__name__}; wrap the store"
            )
        super().__init__(
            model_name=model_name,
            embed_batch_size=embed_batch_size or embedding.embed_batch_size,
            num_workers=embedding.num_workers,
            callback_manager=embedding.callback_manager,
            rate_limiter=embedding.rate_limiter,
            embeddings_cache=embeddings_cache,
        )
        self._inner = embedding
        self._gate = gate
        self._batch_tokens = batch_tokens

    @classmethod
    def class_name(cls) -> str:
        return "TenantEmbedding"

    # Coroutines belong to the tenant of the call, not of whoever awaits them.

    def aget_query_embedding(self, query: str) -> Coroutine[Any, Any, Vector]:
        return called_now(super().aget_query_embedding, query)

    def aget_text_embedding(self, text: str) -> Coroutine[Any, Any, Vector]:
        return called_now(super().aget_text_embedding, text)

    def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> Coroutine[Any, Any, list[Vector]]:
        if self.num_workers and self.num_workers > 1:
            return called_now(super().aget_text_embedding_batch, texts, show_progress, **kwargs)
        return called_now(self._in_turn, texts, show_progress, **kwargs)

    def acall(self, nodes: list[BaseNode], **kwargs: Any) -> Coroutine[Any, Any, list[BaseNode]]:  # type: ignore[override]  # as the base class's, less its Sequence
        return called_now(super().acall, nodes, **kwargs)  # type: ignore[arg-type]  # a Sequence there

    async def _in_turn(self, texts: list[str], show_progress: bool, **kwargs: Any) -> list[Vector]:
        """Batch by batch: all at once, a large upload would use up its own tenant's concurrency and be refused."""
        size, embedded = self.embed_batch_size, list[Vector]()
        for start in range(0, len(texts), size):
            batch = texts[start : start + size]
            embedded += await super().aget_text_embedding_batch(batch, show_progress, **kwargs)
        return embedded

    # One gated call each.

    def _get_query_embedding(self, query: str) -> Vector:
        with self._gate.call(self._call(text_bound(query))):
            return self._inner._get_query_embedding(query)

    async def _aget_query_embedding(self, query: str) -> Vector:
        async with self._gate.acall(self._call(text_bound(query))):
            return await self._inner._aget_query_embedding(query)

    def _get_text_embedding(self, text: str) -> Vector:
        with self._gate.call(self._call(text_bound(text))):
            return self._inner._get_text_embedding(text)

    async def _aget_text_embedding(self, text: str) -> Vector:
        async with self._gate.acall(self._call(text_bound(text))):
            return await self._inner._aget_text_embedding(text)

    def _get_text_embeddings(self, texts: list[str]) -> list[Vector]:
        embedded: list[Vector] = []
        for batch, tokens in batches(texts, size=self.embed_batch_size, tokens=self._batch_tokens):
            with self._gate.call(self._call(tokens)):
                embedded += _checked(batch, self._inner._get_text_embeddings(batch))
        return embedded

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Vector]:
        embedded: list[Vector] = []
        for batch, tokens in batches(texts, size=self.embed_batch_size, tokens=self._batch_tokens):
            async with self._gate.acall(self._call(tokens)):
                embedded += _checked(batch, await self._inner._aget_text_embeddings(batch))
        return embedded

    def _call(self, tokens: int) -> Call:
        seal.check("llama_index.core")
        return self._gate.new_call(self.model_name, kind=Kind.EMBEDDING, prompt_tokens=tokens)


def _checked(batch: list[str], embedded: list[Vector]) -> list[Vector]:
    if len(embedded) != len(batch):
        raise InvalidInput(f"embedding: expected {len(batch)} vectors from the model, got {len(embedded)}")
    return embedded
