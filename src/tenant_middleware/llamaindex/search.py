"""A LlamaIndex query, checked: what this store would not do is an error, not something else done instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.isolation.diversity import check_balance
from tenant_middleware.isolation.options import refuse_unknown
from tenant_middleware.isolation.place import MAX_K, check_ids, check_k
from tenant_middleware.llamaindex.filters import Condition, all_of, condition, is_one_of
from tenant_middleware.llamaindex.nodes import NODE_ID, REF_DOC_ID

try:
    from llama_index.core.vector_stores.types import MetadataFilters, VectorStoreQuery, VectorStoreQueryMode
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

MODES = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR)
MMR_OPTIONS = ("mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k")
_UNUSED = ("alpha", "sparse_top_k", "hybrid_top_k", "output_fields", "embedding_field")


@dataclass(frozen=True, slots=True)
class Search:
    """One search. `wide` is how many candidates MMR chooses from, None for nearness alone; `nothing` finds nothing."""

    vector: Sequence[float]
    k: int
    condition: Condition
    wide: int | None = None
    balance: float = 0.5
    nothing: bool = False


def search_of(query: VectorStoreQuery, options: Mapping[str, Any]) -> Search:
    """The search behind a query and its `vector_store_kwargs`, of which MMR's alone are taken."""
    mmr = check_mode(query.mode) == VectorStoreQueryMode.MMR
    refuse_unknown("vector_store_kwargs", options, MMR_OPTIONS if mmr else ())
    for name in _UNUSED:
        if getattr(query, name) is not None:
            raise InvalidInput(f"query: {name} belongs to modes or stores other than this one; leave it out")
    if query.query_embedding is None:
        raise InvalidInput("query: expected a query_embedding; this store searches by nearness alone")
    balance = options.get("mmr_threshold", query.mmr_threshold)
    k = check_k(query.similarity_top_k, "similarity_top_k")
    return Search(
        query.query_embedding,
        k,
        selected(query.filters, query.node_ids or None, query.doc_ids or None),
        _wide(k, options) if mmr else None,
        0.5 if balance is None else check_balance(balance, "mmr_threshold"),
        nothing=query.doc_ids is not None and not query.doc_ids,
    )


def check_mode(mode: object) -> VectorStoreQueryMode:
    """A query mode that this store has."""
    if mode in MODES:
        return VectorStoreQueryMode(mode)
    shown = mode.value if isinstance(mode, VectorStoreQueryMode) else str(mode)[:32]
    raise InvalidInput(f"query mode: expected one of {', '.join(known.value for known in MODES)}, got {shown!r}")


def selected(
    filters: MetadataFilters | None, node_ids: Sequence[str] | None, doc_ids: Sequence[str] | None = None
) -> Condition:
    """Filters, node ids and document ids as one condition: each that is given must hold."""
    given = ((NODE_ID, node_ids), (REF_DOC_ID, doc_ids))
    ids = [is_one_of(field, check_ids(values)) for field, values in given if values is not None]
    return all_of([*ids, condition(filters)])


def _wide(k: int, options: Mapping[str, Any]) -> int:
    """How many candidates MMR looks at: as in LlamaIndex's stores four times k, or as told."""
    if len(options.keys() & {"mmr_prefetch_factor", "mmr_prefetch_k"}) == 2:
        raise InvalidInput("vector_store_kwargs: expected mmr_prefetch_factor or mmr_prefetch_k, got both")
    if "mmr_prefetch_k" in options:
        return max(k, check_k(options["mmr_prefetch_k"], "mmr_prefetch_k"))
    factor = options.get("mmr_prefetch_factor", 4.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= MAX_K:
        raise InvalidInput("vector_store_kwargs: mmr_prefetch_factor expects a number of at least 1")
    return min(MAX_K, int(k * factor))
