"""One search of the tenant's documents, written once for plain calls and for awaiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.flow import Flow, Op
from tenant_middleware.isolation.diversity import check_balance, diverse_hits
from tenant_middleware.isolation.filters import parse
from tenant_middleware.isolation.place import check_k, check_vector
from tenant_middleware.isolation.vectors import Hit, Record, Vectors
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.embeddings import Embeddings
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

SearchType = Literal["similarity", "similarity_score_threshold", "mmr"]
SEARCH_TYPES: tuple[SearchType, ...] = ("similarity", "similarity_score_threshold", "mmr")


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked of the store. `score_threshold` keeps hits whose relevance (0 to 1) reaches it."""

    k: int = 4
    filter: Mapping[str, Any] | None = None
    search_type: SearchType = "similarity"
    score_threshold: float | None = None
    fetch_k: int = 20
    lambda_mult: float = 0.5

    def __post_init__(self) -> None:
        check_k(self.k)
        if self.filter is not None:
            parse(self.filter)
        if self.search_type not in SEARCH_TYPES:
            raise InvalidInput(f"search_type: expected one of {', '.join(SEARCH_TYPES)}")
        if self.search_type == "similarity_score_threshold" and self.score_threshold is None:
            raise InvalidInput("score_threshold: similarity_score_threshold needs one, from 0 to 1")
        if self.score_threshold is not None:
            check_balance(self.score_threshold, "score_threshold")
        if self.search_type == "mmr":
            check_k(self.fetch_k, "fetch_k")
            check_balance(self.lambda_mult, "lambda_mult")


def relevance(score: float) -> float:
    """A cosine score on LangChain's scale from 0 to 1: what points away is not relevant at all."""
    return min(max(score, 0.0), 1.0)


def find(
    vectors: Vectors, embedding: Embeddings, tenant: Tenant, asked: str | Sequence[float], search: Search
) -> Flow[list[Hit]]:
    """Embed a text, or take a vector, and find what is near it."""
    if not isinstance(asked, str):
        vector: Sequence[float] = asked
    elif asked.strip():
        vector = yield Op(embedding, "embed_query", (asked,), False)
    else:
        raise InvalidInput("query: expected a text that isn't empty")
    if search.search_type == "mmr":
        return (yield from _diverse(vectors, tenant, vector, search))
    hits: list[Hit] = yield Op(vectors, "query", (tenant, vector, search.k, search.filter), False)
    if search.score_threshold is None:
        return hits
    return [hit for hit in hits if relevance(hit.score) >= search.score_threshold]


def _diverse(vectors: Vectors, tenant: Tenant, vector: Sequence[float], search: Search) -> Flow[list[Hit]]:
    wide = max(search.fetch_k, search.k)
    hits: list[Hit] = yield Op(vectors, "query", (tenant, vector, wide, search.filter), False)
    if not hits:
        return []
    found: list[Record] = yield Op(vectors, "fetch", (tenant, [hit.id for hit in hits]), False)
    return diverse_hits(check_vector(vector), hits, found, search.k, search.lambda_mult)
