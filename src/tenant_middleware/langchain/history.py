"""A chat-history class for code that still needs one; new code uses TenantCheckpointSaver and TenantStore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import TenantMismatch, missing_extra
from tenant_middleware.isolation.history import HistoryStore, Message, Role
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.langchain.values import from_json, to_json
from tenant_middleware.telemetry import stage
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
}
_DATA = "langchain"


class TenantChatHistory(BaseChatMessageHistory):
    """The messages of one session of the tenant in whose scope it is made; another scope raises TenantMismatch."""

    @passing
    def __init__(self, history: HistoryStore, session_id: str) -> None:
        self._history = history
        self._session = session_id
        self._owner = current_tenant()

    @property
    def messages(self) -> list[BaseMessage]:
        with stage("memory", self._tenant()):
            return [_theirs(message) for message in self._history.read(self._tenant(), self._session)]

    @messages.setter
    def messages(self, messages: list[BaseMessage]) -> None:
        self._history.replace(self._tenant(), self._session, [_ours(message) for message in messages])

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        self._history.append(self._tenant(), self._session, [_ours(message) for message in messages])

    def clear(self) -> None:
        self._history.clear(self._tenant(), self._session)

    async def aget_messages(self) -> list[BaseMessage]:
        with stage("memory", self._tenant()):
            return [_theirs(message) for message in await self._history.aread(self._tenant(), self._session)]

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        await self._history.aappend(self._tenant(), self._session, [_ours(message) for message in messages])

    async def aclear(self) -> None:
        await self._history.aclear(self._tenant(), self._session)

    @passing
    def _tenant(self) -> Tenant:
        tenant = current_tenant()
        if tenant != self._owner:
            raise TenantMismatch(
                "this history belongs to the tenant and subject in whose scope it was made: make one in each scope"
            )
        return tenant


def _ours(message: BaseMessage) -> Message:
    return Message(_ROLES.get(message.type, "user"), message.text, data={_DATA: to_json(message)})


def _theirs(message: Message) -> BaseMessage:
    """As it was; messages that another framework wrote come back as text."""
    own = message.data.get(_DATA)
    if own is not None:
        return cast("BaseMessage", from_json(own))
    if message.role == "system":
        return SystemMessage(message.content)
    return HumanMessage(message.content) if message.role == "user" else AIMessage(message.content)
