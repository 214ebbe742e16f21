"""TenantChatStore under LlamaIndex's Memory, beside the store that LlamaIndex ships as the reference."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.memory import Memory
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from pydantic_core import PydanticSerializationError

from tenant_middleware.backends.in_memory.history import InMemoryHistory
from tenant_middleware.backends.redis.history import RedisHistory
from tenant_middleware.context import scope
from tenant_middleware.errors import InvalidInput, MissingTenant, TenantMismatch
from tenant_middleware.isolation.history import HistoryStore, Message
from tenant_middleware.llamaindex.memory import TenantChatStore
from tenant_middleware.local import local_redis
from tenant_middleware.tenant import Tenant

ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


@pytest.fixture(scope="module")
def redis_history() -> Iterator[RedisHistory]:
    with local_redis(modules=False) as url:
        history = RedisHistory(url)
        yield history
        history.close()


@pytest.fixture(params=["memory", "redis"])
def history(request: pytest.FixtureRequest) -> HistoryStore:
    if request.param == "memory":
        return InMemoryHistory()
    shared: RedisHistory = request.getfixturevalue("redis_history")
    for name in ("acme", "Acme", "acme2", "globex"):
        shared.clear_tenant(Tenant(name, "free"))
    return shared


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def texts(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


def test_one_session_id_of_two_tenants_is_two_memories(history: HistoryStore, pair: tuple[Tenant, Tenant]) -> None:
    for tenant in pair:
        with scope(tenant):
            memory = Memory.from_defaults(session_id="s1", chat_store=TenantChatStore(history))
            memory.put(user(f"canary of {tenant.id}"))
    for tenant in pair:
        with scope(tenant):
            memory = Memory.from_defaults(session_id="s1", chat_store=TenantChatStore(history))
            assert texts(memory.get_all()) == [f"canary of {tenant.id}"]
            memory.reset()
            assert memory.get_all() == []


async def test_llamaindexs_own_store_lets_them_meet(tmp_path: Any, pair: tuple[Tenant, Tenant]) -> None:
    store = SQLAlchemyChatStore(table_name="chat", async_database_uri=f"sqlite+aiosqlite:///{tmp_path}/chat.db")
    for tenant in pair:
        with scope(tenant):
            await store.add_message("s1", user(f"canary of {tenant.id}"))
    assert len(await store.get_messages("s1")) == 2
    await store._async_engine.dispose()  # type: ignore[union-attr]  # it has one now


async def _exercise(store: AsyncDBChatStore) -> list[Any]:
    """Every method once, with the answers: two stores that agree on this agree on the contract."""
    seen: list[Any] = []
    await store.add_messages("k", [user(str(i)) for i in range(6)])
    await store.add_message("other", user("x"))
    seen.append(texts(await store.get_messages("k")))
    seen.append(texts(await store.get_messages("k", limit=2, offset=1)))
    seen.append(texts(await store.archive_oldest_messages("k", 2)))
    seen.append(texts(await store.get_messages("k", status=ARCHIVED)))
    seen.append(texts(await store.get_messages("k", status=None)))
    seen.append([await store.count_messages("k", s) for s in (ACTIVE, ARCHIVED, None)])
    seen.append(texts(await store.delete_oldest_messages("k", 1)))
    seen.append(sorted(await store.get_keys()))
    await store.delete_messages("k", ARCHIVED)
    seen.append(texts(await store.get_messages("k", status=None)))
    await store.set_messages("k", [user("new")])
    seen.append(texts(await store.get_messages("k", status=None)))
    await store.delete_messages("k")
    seen.append([await store.get_messages("k"), await store.count_messages("k"), await store.get_keys()])
    return seen


async def test_it_answers_as_the_reference_does(
    history: HistoryStore, pair: tuple[Tenant, Tenant], tmp_path: Any
) -> None:
    reference = SQLAlchemyChatStore(table_name="chat", async_database_uri=f"sqlite+aiosqlite:///{tmp_path}/chat.db")
    expected = await _exercise(reference)
    await reference._async_engine.dispose()  # type: ignore[union-attr]  # it has one now
    for tenant in pair:
        async with scope(tenant):
            assert await _exercise(TenantChatStore(history)) == expected


async def test_messages_come_back_as_they_were(history: HistoryStore, acme: Tenant) -> None:
    sent = [
        ChatMessage(role=MessageRole.DEVELOPER, content="rules"),
        ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id="1", tool_name="f", tool_kwargs={"x": 1})]),
        ChatMessage(role="tool", content="42", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(role="user", blocks=[TextBlock(text="see"), ImageBlock(image=b"\x89PNG")]),
    ]
    async with scope(acme):
        store = TenantChatStore(history)
        await store.add_messages("k", sent)
        assert [m.model_dump(mode="json") for m in await store.get_messages("k")] == [
            m.model_dump(mode="json") for m in sent
        ]
        assert (await store.delete_message("k", 1)) is not None and len(await store.get_messages("k")) == 3
        assert await store.delete_message("k", 9) is None


def test_what_another_framework_wrote_is_read_as_text(acme: Tenant) -> None:
    history = InMemoryHistory()
    history.append(acme, "s", [Message("user", "hi"), Message("assistant", "hello", data={"langchain": {}})])
    with scope(acme):
        memory = Memory.from_defaults(session_id="s", chat_store=TenantChatStore(history))
        assert [(m.role.value, m.content) for m in memory.get_all()] == [("user", "hi"), ("assistant", "hello")]


async def test_a_long_conversation_is_flushed_to_the_archive(
    history: HistoryStore, pair: tuple[Tenant, Tenant]
) -> None:
    for tenant in pair:
        with scope(tenant):
            store = TenantChatStore(history)
            memory = Memory.from_defaults(
                session_id="s", chat_store=store, token_limit=60, token_flush_size=10, chat_history_token_ratio=0.5
            )
            for i in range(20):
                await memory.aput(user(f"message number {i} of {tenant.id}"))
                await memory.aput(ChatMessage(role="assistant", content="noted"))
            everything = await store.get_messages("s", status=None)
            assert len(everything) == 40 and len(await memory.aget()) < 40
            assert all(tenant.id in str(m.content) for m in everything if m.role == MessageRole.USER)


def test_a_memory_belongs_to_the_scope_it_was_made_in(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    history = InMemoryHistory()
    with scope(a):
        memory = Memory.from_defaults(session_id="s", chat_store=TenantChatStore(history))
        memory.put(user("hi"))
    with scope(b), pytest.raises(TenantMismatch):
        memory.get_all()
    with scope(Tenant(a.id, a.tier, "another")), pytest.raises(TenantMismatch):
        memory.get_all()
    with pytest.raises(MissingTenant):
        memory.get_all()
    shared = TenantChatStore(history)
    with scope(b):
        assert Memory.from_defaults(session_id="s", chat_store=shared).get_all() == []


async def test_two_tenants_at_once_do_not_meet(history: HistoryStore, pair: tuple[Tenant, Tenant]) -> None:
    store = TenantChatStore(history)

    async def talk(tenant: Tenant) -> list[str | None]:
        async with scope(tenant):
            memory = Memory.from_defaults(session_id="s", chat_store=store)
            for i in range(5):
                await memory.aput(user(f"{tenant.id} {i}"))
            return texts(await memory.aget_all())

    for tenant, said in zip(pair, await asyncio.gather(*map(talk, pair)), strict=True):
        assert said == [f"{tenant.id} {i}" for i in range(5)]


async def test_it_is_truthy_and_is_not_dumped(acme: Tenant) -> None:
    store = TenantChatStore(InMemoryHistory())
    assert bool(store), "Memory.from_defaults would take its own store otherwise"
    with pytest.raises(PydanticSerializationError, match=r"ConfigurationError.*session id"):
        store.model_dump()
    with scope(acme), pytest.raises(InvalidInput):
        await store.get_messages("\x00x")
