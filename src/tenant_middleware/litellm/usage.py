"""What a LiteLLM answer says it used, in each shape: chat, responses, embeddings, images, rerank, streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tenant_middleware.metering.usage import NO_MEDIA, Media, Tally, Usage, reported

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
    told = field(response, "usage")
    if told is None:
        return _billed(field(response, "meta"))
    return _usage(told, field(told, "service_tier") or field(response, "service_tier"))


def usage_of_images(response: Any) -> Usage | None:
    """What was reported for pictures: their number, and where they are paid by the token, tokens of pictures."""
    pictures = len(field(response, "data") or ())
    used = usage_of(response)
    if used is None:
        return Usage(0, units=pictures) if pictures else None
    drawn = used.completion_media
    if not any(drawn) and not field(field(response, "usage"), "output_tokens_details"):
        drawn = Media(image=used.completion_tokens)
    return replace(used, completion_media=drawn, units=pictures)


def _usage(told: Any, service_tier: Any) -> Usage | None:
    prompt = _first(told, "prompt_tokens", "input_tokens")
    output = _first(told, "completion_tokens", "output_tokens")
    if not prompt and not output:
        return None
    inputs = field(told, "prompt_tokens_details") or field(told, "input_tokens_details")
    outputs = field(told, "completion_tokens_details") or field(told, "output_tokens_details")
    by_age = field(inputs, "cache_creation_token_details") if inputs is not None else None
    for_an_hour = _first(by_age, "ephemeral_1h_input_tokens")
    written = for_an_hour + _first(by_age, "ephemeral_5m_input_tokens")
    return reported(
        prompt,
        output,
        cached_tokens=_first(inputs, "cached_tokens"),
        reasoning_tokens=_first(outputs, "reasoning_tokens"),
        cache_write_tokens=max(_first(inputs, "cache_creation_tokens", "cache_write_tokens"), written),
        cache_write_1h_tokens=for_an_hour,
        prompt_media=_media(inputs),
        completion_media=_media(outputs),
        service_tier=service_tier if isinstance(service_tier, str) else "",
    )


def _media(details: Any) -> Media:
    if details is None:
        return NO_MEDIA
    return Media(*(_first(details, name) for name in ("audio_tokens", "image_tokens", "video_tokens")))


def _billed(meta: Any) -> Usage | None:
    """Rerankers report tokens or searches in `meta`, if they report any."""
    tokens = field(meta, "tokens") if meta is not None else None
    searches = _first(field(meta, "billed_units"), "search_units") if meta is not None else 0
    prompt, output = _first(tokens, "input_tokens"), _first(tokens, "output_tokens")
    return reported(prompt, output, units=searches or None) if prompt or output or searches else None


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
        self.text("".join(_texts(chunk)))
        used = usage_of(chunk)
        if used is None and (response := field(chunk, "response")) is not None:
            used = usage_of(response)
        if used is not None:
            self.report(used)


def tells_usage_alone(chunk: Any) -> bool:
    """Whether a chunk is there for its usage: what a stream ends with when it was asked for."""
    if field(chunk, "usage") is None:
        return False
    return not _texts(chunk) and not any(field(choice, "finish_reason") for choice in field(chunk, "choices") or ())


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
