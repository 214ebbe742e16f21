"""LlamaIndex faces of the local model and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tenant_middleware.errors import missing_extra
from tenant_middleware.local.engine import CONTEXT_TOKENS, DEFAULT_MAX_TOKENS, MODEL_NAME, Message, Piece, engine
from tenant_middleware.local.wordvectors import MODEL_NAME as EMBEDDING_NAME
from tenant_middleware.local.wordvectors import embed

try:
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
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.llms.custom import CustomLLM
except ImportError as error:
    raise missing_extra("llamaindex", "tenant_middleware.local.llama_llm") from error


class LocalLlamaEmbedding(BaseEmbedding):
    """wordllama's vectors for LlamaIndex."""

    model_name: str = EMBEDDING_NAME

    def _get_text_embedding(self, text: str) -> list[float]:
        return embed(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return embed(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return embed(query)


class LocalLlamaLLM(CustomLLM):
    """The local model for LlamaIndex; `raw["usage"]` carries its token counts."""

    model_name: str = MODEL_NAME
    max_tokens: int = DEFAULT_MAX_TOKENS

    @classmethod
    def class_name(cls) -> str:
        return "tenant_middleware_local"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=CONTEXT_TOKENS,
            num_output=self.max_tokens,
            is_chat_model=True,
            model_name=self.model_name,
        )

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        said = self._said(list(engine().stream(_wire(messages), **self._options(kwargs))))
        return self._answer(*said)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        said = self._said([piece async for piece in engine().astream(_wire(messages), **self._options(kwargs))])
        return self._answer(*said)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        def steps() -> ChatResponseGen:
            seen: list[Piece] = []
            for piece in engine().stream(_wire(messages), **self._options(kwargs)):
                seen.append(piece)
                yield self._answer(*self._said(seen), delta=piece.text)

        return steps()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        async def steps() -> ChatResponseAsyncGen:
            seen: list[Piece] = []
            async for piece in engine().astream(_wire(messages), **self._options(kwargs)):
                seen.append(piece)
                yield self._answer(*self._said(seen), delta=piece.text)

        return steps()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return _completion(self.chat(_asked(prompt), **kwargs))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return _completion(await self.achat(_asked(prompt), **kwargs))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return (_completion(step) for step in self.stream_chat(_asked(prompt), **kwargs))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        steps = await self.astream_chat(_asked(prompt), **kwargs)
        return (_completion(step) async for step in steps)

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {
            "max_tokens": min(self.max_tokens, kwargs.get("max_tokens") or self.max_tokens),
            "stop": kwargs.get("stop"),
        }

    def _said(self, pieces: list[Piece]) -> tuple[str, dict[str, int]]:
        usage = next((piece for piece in reversed(pieces) if piece.prompt_tokens is not None), None)
        text = "".join(piece.text for piece in pieces)
        if usage is None or usage.prompt_tokens is None:
            return text, {}
        return text, {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }

    def _answer(self, text: str, usage: dict[str, int], delta: str | None = None) -> ChatResponse:
        message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
        raw = {"model": self.model_name, "usage": usage} if usage else {"model": self.model_name}
        return ChatResponse(message=message, raw=raw, delta=delta, additional_kwargs=dict(usage))


def llama_embedding() -> LocalLlamaEmbedding:
    """LlamaIndex embeddings over the table that this process shares."""
    return LocalLlamaEmbedding()


def llama_llm(*, max_tokens: int = DEFAULT_MAX_TOKENS) -> LocalLlamaLLM:
    """SmolLM2-135M behind LlamaIndex's LLM interface, over the same engine as `chat_model`."""
    return LocalLlamaLLM(max_tokens=max_tokens)


def _asked(prompt: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=prompt)]


def _wire(messages: Sequence[ChatMessage]) -> list[Message]:
    known = {MessageRole.SYSTEM: "system", MessageRole.ASSISTANT: "assistant", MessageRole.CHATBOT: "assistant"}
    return [{"role": known.get(m.role, "user"), "content": m.content or ""} for m in messages]


def _completion(answer: ChatResponse) -> CompletionResponse:
    return CompletionResponse(
        text=answer.message.content or "",
        raw=answer.raw,
        delta=answer.delta,
        additional_kwargs=answer.additional_kwargs,
    )
