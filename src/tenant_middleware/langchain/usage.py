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
from tenant_middleware.metering.usage import Tally, Usage

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
    reported = (result.llm_output or {}).get("token_usage") or (result.llm_output or {}).get("usage")
    if isinstance(reported, Mapping) and reported.get("completion_tokens") is not None:
        details = reported.get("prompt_tokens_details") or {}
        output = reported.get("completion_tokens_details") or {}
        return Usage(
            int(reported.get("prompt_tokens") or 0),
            int(reported["completion_tokens"]),
            int(_get(details, "cached_tokens")),
            int(_get(output, "reasoning_tokens")),
            cache_write_tokens=int(_get(details, "cache_creation_tokens")),
        )
    return usage_of_messages([generation.message for generation in result.generations])


def usage_of_messages(messages: Iterable[BaseMessage]) -> Usage | None:
    """What these answers to one prompt report; None when they report nothing."""
    usages = [_from_metadata(m.usage_metadata) for m in messages if isinstance(m, AIMessage) and m.usage_metadata]
    if not usages:
        return None
    return usages[0] if len(usages) == 1 else _of_answers(usages)


def _of_answers(usages: list[Usage]) -> Usage:
    """Several answers to one prompt: the prompt counts once, each answer's output counts."""
    return Usage(
        max(u.prompt_tokens for u in usages),
        sum(u.completion_tokens for u in usages),
        max(u.cached_tokens for u in usages),
        sum(u.reasoning_tokens for u in usages),
        cache_write_tokens=max(u.cache_write_tokens for u in usages),
    )


def _from_metadata(metadata: Any) -> Usage:
    inputs, outputs = metadata.get("input_token_details") or {}, metadata.get("output_token_details") or {}
    # langchain-anthropic reports writes by how long they are kept, and their sum as 0 then
    by_age = int(inputs.get("ephemeral_5m_input_tokens") or 0) + int(inputs.get("ephemeral_1h_input_tokens") or 0)
    return Usage(
        int(metadata.get("input_tokens") or 0),
        int(metadata.get("output_tokens") or 0),
        int(inputs.get("cache_read") or 0),
        int(outputs.get("reasoning") or 0),
        cache_write_tokens=max(int(inputs.get("cache_creation") or 0), by_age),
    )


def _get(details: Any, name: str) -> int:
    value = details.get(name) if isinstance(details, Mapping) else getattr(details, name, None)
    return value or 0


class StreamCount(Tally):
    """The tally of a LangChain stream, chunk by chunk."""

    def add(self, chunk: ChatGenerationChunk) -> None:
        """Count one chunk."""
        metadata = getattr(chunk.message, "usage_metadata", None)
        if metadata:
            used = _from_metadata(metadata)
            self.report(used if self._reported is None else self._reported + used)
        self.text(chunk.text)
