"""What an index's engines hold of a tenant, tied to it: the memory of a chat, and a streamed answer not yet begun."""

from __future__ import annotations

from typing import Any

from tenant_middleware.backends.in_memory.history import InMemoryHistory
from tenant_middleware.context import current_tenant, pin
from tenant_middleware.errors import TenantMismatch, missing_extra
from tenant_middleware.llamaindex.memory import TenantChatStore
from tenant_middleware.llamaindex.pinned import asteps, steps
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, StreamingResponse
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.memory import BaseMemory, Memory
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.schema import QueryBundle
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

Messages = list[ChatMessage]


class TenantMemory(BaseMemory):
    """Any memory, for the tenant and subject in whose scope it is wrapped; in another scope it raises TenantMismatch.

    LlamaIndex's memories and their blocks keep what was said in themselves, for whoever has the object. An index's chat
    engine has one of these; `agent.run(..., memory=TenantMemory(memory))` does the same for an agent.
    """

    _inner: BaseMemory = PrivateAttr()
    _owner: Tenant = PrivateAttr()

    def __init__(self, memory: BaseMemory) -> None:
        super().__init__()
        self._inner = memory
        self._owner = current_tenant()

    @classmethod
    def class_name(cls) -> str:
        return "TenantMemory"

    @classmethod
    def from_defaults(cls, **kwargs: Any) -> TenantMemory:
        """LlamaIndex's Memory; without a `chat_store` the messages are in this process."""
        kwargs.setdefault("chat_store", TenantChatStore(InMemoryHistory()))
        return cls(Memory.from_defaults(**kwargs))

    def _mine(self) -> BaseMemory:
        if current_tenant() != self._owner:
            raise TenantMismatch(
                "this memory, and the chat engine that has it, belong to the tenant and subject in whose scope they "
                "were made: make one in each scope"
            )
        return self._inner

    def get(self, input: str | None = None, **kwargs: Any) -> Messages:
        return self._mine().get(input, **kwargs)

    def get_all(self) -> Messages:
        return self._mine().get_all()

    def put(self, message: ChatMessage) -> None:
        self._mine().put(message)

    def put_messages(self, messages: Messages) -> None:
        self._mine().put_messages(messages)

    def set(self, messages: Messages) -> None:
        self._mine().set(messages)

    def reset(self) -> None:
        self._mine().reset()

    async def aget(self, input: str | None = None, **kwargs: Any) -> Messages:
        return await self._mine().aget(input, **kwargs)

    async def aget_all(self) -> Messages:
        return await self._mine().aget_all()

    async def aput(self, message: ChatMessage) -> None:
        await self._mine().aput(message)

    async def aput_messages(self, messages: Messages) -> None:
        await self._mine().aput_messages(messages)

    async def aset(self, messages: Messages) -> None:
        await self._mine().aset(messages)

    async def areset(self) -> None:
        await self._mine().areset()


class TenantQueryEngine(RetrieverQueryEngine):
    """A query engine whose streamed answers belong to who asked: LlamaIndex calls the model at the first piece read."""

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return _pinned(super()._query(query_bundle))

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        return _pinned(await super()._aquery(query_bundle))

    def synthesize(self, *args: Any, **kwargs: Any) -> RESPONSE_TYPE:
        return _pinned(super().synthesize(*args, **kwargs))

    async def asynthesize(self, *args: Any, **kwargs: Any) -> RESPONSE_TYPE:
        return _pinned(await super().asynthesize(*args, **kwargs))


def _pinned(response: RESPONSE_TYPE) -> RESPONSE_TYPE:
    if isinstance(response, StreamingResponse):
        response.response_gen = steps(pin(response.response_gen))
    elif isinstance(response, AsyncStreamingResponse):
        response.response_gen = asteps(pin(response.response_gen))
    return response
