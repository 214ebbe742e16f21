"""TenantCheckpointSaver: one thread id of two tenants is two conversations, in every method and twin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages

from tenant_middleware.context import pin, scope
from tenant_middleware.errors import ConfigurationError, InvalidInput, MissingTenant, TenantMismatch
from tenant_middleware.langchain.memory import TenantCheckpointSaver
from tenant_middleware.langchain.threads import STAMP
from tenant_middleware.tenant import Tenant
from tests.memory.savers import BACKENDS, opened

CONFIG: Any = {"configurable": {"thread_id": "t"}}


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def graph(saver: BaseCheckpointSaver[Any] | None, steps: int = 1) -> Any:
    builder = StateGraph(State)
    before = START
    for step in range(steps):
        name = f"n{step}"
        builder.add_node(name, lambda state: {"messages": [AIMessage(f"seen {len(state['messages'])}")]})
        builder.add_edge(before, name)
        before = name
    return builder.compile(checkpointer=saver)


def said(graph: Any, text: str, config: Any = CONFIG) -> list[str]:
    return [m.content for m in graph.invoke({"messages": [("user", text)]}, config)["messages"]]


@pytest.fixture(params=BACKENDS)
def inner(request: pytest.FixtureRequest) -> Iterator[Any]:
    with opened(request.param, request) as saver:
        yield saver


def test_the_same_thread_id_is_two_conversations(inner: Any, pair: tuple[Tenant, Tenant]) -> None:
    app = graph(TenantCheckpointSaver(inner))
    for tenant in pair:
        with scope(tenant):
            assert said(app, f"canary of {tenant.id}") == [f"canary of {tenant.id}", "seen 1"]
    for tenant in pair:
        with scope(tenant):
            assert said(app, "again") == [f"canary of {tenant.id}", "seen 1", "again", "seen 3"]
            assert app.get_state(CONFIG).config["configurable"]["thread_id"] == "t"


def test_without_the_wrapper_the_conversations_meet(inner: Any, pair: tuple[Tenant, Tenant]) -> None:
    app = graph(inner)
    for tenant in pair:
        with scope(tenant):
            said(app, f"canary of {tenant.id}")
    with scope(pair[1]):
        assert f"canary of {pair[0].id}" in said(app, "again")


def test_a_listing_is_one_tenants(inner: Any, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    saver = TenantCheckpointSaver(inner)
    app = graph(saver)
    for tenant, threads in ((a, ("t", "u")), (b, ("t",))):
        with scope(tenant):
            for thread in threads:
                said(app, "hi", {"configurable": {"thread_id": thread}})
    with scope(a):
        found = list(saver.list(None))
        assert {f.config["configurable"]["thread_id"] for f in found} == {"t", "u"}
        assert {f.parent_config["configurable"]["thread_id"] for f in found if f.parent_config} == {"t", "u"}
        assert all(STAMP not in f.metadata for f in found)
        assert len(list(saver.list(None, limit=3))) == 3
        assert len(list(saver.list(CONFIG))) == 3 == len(list(saver.list(None, filter={"step": -1}))) + 1
        with pytest.raises(InvalidInput, match="comes from the context"):
            saver.list(None, filter={STAMP: "anything"})
    with scope(b):
        assert {f.config["configurable"]["thread_id"] for f in saver.list(None)} == {"t"}
        assert len(list(saver.list(None, limit=99))) == 3
    assert len(list(inner.list(None))) == 9, "the bare saver enumerates everyone"


def test_a_listing_belongs_to_the_tenant_that_asked(pair: tuple[Tenant, Tenant]) -> None:
    """The tenant is read when `list` is called, not at its first step."""
    a, b = pair
    saver = TenantCheckpointSaver(InMemorySaver())
    app = graph(saver)
    with scope(a):
        said(app, "hi")
        listing = saver.list(None)
    with scope(b), pytest.raises(TenantMismatch):
        next(listing)
    with scope(a):
        listing = saver.list(None)
    assert next(listing).config["configurable"]["thread_id"] == "t"


def test_deleting_a_thread_leaves_the_others(inner: Any, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    saver = TenantCheckpointSaver(inner)
    app = graph(saver)
    for tenant in pair:
        with scope(tenant):
            said(app, "hi")
    with scope(a):
        saver.delete_thread("t")
        assert saver.get_tuple(CONFIG) is None and app.get_state(CONFIG).values == {}
    with scope(b):
        assert saver.get_tuple(CONFIG) is not None
        assert saver.clear_tenant() == 1 and saver.get_tuple(CONFIG) is None


async def test_the_async_twins_are_scoped_too(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    saver = TenantCheckpointSaver(InMemorySaver())
    app = graph(saver)
    for tenant in pair:
        async with scope(tenant):
            await app.ainvoke({"messages": [("user", f"canary of {tenant.id}")]}, CONFIG)
    async with scope(b):
        state = await app.aget_state(CONFIG)
        assert [m.content for m in state.values["messages"]] == [f"canary of {b.id}", "seen 1"]
        assert len([f async for f in saver.alist(None)]) == 3
        await saver.adelete_thread("t")
        assert await saver.aget_tuple(CONFIG) is None
        pending = saver.aget_tuple(CONFIG)
    assert await pending is None, "the tenant was taken at the call"
    async with scope(a):
        assert await saver.aget_tuple(CONFIG) is not None
        assert await saver.aclear_tenant() == 1


def test_a_checkpoint_id_of_another_tenant_finds_nothing(inner: Any, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    saver = TenantCheckpointSaver(inner)
    with scope(a):
        said(graph(saver), "hi")
        mine = saver.get_tuple(CONFIG)
        assert mine is not None and saver.get_tuple(mine.config) == mine
    with scope(b):
        assert saver.get_tuple(mine.config) is None
        with pytest.raises(TenantMismatch):
            saver.put(mine.config, empty_checkpoint(), {}, {})
        with pytest.raises(TenantMismatch):
            saver.put_writes(mine.config, [("messages", "x")], "task")
        assert list(saver.list(None)) == []


def test_a_graphs_stream_that_another_scope_resumes_stores_nothing(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    saver = TenantCheckpointSaver(InMemorySaver())
    app = graph(saver, steps=3)
    with scope(a):
        bare = app.stream({"messages": [("user", "hi")]}, CONFIG)
        next(bare)
        pinned = pin(app.stream({"messages": [("user", "hi")]}, {"configurable": {"thread_id": "u"}}))
        next(pinned)
    with scope(b):
        with pytest.raises(TenantMismatch):
            list(bare)
        with pytest.raises(TenantMismatch):
            list(pinned)
        assert list(saver.list(None)) == []


def test_equal_checkpoint_ids_of_two_tenants_may_both_be_stored(pair: tuple[Tenant, Tenant]) -> None:
    saver = TenantCheckpointSaver(InMemorySaver())
    first, second = empty_checkpoint(), empty_checkpoint()
    for tenant in pair:
        with scope(tenant):
            stored = saver.put({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, first, {}, {})
            saver.put(stored, second, {}, {})
            found = saver.get_tuple(CONFIG)
            assert found is not None and found.checkpoint["id"] == second["id"]


def test_hostile_thread_ids_do_not_meet(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    saver = TenantCheckpointSaver(InMemorySaver())
    with scope(a):
        stored = saver.put({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, empty_checkpoint(), {}, {})
        raw = next(iter(saver.inner.list(None))).config["configurable"]["thread_id"]
    with scope(b):
        for thread in (raw, f"{a.id}:t", "t.", "t*", f"../{a.id}/t"):
            assert saver.get_tuple({"configurable": {"thread_id": thread}}) is None
    assert stored["configurable"]["thread_id"] == "t"


def test_runs_are_told_apart(pair: tuple[Tenant, Tenant]) -> None:
    """A run id is stored as the tenant's own, so that deletion by run can't reach another tenant's."""
    inner = InMemorySaver()
    saver = TenantCheckpointSaver(inner)
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for tenant in pair:
        with scope(tenant):
            saver.put(config, empty_checkpoint(), {"run_id": "r"}, {})
            found = saver.get_tuple(CONFIG)
            assert found is not None and found.metadata["run_id"] == "r"
            assert len(list(saver.list(None, filter={"run_id": "r"}))) == 1
    assert len({f.metadata["run_id"] for f in inner.list(None)}) == 2


