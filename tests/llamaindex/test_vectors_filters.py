"""LlamaIndex's filters mean here what they mean in its own store, through every operator and nesting."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from tenant_middleware import InvalidInput, scope
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors
from tenant_middleware.llamaindex import TenantVectorStore
from tenant_middleware.llamaindex.filters import MAX_DEPTH, condition
from tenant_middleware.tenant import Tenant

OP = FilterOperator
WORDS, YEARS = ["red", "Red", "reddish", "blue"], [2019, 2020, 2021]

metadata = st.fixed_dictionaries(
    {},
    optional={
        "color": st.sampled_from([*WORDS, ""]),
        "year": st.sampled_from(YEARS),
        "tags": st.lists(st.sampled_from(WORDS), max_size=3),
        "none": st.none(),
    },
)


def _filter(key: str, op: OP, value: Any) -> MetadataFilter:
    return MetadataFilter(key=key, operator=op, value=value)


def _lists(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3)


words, years = st.sampled_from(WORDS), st.sampled_from(YEARS)
leaves = st.one_of(
    st.builds(_filter, st.just("color"), st.sampled_from([OP.EQ, OP.NE]), words),
    st.builds(_filter, st.just("color"), st.sampled_from([OP.IN, OP.NIN]), _lists(WORDS)),
    st.builds(_filter, st.just("color"), st.sampled_from([OP.TEXT_MATCH, OP.TEXT_MATCH_INSENSITIVE]), words),
    st.builds(_filter, st.just("year"), st.sampled_from([OP.EQ, OP.NE, OP.GT, OP.GTE, OP.LT, OP.LTE]), years),
    st.builds(_filter, st.just("year"), st.sampled_from([OP.IN, OP.NIN]), _lists(YEARS)),
    st.builds(_filter, st.just("tags"), st.sampled_from([OP.ANY, OP.ALL]), _lists(WORDS)),
    st.builds(_filter, st.just("tags"), st.just(OP.CONTAINS), words),
    st.builds(_filter, st.sampled_from(["color", "tags", "none", "year"]), st.just(OP.IS_EMPTY), st.none()),
)
nested = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda parts, how: MetadataFilters(filters=parts, condition=how),
        st.lists(inner, min_size=1, max_size=3),
        st.sampled_from(list(FilterCondition)),
    ),
    max_leaves=6,
).map(lambda made: made if isinstance(made, MetadataFilters) else MetadataFilters(filters=[made]))


def _reference(filters: MetadataFilters, data: dict[str, Any]) -> bool:
    """LlamaIndex's own judgement of each comparison; it has no nesting, so that is done here."""
    found = [
        _reference(part, data)
        if isinstance(part, MetadataFilters)
        else build_metadata_filter_fn(lambda _: data, MetadataFilters(filters=[part]))("id")
        for part in filters.filters
    ]
    if filters.condition == FilterCondition.OR:
        return any(found)
    return not any(found) if filters.condition == FilterCondition.NOT else all(found)


@given(st.lists(metadata, min_size=1, max_size=8), nested)
def test_what_is_found_is_what_the_reference_says(corpus: list[dict[str, Any]], filters: MetadataFilters) -> None:
    store = TenantVectorStore(InMemoryVectors(isolation="filter"))
    for name in ("acme", "globex"):
        with scope(Tenant(name, "free")):
            store.add(
                [
                    TextNode(id_=f"{name}{number}", text="x", metadata=data, embedding=[1.0, number + 1.0])
                    for number, data in enumerate(corpus)
                ]
            )
    expected = {f"acme{number}" for number, data in enumerate(corpus) if _reference(filters, data)}
    with scope(Tenant("acme", "free")):
        found = store.query(VectorStoreQuery([1.0, 1.0], similarity_top_k=50, filters=filters))
        assert set(found.ids or ()) == expected
        assert {node.node_id for node in store.get_nodes(filters=filters)} == expected
        store.delete_nodes(filters=filters)
        assert {node.node_id for node in store.get_nodes()} == {f"acme{n}" for n in range(len(corpus))} - expected
    with scope(Tenant("globex", "free")):
        assert len(store.get_nodes()) == len(corpus)


def test_every_operator_is_taken() -> None:
    values: dict[OP, Any] = {OP.IN: ["x"], OP.NIN: ["x"], OP.ANY: ["x"], OP.ALL: ["x"], OP.IS_EMPTY: None}
    numeric = (OP.GT, OP.GTE, OP.LT, OP.LTE)
    for op in OP:
        value = 1 if op in numeric else values.get(op, "x")
        assert condition(MetadataFilters(filters=[_filter("color", op, value)])).test is not None


@pytest.mark.parametrize(
    ("op", "value"),
    [
        (OP.EQ, ["x"]),
        (OP.EQ, None),
        (OP.IN, "x"),
        (OP.IN, []),
        (OP.ALL, "x"),
        (OP.ALL, []),
        (OP.ANY, "x"),
        (OP.GT, "x"),
        (OP.CONTAINS, ["x"]),
        (OP.TEXT_MATCH, 1),
        (OP.TEXT_MATCH, ""),
    ],
)
def test_values_that_an_operator_cannot_take_are_refused(op: OP, value: Any) -> None:
    """LlamaIndex's own store answers some of these with an empty list, some with a TypeError, some with anything."""
    with pytest.raises(InvalidInput):
        condition(MetadataFilters(filters=[_filter("color", op, value)]))


def test_groups_that_would_hold_of_everything_are_refused() -> None:
    empty = MetadataFilters(filters=[])
    assert condition(None).where is None and condition(empty).where is None
    for how in FilterCondition:
        with pytest.raises(InvalidInput):
            condition(MetadataFilters(filters=[_filter("color", OP.EQ, "x"), empty], condition=how))
    deep = MetadataFilters(filters=[_filter("color", OP.EQ, "x")])
    for _ in range(MAX_DEPTH):
        deep = MetadataFilters(filters=[deep])
    with pytest.raises(InvalidInput):
        condition(deep)


@pytest.mark.parametrize("key", ["tenant_id", "_tm_tenant", "_tm_anything", "$or", ""])
def test_the_tenant_is_no_field_of_a_caller(key: str) -> None:
    for op in (OP.EQ, OP.NE, OP.TEXT_MATCH, OP.IS_EMPTY):
        with pytest.raises(InvalidInput):
            condition(MetadataFilters(filters=[_filter(key, op, "globex")]))
