"""A tenancy in memory and models with LlamaIndex's real interface: one that echoes, one that calls a tool."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool

from tenant_middleware import Tenancy
from tenant_middleware.llamaindex import TenantLLM
from tenant_middleware.testing import ManualClock

VALUES: dict[str, Any] = {
    "tiers": {
        "enterprise": {
            "rpm": 6000,
            "tpm": 60_000_000,
            "burst": 1.0,
            "max_concurrency": 64,
            "budget": {"usd": "10", "period": "month"},
            "models": ["openai/local", "local/embed"],
            "max_output_tokens": 64,
            "guard": "block",
        }
    },
    "tenants": {name: {"tier": "enterprise"} for name in ("acme", "globex", "Acme", "acme2")},
    "prices": {
        "openai/local": {"input_usd_per_million": "1", "output_usd_per_million": "2"},
        "local/embed": {"input_usd_per_million": "0.1"},
    },
}


class EchoLLM(FunctionCallingLLM):
    """Repeats the last message word by word with usage as OpenAI reports it; given tools, it calls the first."""

    max_tokens: int | None = None
    asked: list[Any] = []
    fails_after: int | None = None
    use_tools: bool = True

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, is_function_calling_model=True, model_name="echo")

    def _steps(self, messages: Sequence[ChatMessage], options: dict[str, Any]) -> Iterator[ChatResponse]:
        self.asked.append((list(messages), dict(options)))
        last = messages[-1]
        if options.get("tools") and self.use_tools and last.role != MessageRole.TOOL:
            call = {"name": options["tools"][0]["function"]["name"], "arguments": json.dumps(options.get("say", {}))}
            message = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]})
            yield ChatResponse(message=message, raw={"usage": _usage(messages, 1)}, delta="")
            return
        words, said = (last.content or "").split(" ")[: options["max_tokens"]], ""
        for number, word in enumerate(words, 1):
            if self.fails_after is not None and number > self.fails_after:
                raise ConnectionError("the provider went away")
            delta = word if number == 1 else f" {word}"
            said += delta
            raw = {"usage": _usage(messages, number)} if number == len(words) else {}
            yield ChatResponse(message=ChatMessage(role="assistant", content=said), raw=raw, delta=delta)

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return list(self._steps(messages, kwargs))[-1]

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        await asyncio.sleep(0)
        return self.chat(messages, **kwargs)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        yield from self._steps(messages, kwargs)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        async def steps() -> ChatResponseAsyncGen:
            for step in self._steps(messages, kwargs):
                await asyncio.sleep(0)
                yield step

        return steps()

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return _completion(self.chat([ChatMessage(prompt)], **kwargs))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return _completion(await self.achat([ChatMessage(prompt)], **kwargs))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return (_completion(step) for step in self.stream_chat([ChatMessage(prompt)], **kwargs))

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        return (_completion(step) async for step in await self.astream_chat([ChatMessage(prompt)], **kwargs))

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg)
        return {"messages": messages, "tools": [tool.metadata.to_openai_tool() for tool in tools], **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        calls = response.message.additional_kwargs.get("tool_calls", [])
        return [
            ToolSelection(tool_id=f"c{n}", tool_name=call["name"], tool_kwargs=json.loads(call["arguments"]))
            for n, call in enumerate(calls)
        ]


def _usage(messages: Sequence[ChatMessage], said: int) -> dict[str, int]:
    read = sum(len((message.content or "").split(" ")) for message in messages)
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}


def _completion(answer: ChatResponse) -> CompletionResponse:
    return CompletionResponse(text=answer.message.content or "", raw=answer.raw, delta=answer.delta)


@pytest.fixture
def tenancy(clock: ManualClock) -> Iterator[Tenancy]:
    with Tenancy.from_mapping(VALUES, clock=clock) as opened:
        yield opened


@pytest.fixture
def echo() -> EchoLLM:
    return EchoLLM(asked=[])


@pytest.fixture
def llm(tenancy: Tenancy, echo: EchoLLM) -> TenantLLM:
    return TenantLLM(echo, model_name="openai/local", gate=tenancy.gate)


def calls(tenancy: Tenancy) -> dict[str, int]:
    """How many calls each tenant is booked for."""
    return dict(Counter(row.tenant_id for row in tenancy.ledger.rows()))
