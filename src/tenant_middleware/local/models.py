"""LangChain chat models that need no server: a small real one, an echo, and one that plays an agent's script."""

from __future__ import annotations

import asyncio
import json
import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.local.arguments import example
from tenant_middleware.local.engine import MODEL_NAME, Message, Piece, engine

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage, ToolMessage
    from langchain_core.messages.ai import UsageMetadata
    from langchain_core.messages.tool import tool_call_chunk
    from langchain_core.messages.utils import message_chunk_to_message
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable
    from langchain_core.tools import BaseTool
    from langchain_core.utils.function_calling import convert_to_openai_tool
except ImportError as error:
    raise missing_extra("langchain", "tenant_middleware.local.chat_model") from error

_WORD = re.compile(r"\s*\S+\s*")


class LocalModel(BaseChatModel):
    """A chat model whose whole answer is its stream put together, so that both report the same text and usage.

    `max_tokens` (or `max_completion_tokens`) of the call and of the model both cap the output; the smaller one wins.
    """

    model_name: str
    max_tokens: int | None = None

    @abstractmethod
    def _pieces(
        self, messages: list[BaseMessage], stop: list[str] | None, cap: int | None, options: dict[str, Any]
    ) -> Iterator[AIMessageChunk]: ...

    async def _apieces(
        self, messages: list[BaseMessage], stop: list[str] | None, cap: int | None, options: dict[str, Any]
    ) -> AsyncIterator[AIMessageChunk]:
        for piece in self._pieces(messages, stop, cap, options):
            yield piece
            await asyncio.sleep(0)  # as a model over a network would: others get their turn between two pieces

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _whole(list(self._pieces(messages, stop, self._cap(kwargs), kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _whole([piece async for piece in self._apieces(messages, stop, self._cap(kwargs), kwargs)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for piece in self._pieces(messages, stop, self._cap(kwargs), kwargs):
            yield ChatGenerationChunk(message=piece)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for piece in self._apieces(messages, stop, self._cap(kwargs), kwargs):
            yield ChatGenerationChunk(message=piece)

    def _cap(self, options: dict[str, Any]) -> int | None:
        """The smallest cap that anybody named; several answers at once aren't offered."""
        if options.get("n") not in (None, 1):
            raise InvalidInput("n: this local model gives one answer per call")
        named = [self.max_tokens, options.get("max_tokens"), options.get("max_completion_tokens")]
        caps = [cap for cap in named if cap is not None]
        if any(cap < 1 for cap in caps):
            raise InvalidInput("max_tokens: expected at least 1")
        return min(caps, default=None)

    def _last(self, finish: str, prompt_tokens: int, completion_tokens: int) -> AIMessageChunk:
        """The closing piece, with usage and model name as providers send them."""
        return AIMessageChunk(
            content="",
            chunk_position="last",
            response_metadata={"model_name": self.model_name, "finish_reason": finish},
            usage_metadata=UsageMetadata(
                input_tokens=prompt_tokens,
                output_tokens=completion_tokens,
                total_tokens=prompt_tokens + completion_tokens,
            ),
        )

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "max_tokens": self.max_tokens}


class SmolChatModel(LocalModel):
    """SmolLM2 on llama.cpp in this process, at temperature 0: a real model, small enough for two cores."""

    model_name: str = MODEL_NAME

    @property
    def _llm_type(self) -> str:
        return "tenant-middleware-local"

    def _pieces(
        self, messages: list[BaseMessage], stop: list[str] | None, cap: int | None, options: dict[str, Any]
    ) -> Iterator[AIMessageChunk]:
        finish = None
        for piece in engine().stream(_wire(messages), max_tokens=cap, stop=stop):
            finish = piece.finish_reason or finish
            yield from self._chunks(piece, finish)

    async def _apieces(
        self, messages: list[BaseMessage], stop: list[str] | None, cap: int | None, options: dict[str, Any]
    ) -> AsyncIterator[AIMessageChunk]:
        finish = None
        loaded = await asyncio.to_thread(engine)
        async for piece in loaded.astream(_wire(messages), max_tokens=cap, stop=stop):
            finish = piece.finish_reason or finish
            for chunk in self._chunks(piece, finish):
                yield chunk

    def _chunks(self, piece: Piece, finish: str | None) -> Iterator[AIMessageChunk]:
        if piece.text:
            yield AIMessageChunk(content=piece.text)
        if piece.prompt_tokens is not None:
            yield self._last(finish or "stop", piece.prompt_tokens, piece.completion_tokens)


class EchoChatModel(LocalModel):
    """Repeats the last message word by word; a token is a word. Fast, deterministic, and no model at all."""

    model_name: str = "echo"

    @property
    def _llm_type(self) -> str:
        return "tenant-middleware-echo"

    def _pieces(
        self, messages: list[BaseMessage], stop: list[str] | None, cap: int | None, options: dict[str, Any]
    ) -> Iterator[AIMessageChunk]:
        yield from self._spoken(str(messages[-1].text), messages, stop, cap)

    def _spoken(
        self, text: str, messages: list[BaseMessage], stop: list[str] | None, cap: int | None
    ) -> Iterator[AIMessageChunk]:
        words, finish = _cut(text, stop, cap)
        for word in words:
            yield AIMessageChunk(content=word)
        yield self._last(finish, _count(messages), len(words))


class ScriptedToolModel(EchoChatModel):
    """Calls the first tool it is given (or the one `tool_choice` names), then repeats what the tools said.

    Required arguments are filled from the tool's schema: text with the last message, numbers with the least allowed.
    """

    model_name: str = "scripted"

    @property
    def _llm_type(self) -> str:
        return "tenant-middleware-scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        named = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=named, tool_choice=tool_choice, **kwargs)

    def _pieces(
        self, messages: list[BaseMessage], stop: list[str] | None, cap: int | None, options: dict[str, Any]
    ) -> Iterator[AIMessageChunk]:
        tools = options.get("tools") or []
        if isinstance(messages[-1], ToolMessage):
            yield from self._spoken("\n".join(_said_by_tools(messages)), messages, stop, cap)
        elif tools:
            yield from self._called(_chosen(tools, options.get("tool_choice")), messages)
        else:
            yield from super()._pieces(messages, stop, cap, options)

    def _called(self, tool: dict[str, Any], messages: list[BaseMessage]) -> Iterator[AIMessageChunk]:
        function = tool["function"]
        args = json.dumps(example(function.get("parameters", {}), str(messages[-1].text)))
        call = tool_call_chunk(name=function["name"], args=args, id=f"call_{len(messages)}", index=0)
        yield AIMessageChunk(content="", tool_call_chunks=[call])
        yield self._last("tool_calls", _count(messages), 1 + len(args.split()))


def chat_model(*, max_tokens: int | None = None) -> SmolChatModel:
    """SmolLM2-135M behind LangChain's chat interface; the weights are loaded once per process, at the first call."""
    return SmolChatModel(max_tokens=max_tokens)


def echo_chat_model(*, max_tokens: int | None = None) -> EchoChatModel:
    """A chat model that repeats the last message."""
    return EchoChatModel(max_tokens=max_tokens)


def scripted_tool_model(*, max_tokens: int | None = None) -> ScriptedToolModel:
    """A chat model that calls the first tool it is given, then repeats what the tool said."""
    return ScriptedToolModel(max_tokens=max_tokens)


def _whole(pieces: list[AIMessageChunk]) -> ChatResult:
    first, *rest = pieces
    message = first
    for piece in rest:
        message = message + piece
    return ChatResult(generations=[ChatGeneration(message=message_chunk_to_message(message))])


def _wire(messages: list[BaseMessage]) -> list[Message]:
    """The messages as the model's template knows them; it has no role for tools."""
    return [{"role": _role(message), "content": str(message.text)} for message in messages]


def _role(message: BaseMessage) -> str:
    if isinstance(message, SystemMessage):
        return "system"
    return "assistant" if isinstance(message, AIMessage) else "user"


def _count(messages: list[BaseMessage]) -> int:
    return sum(len(str(message.text).split()) for message in messages)


def _cut(text: str, stop: list[str] | None, cap: int | None) -> tuple[list[str], str]:
    """The words up to the first stop word and the cap, with the spaces between them, and why they end there."""
    ends = [at for word in stop or () if word and (at := text.find(word)) >= 0]
    spoken = text[: min(ends)] if ends else text
    words = [match.group() for match in islice(_WORD.finditer(spoken), None if cap is None else cap + 1)]
    if cap is None or len(words) <= cap:
        return words, "stop"
    return [*words[: cap - 1], words[cap - 1].rstrip()], "length"


def _said_by_tools(messages: list[BaseMessage]) -> list[str]:
    said: list[str] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        said.append(str(message.text))
    return said[::-1]


def _chosen(tools: list[dict[str, Any]], choice: object) -> dict[str, Any]:
    name = choice.get("function", {}).get("name") if isinstance(choice, dict) else choice
    return next((tool for tool in tools if tool["function"]["name"] == name), tools[0])
