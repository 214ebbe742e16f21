"""The guards in LlamaIndex: around a query engine, as a workflow's first step, or over a model's new messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import Any

from tenant_middleware import telemetry
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.guardrails import AnswerGuard, InputGuard, Segment, Source
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.llms.types import ChatMessage, MessageRole
    from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, StreamingResponse
    from llama_index.core.prompts.mixin import PromptMixinType
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
    from llama_index.core.workflow import Event, StartEvent, Workflow, step
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

_SOURCES: dict[MessageRole, Source] = {
    MessageRole.USER: "user",
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def guard_input(guard: InputGuard, value: Any) -> None:
    """Check text, messages, nodes or a mapping of them for the tenant in context; raises GuardrailBlocked."""
    tenant = current_tenant()
    with telemetry.stage("guard", tenant):
        guard.enforce(list(segments(value)), tenant)


async def aguard_input(guard: InputGuard, value: Any) -> None:
    """`guard_input`, by awaiting."""
    tenant = current_tenant()
    with telemetry.stage("guard", tenant):
        await guard.aenforce(list(segments(value)), tenant)


class GuardedQueryEngine(BaseQueryEngine):
    """A query engine behind the guard: what is blocked raises before anything is embedded, retrieved or paid for.

    `answers` looks at the whole answer for other tenants' ids and the system prompt and flags them; a streamed one goes
    on at once and is looked at when its last piece is through.
    """

    def __init__(self, engine: BaseQueryEngine, guard: InputGuard, *, answers: AnswerGuard | None = None) -> None:
        super().__init__(engine.callback_manager)
        self.engine = engine
        self.guard = guard
        self.answers = answers

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        guard_input(self.guard, query_bundle)
        return self._watched(self.engine.query(query_bundle))

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        await aguard_input(self.guard, query_bundle)
        return self._watched(await self.engine.aquery(query_bundle))

    def _watched(self, response: RESPONSE_TYPE) -> RESPONSE_TYPE:
        if self.answers is None:
            return response
        tenant = current_tenant()
        if isinstance(response, StreamingResponse):
            response.response_gen = _pieces(response.response_gen, self.answers, tenant)
        elif isinstance(response, AsyncStreamingResponse):
            response.response_gen = _apieces(response.response_gen, self.answers, tenant)
        else:
            self.answers.check(str(response), tenant)
        return response

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"engine": self.engine}


def _pieces(pieces: Iterator[str], answers: AnswerGuard, tenant: Tenant) -> Generator[str, None, None]:
    shown: list[str] = []
    for piece in pieces:
        shown.append(piece)
        yield piece
    answers.check("".join(shown), tenant)


async def _apieces(pieces: AsyncIterator[str], answers: AnswerGuard, tenant: Tenant) -> AsyncGenerator[str, None]:
    shown: list[str] = []
    async for piece in pieces:
        shown.append(piece)
        yield piece
    answers.check("".join(shown), tenant)


class Checked(Event):
    """What a GuardedWorkflow was started with, once the guard has passed it; the fields are the start event's."""


class GuardedWorkflow(Workflow):
    """A workflow whose first step is the guard: write your own first step for `Checked` in place of StartEvent."""

    def __init__(self, *, guard: InputGuard, **options: Any) -> None:
        super().__init__(**options)
        self._guard = guard

    @step
    async def guard_input(self, ev: StartEvent) -> Checked:
        asked = {**dict(ev.items()), **{name: getattr(ev, name) for name in type(ev).model_fields}}
        await aguard_input(self._guard, asked)
        return Checked(**asked)


def segments(value: Any, source: Source = "user") -> Iterator[Segment]:
    """The pieces of an input with their sources; raises InvalidInput for a type the guard can't read."""
    if value is None or isinstance(value, bool | int | float):
        return
    if isinstance(value, str):
        yield Segment(value, source)
    elif isinstance(value, QueryBundle):
        yield from segments([*dict.fromkeys([value.query_str, *(value.custom_embedding_strs or [])])])
    elif isinstance(value, ChatMessage):
        yield Segment(value.content or "", _SOURCES.get(value.role, "memory"))
    elif isinstance(value, NodeWithScore | BaseNode):
        node = value.node if isinstance(value, NodeWithScore) else value
        yield Segment(node.get_content(MetadataMode.LLM), "retrieved")
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from segments(item, source)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        for item in value:
            yield from segments(item, source)
    else:
        raise InvalidInput(
            f"guard: expected text, messages, nodes or a mapping of them, got {type(value).__name__}; put the guard "
            "where the input is still one of these"
        )


def new_messages(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """What came in after the last answer, and the user's turns before it: an attack may be split over turns."""
    answers = (MessageRole.ASSISTANT, MessageRole.CHATBOT, MessageRole.MODEL)
    last = max((i for i, message in enumerate(messages) if message.role in answers), default=-1)
    earlier = [message for message in messages[: last + 1] if message.role == MessageRole.USER]
    return [*earlier[-8:], *messages[last + 1 :]]
