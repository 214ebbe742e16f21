"""Which model answers: the local one, or a provider's by way of LiteLLM."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from tenant_middleware.errors import ConfigurationError, StoreUnavailable, missing_extra
from tenant_middleware.local import chat_model

LOCAL = "local"
_PREFIX = "litellm:"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model, the name that policy and prices know it by, and words that end its answers."""

    model: BaseChatModel
    name: str
    stop: tuple[str, ...] = ()


def choose(llm: str) -> Chosen:
    """`local`, or `litellm:MODEL` with LiteLLM's name of a provider's model and its key in the environment."""
    if llm == LOCAL:
        # A model of this size answers in its first clause and drifts off in the second.
        return Chosen(chat_model(), "openai/local", (", ", "\n"))
    name = llm.removeprefix(_PREFIX)
    if not llm.startswith(_PREFIX) or not name:
        raise ConfigurationError("--llm: expected local or litellm:MODEL, such as litellm:openai/gpt-4o-mini")
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing LiteLLM fetches its prices
    try:
        importlib.import_module("litellm")  # here rather than at the first question
    except ImportError as error:
        raise missing_extra("litellm", "tenant-middleware demo --llm litellm:MODEL") from error
    return Chosen(ProviderModel(model_name=name), name)


class ProviderModel(BaseChatModel):
    """A provider's chat model through LiteLLM; keys come from the environment, as LiteLLM documents it."""

    model_name: str

    @property
    def _llm_type(self) -> str:
        return "litellm"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        import litellm
        from openai import OpenAIError  # what LiteLLM's own exceptions derive from

        options = {name: kwargs[name] for name in ("max_tokens", "max_completion_tokens") if name in kwargs}
        try:
            reply: Any = litellm.completion(
                model=self.model_name, messages=_wire(messages), stop=stop, temperature=0, caching=False, **options
            )
        except OpenAIError as error:
            kind = type(error).__name__
            raise StoreUnavailable(f"the provider of {self.model_name} refused: {kind}", store="llm") from None
        used = reply.usage
        usage = UsageMetadata(
            input_tokens=used.prompt_tokens, output_tokens=used.completion_tokens, total_tokens=used.total_tokens
        )
        message = AIMessage(
            reply.choices[0].message.content or "",
            usage_metadata=usage,
            response_metadata={"model_name": self.model_name},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    converted = convert_to_openai_messages(list(messages))
    return converted if isinstance(converted, list) else [converted]
