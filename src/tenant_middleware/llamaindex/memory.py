"""Short-term memory for LlamaIndex's Memory: conversations in the tenant's HistoryStore."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from tenant_middleware.context import current_tenant, peek_tenant
from tenant_middleware.errors import ConfigurationError, InvalidInput, TenantMismatch, missing_extra
from tenant_middleware.isolation.history import HistoryStore, Message, Role
from tenant_middleware.telemetry import stage
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.bridge.pydantic import PrivateAttr, model_serializer
    from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
}
_ARCHIVE = "\x00archived\x00"
_DATA = "llamaindex"


class TenantChatStore(AsyncDBChatStore):
    """`Memory.from_defaults(session_id=..., chat_store=TenantChatStore(tenancy.history))`.

    One session id of two tenants is two conversations. Made inside a scope, the store belongs to that tenant and
    subject, and using it in another scope raises TenantMismatch: a Memory and its blocks hold state of their own.
    """

    _history: HistoryStore = PrivateAttr()
    _owner: Tenant | None = PrivateAttr(default=None)

    def __init__(self, history: HistoryStore) -> None:
        super().__init__()
        self._history = history
        self._owner = peek_tenant()

    @classmethod
    def class_name(cls) -> str:
        return "TenantChatStore"

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        found = [message for name in _sessions(key, status) for message in await self._do("read", name)]
        start = offset or 0
        return [_theirs(message) for message in found[start : None if limit is None else start + limit]]

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        return len(await self.get_messages(key, status))

    async def add_message(self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE) -> None:
        await self.add_messages(key, [message], status)

    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        await self._do("append", *_sessions(key, status), [_ours(message) for message in messages])

    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        (wanted,) = _sessions(key, status)
        for name in _sessions(key, None):
            if name != wanted:
                await self._do("clear", name)
        await self._do("replace", wanted, [_ours(message) for message in messages])

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete the active message at a position and return it."""
        removed = await self._do("remove", *_sessions(key, MessageStatus.ACTIVE), idx)
        return None if removed is None else _theirs(removed)

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        for name in _sessions(key, status):
            await self._do("clear", name)

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        return [_theirs(message) for message in await self._do("drop_oldest", _active(key), n)]

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        moved = await self._do("move_oldest", _active(key), f"{_ARCHIVE}{key}", n)
        return [_theirs(message) for message in moved]

    async def get_keys(self) -> list[str]:
        names = await self._do("sessions")
        return sorted({name.removeprefix(_ARCHIVE) for name in names})

    async def _do(self, verb: str, *args: Any) -> Any:
        """In a thread, by the store's sync methods: LlamaIndex's sync calls run each in an event loop of their own."""
        call = cast("Callable[..., Any]", getattr(self._history, verb))
        with stage("memory", self._tenant()):
            return await asyncio.to_thread(call, self._tenant(), *args)

    def _tenant(self) -> Tenant:
        tenant = current_tenant()
        if self._owner is not None and self._owner != tenant:
            raise TenantMismatch(
                "this chat store was made in the scope of another tenant or subject: make a TenantChatStore and a "
                "Memory in each scope"
            )
        return tenant

    @model_serializer()
    def _no_dump(self) -> dict[str, Any]:
        raise ConfigurationError(
            "a TenantChatStore can't be serialised: its messages are in the tenant's history already; serialise the "
            "session id and make the Memory anew in the tenant's scope"
        )


def _active(key: str) -> str:
    if key.startswith("\x00"):
        raise InvalidInput("chat store key: expected text that doesn't begin with a NUL character")
    return key


def _sessions(key: str, status: MessageStatus | None) -> list[str]:
    """The history sessions behind a key, archived (older) messages first."""
    archived, active = f"{_ARCHIVE}{key}", _active(key)
    if status is None:
        return [archived, active]
    return [active if status == MessageStatus.ACTIVE else archived]


def _ours(message: ChatMessage) -> Message:
    return Message(
        _ROLES.get(str(message.role.value), "user"),
        message.content or "",
        data={_DATA: message.model_dump(mode="json")},
    )


def _theirs(message: Message) -> ChatMessage:
    """As it was; messages that another framework wrote come back as text."""
    own = message.data.get(_DATA)
    if own is not None:
        return ChatMessage.model_validate(own)
    return ChatMessage(role=message.role, content=message.content)
