"""What a LiteLLM answer says it used, in each shape: chat, responses, embeddings, images, rerank, streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenant_middleware.metering.usage import Tally, Usage

_NOT_PYDANTIC: Any = object()


def field(value: Any, name: str) -> Any:
    """A field of an object or of a mapping; None where there is none."""
    if isinstance(value, dict):
        return value.get(name)
    fields = getattr(value, "__dict__", None)
    if fields is not None and name in fields:  # pydantic takes its time to say that a field isn't there
        return fields[name]
    extra = getattr(value, "__pydantic_extra__", _NOT_PYDANTIC)
    if extra is not _NOT_PYDANTIC:
        return extra.get(name) if extra else None
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def usage_of(response: Any) -> Usage | None:
    """What the provider reported for an answer; None when it reported nothing."""
    reported = field(response, "usage")
    return _usage(reported) if reported is not None else _billed(field(response, "meta"))


def _usage(reported: Any) -> Usage | None:
    prompt = _first(reported, "prompt_tokens", "input_tokens")
    output = _first(reported, "completion_tokens", "output_tokens")
    if not prompt and not output:
        return None
    inputs = field(reported, "prompt_tokens_details") or field(reported, "input_tokens_details")
    outputs = field(reported, "completion_tokens_details") or field(reported, "output_tokens_details")
    return Usage(
        prompt,
        output,
        _first(inputs, "cached_tokens"),
        _first(outputs, "reasoning_tokens"),
        cache_write_tokens=_first(inputs, "cache_creation_tokens"),
    )


def _billed(meta: Any) -> Usage | None:
    """Rerankers report tokens in `meta`, if they report any."""
    tokens = field(meta, "tokens") if meta is not None else None
    prompt, output = _first(tokens, "input_tokens"), _first(tokens, "output_tokens")
    return Usage(prompt, output) if prompt or output else None


def _first(value: Any, *names: str) -> int:
    if value is not None:
        for name in names:
            if isinstance(found := field(value, name), int):
                return found
    return 0


def is_hit(response: Any) -> bool:
    """Whether an answer came whole from LiteLLM's cache."""
    hidden = getattr(response, "_hidden_params", None)
    return isinstance(hidden, Mapping) and hidden.get("cache_hit") is True


class StreamCount(Tally):
    """The tally of a LiteLLM stream, chunk by chunk."""

    def add(self, chunk: Any) -> None:
        """Count one chunk of a chat stream or one event of the responses API."""
        reported = usage_of(chunk)
        if reported is None and (response := field(chunk, "response")) is not None:
            reported = usage_of(response)
        if reported is not None:
            self.report(reported)
        self.text("".join(_texts(chunk)))


def _texts(chunk: Any) -> list[str]:
    delta = field(chunk, "delta")
    if isinstance(delta, str):  # an event of the responses API
        return [delta]
    found: list[str] = []
    for choice in field(chunk, "choices") or ():
        piece = field(choice, "delta")
        for name in ("content", "reasoning_content"):
            if isinstance(text := field(piece, name), str):
                found.append(text)
        for call in field(piece, "tool_calls") or ():
            function = field(call, "function")
            found += [text for name in ("name", "arguments") if isinstance(text := field(function, name), str)]
    return found
