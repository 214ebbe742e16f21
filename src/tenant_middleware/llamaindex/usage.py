"""Counting what LlamaIndex calls use: a bound on the prompt, and what providers report under their several names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tenant_middleware.admission.estimate import MEDIA_TOKENS, MESSAGE_TOKENS, text_bound
from tenant_middleware.errors import missing_extra
from tenant_middleware.metering.usage import Media, Tally, Usage, reported

try:
    from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, TextBlock
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

# What LlamaIndex's providers call the output cap.
CAP_NAMES = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "max_new_tokens",
    "max_tokens_to_sample",
    "num_predict",
)
_PROMPT = ("prompt_tokens", "input_tokens", "prompt_token_count", "prompt_eval_count")
_OUTPUT = ("completion_tokens", "output_tokens", "candidates_token_count", "eval_count")
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details", "candidates_tokens_details")

Answer = ChatResponse | CompletionResponse


def field(value: Any, name: str) -> Any:
    """A field of an object or of a mapping; None where there is none."""
    if type(value) is dict or isinstance(value, Mapping):  # the first is asked for each step of a stream
        return value.get(name)
    return getattr(value, name, None)


def prompt_tokens(asked: str | Iterable[ChatMessage], options: Mapping[str, Any]) -> int:
    """A bound on the prompt's tokens: text, tool calls, media and tool schemas."""
    if isinstance(asked, str):
        total = MESSAGE_TOKENS + text_bound(asked)
    else:
        total = sum(_message_tokens(message) for message in asked)
    for name in ("tools", "functions", "response_format"):
        if options.get(name):
            total += text_bound(json.dumps(options[name], default=str))
    return total


def holds_media(asked: str | Iterable[ChatMessage]) -> bool:
    """Whether a prompt holds more than text."""
    blocks = () if isinstance(asked, str) else (block for message in asked for block in message.blocks)
    return any(not isinstance(block, TextBlock) and block.block_type != "tool_call" for block in blocks)


def _message_tokens(message: ChatMessage) -> int:
    total = MESSAGE_TOKENS
    for block in message.blocks:
        if isinstance(block, TextBlock):
            total += text_bound(block.text)
        elif block.block_type == "tool_call":
            total += text_bound(block.model_dump_json())
        else:
            total += MEDIA_TOKENS
    if calls := message.additional_kwargs.get("tool_calls"):
        total += text_bound(json.dumps(calls, default=str))
    return total


def usage_of(answer: Answer) -> Usage | None:
    """What the provider reported for an answer; None when it reported nothing."""
    raw = answer.raw
    if raw is not None:
        for name in ("usage", "usage_metadata"):
            if (told := field(raw, name)) is not None:
                tier = field(told, "service_tier") or field(raw, "service_tier")
                if (used := _usage(told, tier)) is not None:
                    return used
        if (used := _usage(raw)) is not None:
            return used
    return _usage(answer.additional_kwargs) if answer.additional_kwargs else None


def _usage(told: Any, service_tier: Any = None) -> Usage | None:
    prompt, output = _first(told, _PROMPT), _first(told, _OUTPUT)
    if not prompt and not output:
        return None
    read = written = 0
    if field(told, "prompt_tokens") is None:  # Anthropic counts its cache beside the input, not in it
        read, written = (
            _first(told, ("cache_read_input_tokens",)),
            _first(told, ("cache_creation_input_tokens",)),
        )
    # Gemini counts what was thought, and what its own tools read, beside the answer and the prompt
    thought = _first(told, ("thoughts_token_count",))
    inputs, outputs = _details(told, _INPUT_DETAILS), _details(told, _OUTPUT_DETAILS)
    by_age = field(told, "cache_creation") or field(inputs, "cache_creation_token_details")
    for_an_hour = _first(by_age, ("ephemeral_1h_input_tokens",))
    return reported(
        prompt + read + written + _first(told, ("tool_use_prompt_token_count",)),
        output + thought,
        cached_tokens=read or _first(inputs, ("cached_tokens",)) or _first(told, ("cached_content_token_count",)),
        reasoning_tokens=thought or _first(outputs, ("reasoning_tokens",)),
        cache_write_tokens=written or _first(inputs, ("cache_creation_tokens", "cache_write_tokens")),
        cache_write_1h_tokens=for_an_hour,
        prompt_media=_media(inputs),
        completion_media=_media(outputs),
        service_tier=service_tier if isinstance(service_tier, str) else "",
    )


def _details(told: Any, places: Iterable[str]) -> Any:
    return next((details for place in places if (details := field(told, place)) is not None), None)


def _media(details: Any) -> Media:
    if isinstance(details, list):  # Gemini's, by modality
        counts = {
            str(getattr(kind := field(one, "modality"), "value", kind)).lower(): _first(one, ("token_count",))
            for one in details
        }
        return Media(*(counts.get(name, 0) for name in Media._fields))
    return Media(*(_first(details, (f"{name}_tokens",)) for name in Media._fields))


def _first(value: Any, names: Iterable[str]) -> int:
    for name in names:
        number = field(value, name)
        if isinstance(number, int) and not isinstance(number, bool):
            return number
    return 0


class StreamCount(Tally):
    """The tally of a LlamaIndex stream, whose steps each repeat what was said so far."""

    _last: Answer | None = None

    def add(self, answer: Answer) -> None:
        """Count one step."""
        self._last = answer
        if answer.delta:
            self.text(answer.delta)
        if (answer.raw or answer.additional_kwargs) and (used := usage_of(answer)) is not None:
            self.report(used)

    def usage(self) -> Usage:
        """What has been used so far, with the tool calls that no delta carried."""
        used = super().usage()
        if used.source == "provider" or not isinstance(self._last, ChatResponse):
            return used
        called = _message_tokens(ChatMessage(blocks=_tool_calls(self._last.message))) - MESSAGE_TOKENS
        return used + Usage(0, called, source="estimated")


def _tool_calls(message: ChatMessage) -> list[Any]:
    return [block for block in message.blocks if block.block_type == "tool_call"]
