"""Counting what LangChain calls use: prompt bounds, reported usage, cut streams, and each model's name for a cap."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from tenant_middleware.admission.estimate import MEDIA_TOKENS, MESSAGE_TOKENS, text_bound
from tenant_middleware.metering.usage import Media, Tally, Usage, reported

# What providers call the output cap; a caller's value under any of these names is its wish, the gate's is what is sent.
CAP_NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample", "num_predict")


def prompt_tokens(messages: Iterable[BaseMessage], options: Mapping[str, Any]) -> int:
    """A bound on the prompt's tokens: all text, tool calls and tool schemas of the request."""
    total = 0
    for message in messages:
        total += MESSAGE_TOKENS + _content_tokens(message.content)
        if isinstance(message, AIMessage) and message.tool_calls:
            total += text_bound(json.dumps(message.tool_calls, default=str))
    for name in ("tools", "functions", "response_format"):
        if options.get(name):
            total += text_bound(json.dumps(options[name], default=str))
    return total


def holds_media(messages: Iterable[BaseMessage]) -> bool:
    """Whether a prompt holds more than text."""
    contents = (message.content for message in messages if not isinstance(message.content, str))
    return any(
        not isinstance(part, str) and not isinstance(part.get("text"), str) for each in contents for part in each
    )


def answers(model: BaseChatModel, options: Mapping[str, Any]) -> int:
    """How many answers a request asks for at once."""
    n = options.get("n") or attribute(model, "n")
    return n if isinstance(n, int) else 1


def service_tier(model: BaseChatModel, options: Mapping[str, Any]) -> str:
    """How the provider is asked to serve a request."""
    tier = options.get("service_tier") or attribute(model, "service_tier")
    return tier if isinstance(tier, str) else ""


def _content_tokens(content: str | list[Any]) -> int:
    if isinstance(content, str):
        return text_bound(content)
    total = 0
    for part in content:
        if isinstance(part, str):
            total += text_bound(part)
        elif isinstance(part.get("text"), str):
            total += text_bound(part["text"])
        else:
            total += MEDIA_TOKENS
    return total


@cache
def _caps_of(kind: type[BaseChatModel]) -> tuple[str, tuple[str, ...]]:
    """What a class of models calls its output cap, and the caps it has as fields."""
    fields = kind.model_fields
    aliases = {field.alias for field in fields.values()}
    named = next((name for name in CAP_NAMES if name in fields or name in aliases), CAP_NAMES[0])
    return named, tuple(name for name in CAP_NAMES if hasattr(kind, name) or name in fields)


@cache
def _may_have(kind: type[BaseChatModel], name: str) -> bool:
    return hasattr(kind, name) or name in kind.model_fields or kind.model_config.get("extra") == "allow"


def attribute(model: BaseChatModel, name: str) -> Any:
    """A model's attribute, or None; a class that has none is asked once, since pydantic takes long to say no."""
    return getattr(model, name, None) if _may_have(type(model), name) else None


def cap_name(model: BaseChatModel) -> str:
    """The name under which this model takes its output cap."""
    return _caps_of(type(model))[0]


def split_cap(model: BaseChatModel, options: Mapping[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """The caller's smallest wish for the output cap, and the options without any cap."""
    wishes = [options[name] for name in CAP_NAMES if isinstance(options.get(name), int)] if options else []
    own = (getattr(model, name, None) for name in _caps_of(type(model))[1])
    wishes += [value for value in own if isinstance(value, int) and value > 0]
    return (min(wishes) if wishes else None), {name: value for name, value in options.items() if name not in CAP_NAMES}


def usage_of(result: ChatResult) -> Usage | None:
    """What the provider reported for a result; None when it reported nothing."""
    told = (result.llm_output or {}).get("token_usage") or (result.llm_output or {}).get("usage")
    if isinstance(told, Mapping) and told.get("completion_tokens") is not None:
        details = told.get("prompt_tokens_details") or {}
        output = told.get("completion_tokens_details") or {}
        by_age: Any = _get(details, "cache_creation_token_details") or {}
        for_an_hour = _get(by_age, "ephemeral_1h_input_tokens")
        written = for_an_hour + _get(by_age, "ephemeral_5m_input_tokens")
        return reported(
            told.get("prompt_tokens") or 0,
            told["completion_tokens"],
            cached_tokens=_get(details, "cached_tokens"),
            reasoning_tokens=_get(output, "reasoning_tokens"),
            cache_write_tokens=max(
                _get(details, "cache_creation_tokens") or _get(details, "cache_write_tokens"), written
            ),
            cache_write_1h_tokens=for_an_hour,
            prompt_media=Media(*(_get(details, f"{name}_tokens") for name in Media._fields)),
            completion_media=Media(*(_get(output, f"{name}_tokens") for name in Media._fields)),
            service_tier=_text((result.llm_output or {}).get("service_tier")),
        )
    return usage_of_messages([generation.message for generation in result.generations])


def usage_of_messages(messages: Iterable[BaseMessage]) -> Usage | None:
    """What these answers to one prompt report; None when they report nothing."""
    told = (_from_message(m) for m in messages if isinstance(m, AIMessage) and m.usage_metadata)
    usages = [usage for usage in told if usage is not None]
    if not usages:
        return None
    return usages[0] if len(usages) == 1 else _of_answers(usages)


def _of_answers(usages: list[Usage]) -> Usage:
    """Several answers to one prompt: the prompt counts once, each answer's output counts."""
    most = max(usages, key=lambda usage: usage.prompt_tokens)
    outputs = (
        Usage(0, u.completion_tokens, reasoning_tokens=u.reasoning_tokens, completion_media=u.completion_media)
        for u in usages
        if u is not most
    )
    return sum(outputs, most)


def _from_message(message: AIMessage) -> Usage | None:
    metadata: Any = message.usage_metadata
    inputs, outputs = metadata.get("input_token_details") or {}, metadata.get("output_token_details") or {}
    # langchain-anthropic reports writes by how long they are kept, and their sum as 0 then
    for_an_hour = inputs.get("ephemeral_1h_input_tokens") or 0
    by_age = for_an_hour + (inputs.get("ephemeral_5m_input_tokens") or 0)
    return reported(
        metadata.get("input_tokens") or 0,
        metadata.get("output_tokens") or 0,
        cached_tokens=inputs.get("cache_read") or 0,
        reasoning_tokens=outputs.get("reasoning") or 0,
        cache_write_tokens=max(inputs.get("cache_creation") or 0, by_age),
        cache_write_1h_tokens=for_an_hour,
        prompt_media=Media(*(inputs.get(name) or 0 for name in Media._fields)),
        completion_media=Media(*(outputs.get(name) or 0 for name in Media._fields)),
        service_tier=_text(message.response_metadata.get("service_tier")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _get(details: Any, name: str) -> int:
    value = details.get(name) if isinstance(details, Mapping) else getattr(details, name, None)
    return value or 0


class StreamCount(Tally):
    """The tally of a LangChain stream, chunk by chunk."""

    def add(self, chunk: ChatGenerationChunk) -> None:
        """Count one chunk."""
        self.text(chunk.text)
        message: Any = chunk.message
        if getattr(message, "usage_metadata", None) and (used := _from_message(message)) is not None:
            self.report(used if self._reported is None else self._reported + used)
