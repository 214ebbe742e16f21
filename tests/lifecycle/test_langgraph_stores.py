"""Threads and long-term memories of LangGraph take part in export, import and erasure, one tenant's alone."""

from __future__ import annotations

import base64
import json
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypedDict

import pytest
from langchain_core.messages import AnyMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.redis import RedisSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph, add_messages
from langgraph.store.memory import InMemoryStore
from langgraph.store.redis import RedisStore
from langgraph.types import Command, interrupt

from tenant_middleware.context import scope
from tenant_middleware.errors import InvalidInput
from tenant_middleware.langchain import TenantCheckpointSaver, TenantStore
from tenant_middleware.langchain.lifecycle import StoredMemories, StoredThreads
from tenant_middleware.lifecycle import erase, export_tenant, import_tenant
from tenant_middleware.local import local_redis
from tenant_middleware.tenant import Tenant
from tests.assurance.deployments import in_memory

ACME, GLOBEX = Tenant("acme", "pro", "ann"), Tenant("globex", "pro", "bob")
THREAD: Any = {"configurable": {"thread_id": "t/1"}}


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    steps: Annotated[list[str], operator.add]


def graph(saver: TenantCheckpointSaver) -> Any:
    """Two steps, of which the second waits for a word."""

    def note(state: State) -> dict[str, Any]:
        return {"messages": [("ai", "noted")], "steps": ["note"]}

    def confirm(state: State) -> dict[str, Any]:
        return {"steps": [interrupt("sure?")]}

    builder = StateGraph(State).add_node(note).add_node(confirm).add_edge(START, "note").add_edge("note", "confirm")
    return builder.compile(checkpointer=saver)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """A saver and a store, unwrapped."""
    if request.param == "memory":
        yield InMemorySaver(), InMemoryStore()
    elif request.param == "sqlite":
        with SqliteSaver.from_conn_string(":memory:") as saver:
            yield saver, InMemoryStore()
    else:
        with local_redis() as url, RedisSaver.from_conn_string(url) as saver, RedisStore.from_conn_string(url) as store:
            saver.setup()
            store.setup()
            yield saver, store


def fill(saver: TenantCheckpointSaver, store: TenantStore, tenant: Tenant) -> None:
    with scope(tenant):
        graph(saver).invoke({"messages": [("user", f"I am of {tenant.id}")]}, THREAD)
        for number in range(3):
            store.put(("users", "ann"), f"note {number}", {"text": f"{tenant.id} likes {number}"})


def view(saver: TenantCheckpointSaver, store: TenantStore, tenant: Tenant) -> Any:
    """All that a tenant can see, in order."""
    with scope(tenant):
        state = graph(saver).get_state(THREAD)
        history = [graph(saver).get_state(one.config) for one in list(graph(saver).get_state_history(THREAD))]
        past = [[message.content for message in one.values.get("messages", ())] for one in history]
        items = sorted((item.namespace, item.key, item.value["text"]) for item in store.search((), limit=50))
    return [message.content for message in state.values.get("messages", ())], state.next, past, items


def test_they_are_exported_read_back_equal_and_erased(both: tuple[Any, Any], tmp_path: Path) -> None:
    saver, store = TenantCheckpointSaver(both[0]), TenantStore(both[1])
    for tenant in (ACME, GLOBEX):
        fill(saver, store, tenant)
    before, theirs = view(saver, store, ACME), view(saver, store, GLOBEX)
    assert before[1] == ("confirm",) and len(before[3]) == 3
    mine: Any = {"threads": StoredThreads(both[0]), "memories": StoredMemories(store)}
    with in_memory(tmp_path) as tenancy:
        manifest = export_tenant(tenancy, ACME, tmp_path / "out", stores=mine)
        assert manifest["parts"]["memories"]["records"] == 3 and manifest["parts"]["threads"]["records"] >= 3
        written = "".join(path.read_text() for path in (tmp_path / "out").glob("*.jsonl"))
        assert "globex" not in written and "I am of acme" in written  # in words, not in a code alone
        receipt = erase(tenancy, ACME, confirm="acme", stores=mine)
        fates = {one.store: (one.fate, one.erased) for one in receipt.stores}
        assert (fates["threads"], fates["memories"]) == (("GONE", 1), ("GONE", 3))
    assert view(saver, store, GLOBEX) == theirs
    assert view(saver, store, ACME)[3] == [] and not mine["threads"].leftovers(ACME)

    elsewhere, kept = TenantCheckpointSaver(InMemorySaver()), TenantStore(InMemoryStore())
    with in_memory(tmp_path) as tenancy:
        there: Any = {"threads": StoredThreads(elsewhere), "memories": StoredMemories(kept)}
        assert import_tenant(tenancy, ACME, tmp_path / "out", stores=there)["memories"] == 3
    assert view(elsewhere, kept, ACME) == before
    assert view(elsewhere, kept, GLOBEX)[3] == []
    with scope(ACME):  # and goes on where it waited
        assert graph(elsewhere).invoke(Command(resume="yes"), THREAD)["steps"] == ["note", "yes"]


def test_what_is_left_is_named(tmp_path: Path) -> None:
    saver, store = TenantCheckpointSaver(InMemorySaver()), TenantStore(InMemoryStore())
    fill(saver, store, ACME)
    assert StoredThreads(saver).leftovers(ACME) == ["t/1"] and StoredThreads(saver).leftovers(GLOBEX) == []
    assert sorted(StoredMemories(store).leftovers(ACME)) == ["note 0", "note 1", "note 2"]
    keys = [json.loads(str(row["key"])) for row in StoredMemories(store).export(ACME)]
    assert sorted(keys)[0] == ["users", "ann", "note 0"]


@dataclass
class Made:
    """An object of an application's own state; `marks` counts how often one was built."""

    text: str
    marks: ClassVar[int] = 0

    def __post_init__(self) -> None:
        Made.marks += 1


def threads_with(value: Any) -> list[Any]:
    """Exported rows of a thread whose state has this value."""
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=[Made]))
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    with scope(ACME):
        checkpoint = {**empty_checkpoint(), "channel_values": {"found": value}, "channel_versions": {"found": 1}}
        TenantCheckpointSaver(saver).put(config, checkpoint, {}, {"found": 1})  # type: ignore[arg-type]
    return list(StoredThreads(saver, types=[Made]).export(ACME))


def test_an_archive_builds_no_object_that_nobody_named() -> None:
    """What left the service may come back changed: a row's code names a module and a function to call."""
    rows, saver = threads_with(Made("x")), InMemorySaver()
    built = Made.marks
    with pytest.raises(InvalidInput, match="Made"):
        StoredThreads(saver).load(ACME, rows)
    assert Made.marks == built, "nothing was called"
    assert StoredThreads(saver).leftovers(ACME) == []
    StoredThreads(saver, types=[Made]).load(ACME, rows)
    assert StoredThreads(saver).leftovers(ACME) == ["t"] and Made.marks > built


def test_langgraphs_own_default_builds_whatever_a_row_names() -> None:
    """The mutation control."""
    (row,) = threads_with(Made("x"))
    built = Made.marks
    JsonPlusSerializer().loads_typed((row["kind"], base64.b64decode(row["state"])))
    assert Made.marks == built + 1