def test_no_tenant_no_memory() -> None:
    saver = TenantCheckpointSaver(InMemorySaver())
    with pytest.raises(MissingTenant):
        saver.get_tuple(CONFIG)
    with pytest.raises(MissingTenant):
        saver.list(None)
    with pytest.raises(MissingTenant):
        said(graph(saver), "hi")


def test_a_call_without_a_thread_says_what_is_missing(acme: Tenant) -> None:
    with scope(acme), pytest.raises(InvalidInput, match="thread_id"):
        TenantCheckpointSaver(InMemorySaver()).get_tuple({"configurable": {}})


class _Cipher:
    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "rot", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


@pytest.mark.parametrize(
    "serde",
    [
        JsonPlusSerializer(pickle_fallback=True),
        EncryptedSerializer(_Cipher(), JsonPlusSerializer(pickle_fallback=True)),
    ],
    ids=["plain", "encrypted"],
)
def test_a_pickling_saver_is_refused(serde: Any) -> None:
    with pytest.raises(ConfigurationError, match="pickle"):
        TenantCheckpointSaver(InMemorySaver(serde=serde))


def test_an_encrypting_saver_is_welcome(acme: Tenant) -> None:
    saver = TenantCheckpointSaver(InMemorySaver(serde=EncryptedSerializer(_Cipher(), JsonPlusSerializer())))
    with scope(acme):
        assert said(graph(saver), "hi") == ["hi", "seen 1"]


def test_the_allowlist_reaches_the_inner_saver(acme: Tenant) -> None:
    saver = TenantCheckpointSaver(InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None)))
    clone = saver.with_allowlist([("some.module", "Type")])
    assert isinstance(clone, TenantCheckpointSaver) and clone.inner is not saver.inner
    with scope(acme):
        said(graph(saver), "hi")
        assert clone.get_tuple(CONFIG) is not None


def test_wrapping_twice_is_an_error() -> None:
    with pytest.raises(ConfigurationError):
        TenantCheckpointSaver(TenantCheckpointSaver(InMemorySaver()))
