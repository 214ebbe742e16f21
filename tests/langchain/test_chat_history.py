"""The chat-history shim: bound to the scope it was made in."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from tenant_middleware.backends.in_memory.history import InMemoryHistory
from tenant_middleware.context import scope
from tenant_middleware.errors import MissingTenant, TenantMismatch
from tenant_middleware.isolation.history import Message
from tenant_middleware.langchain.history import TenantChatHistory
from tenant_middleware.tenant import Tenant


def test_one_session_id_of_two_tenants_is_two_histories(pair: tuple[Tenant, Tenant]) -> None:
    store = InMemoryHistory()
    call = {"name": "f", "args": {"x": 1}, "id": "c", "type": "tool_call"}
    sent = [
        SystemMessage("s"),
        HumanMessage("h"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("42", tool_call_id="c"),
    ]
    for tenant in pair:
        with scope(tenant):
            history = TenantChatHistory(store, "s")
            assert history.messages == []
            history.add_messages(sent)
            history.add_message(AIMessage(f"canary of {tenant.id}"))
    with scope(pair[0]):
        history = TenantChatHistory(store, "s")
        assert history.messages == [*sent, AIMessage(f"canary of {pair[0].id}")]
        history.clear()
        assert history.messages == []
    assert store.count(pair[1]).messages == 5


async def test_a_history_belongs_to_the_scope_it_was_made_in(pair: tuple[Tenant, Tenant]) -> None:
    store = InMemoryHistory()
    with scope(pair[0]):
        history = TenantChatHistory(store, "s")
        await history.aadd_messages([HumanMessage("hi")])
        assert await history.aget_messages() == [HumanMessage("hi")]
    with scope(pair[1]):
        with pytest.raises(TenantMismatch):
            _ = history.messages
        with pytest.raises(TenantMismatch):
            await history.aclear()
    with pytest.raises(MissingTenant):
        history.add_messages([])
    with pytest.raises(MissingTenant):
        TenantChatHistory(store, "s")


def test_what_another_framework_wrote_is_read_as_text(acme: Tenant) -> None:
    store = InMemoryHistory()
    store.append(acme, "s", [Message("system", "a"), Message("user", "b"), Message("assistant", "c")])
    with scope(acme):
        read = TenantChatHistory(store, "s").messages
    assert read == [SystemMessage("a"), HumanMessage("b"), AIMessage("c")]
