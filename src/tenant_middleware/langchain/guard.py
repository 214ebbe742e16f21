"""The input guard as a step of a chain: what passes goes on unchanged, what is blocked raises before money is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

try:
    from langchain_core.documents import Document
    from langchain_core.messages import BaseMessage, convert_to_messages
    from langchain_core.prompt_values import PromptValue
    from langchain_core.runnables import Runnable
    from langchain_core.runnables.config import RunnableConfig
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware import telemetry
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import InvalidInput
from tenant_middleware.guardrails import InputGuard, Segment, Source
from tenant_middleware.langchain.pinned import PinnedRunnable
from tenant_middleware.langchain.refusals import passing

_SOURCES: dict[str, Source] = {"human": "user", "user": "user", "system": "system", "tool": "tool", "function": "tool"}


class _Checking(Runnable[Any, Any]):
    def __init__(self, guard: InputGuard) -> None:
        self.guard = guard

    @passing
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._call_with_config(self._check, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return await self._acall_with_config(self._acheck, input, config, **kwargs)

    def _check(self, value: Any) -> Any:
        tenant = current_tenant()
        with telemetry.stage("guard", tenant):
            self.guard.enforce(list(segments(value)), tenant)
        return value

    async def _acheck(self, value: Any) -> Any:
        tenant = current_tenant()
        with telemetry.stage("guard", tenant):
            await self.guard.aenforce(list(segments(value)), tenant)
        return value


class GuardInput(PinnedRunnable, _Checking):
    """Checks what goes in for the tenant in context; raises GuardrailBlocked, or hands the input on as it is.

    Takes a string, messages, a prompt value, documents, or a mapping of them; every piece is judged by where it came
    from (user, system, tool result, retrieved document, memory).
    """


def segments(value: Any, source: Source = "user") -> Iterator[Segment]:
    """The pieces of a chain's input with their sources; raises InvalidInput for a type the guard can't read."""
    if value is None or isinstance(value, bool | int | float):
        return
    if isinstance(value, str):
        yield Segment(value, source)
    elif isinstance(value, BaseMessage):
        yield Segment(value.text, _SOURCES.get(value.type, "memory"))
    elif isinstance(value, PromptValue):
        yield from segments(value.to_messages())
    elif isinstance(value, Document):
        yield Segment(value.page_content, "retrieved")
    elif isinstance(value, Mapping):
        yield from _mapping(value, source)
    elif (
        isinstance(value, tuple)
        and len(value) == 2
        and value[0] in ("human", "user", "system", "ai", "assistant", "tool")
    ):
        yield from segments(convert_to_messages([value]))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from segments(item, source)
    else:
        raise InvalidInput(
            f"GuardInput: expected text, messages, documents or a mapping of them, got {type(value).__name__}; put the "
            "guard where the input is still one of these"
        )


def _mapping(value: Mapping[Any, Any], source: Source) -> Iterator[Segment]:
    if "role" in value and "content" in value:  # one message in its wire form
        yield from segments(convert_to_messages([dict(value)]))
        return
    for item in value.values():
        yield from segments(item, source)
