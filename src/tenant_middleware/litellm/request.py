"""What a LiteLLM request asks for, whatever its call type: kind, prompt bound, output wish, and the cap to send."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tenant_middleware.admission.call import Kind
from tenant_middleware.admission.estimate import MEDIA_TOKENS, MESSAGE_TOKENS, text_bound
from tenant_middleware.errors import ConfigurationError, InvalidInput

# The async entry points that are metered, by LiteLLM's call type; everything else is refused.
KINDS: Mapping[str, Kind] = {
    "acompletion": Kind.CHAT,
    "aresponses": Kind.CHAT,
    "aembedding": Kind.EMBEDDING,
    "aimage_generation": Kind.IMAGE,
    "arerank": Kind.RERANK,
}
# What providers call the output cap; a caller's value under any of these names is its wish, the gate's is what is sent.
CAP_NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_MAX_N = 128
_PER_SEARCH = 100  # documents that a reranker charges for as one search


class Asked(NamedTuple):
    """The numbers of one request."""

    prompt_tokens: int
    max_tokens: int | None
    n: int
    stream: bool
    service_tier: str = ""
    media: bool = False


def kind_of(call_type: str | None) -> Kind:
    """The kind of a call type; raises ConfigurationError for one that can't be metered."""
    kind = KINDS.get(call_type or "")
    if kind is None:
        raise ConfigurationError(
            f"LiteLLM's {call_type or 'unknown'} calls can't be metered: expected one of {', '.join(KINDS)}; sync "
            "calls and other endpoints pass no hook that could bill them"
        )
    return kind


def bucket_of(call_type: str | None, request: Mapping[str, Any]) -> str:
    """Which metadata LiteLLM keeps for itself: `metadata` of the responses API is the provider's."""
    return "litellm_metadata" if call_type == "aresponses" or "litellm_metadata" in request else "metadata"


def asked(request: Mapping[str, Any]) -> Asked:
    """The numbers of a request; raises InvalidInput for an `n` or a cap that is no number."""
    tier = request.get("service_tier")
    return Asked(
        prompt_tokens(request),
        wish(request),
        _answers(request),
        bool(request.get("stream")),
        tier if isinstance(tier, str) else "",
        any(_holds_media(request.get(name)) for name in ("messages", "input")),
    )


def wish(request: Mapping[str, Any]) -> int | None:
    """The smallest output cap that the caller asked for, under any of its names."""
    wishes = [_whole(request[name], name) for name in CAP_NAMES if request.get(name) is not None]
    return min(wishes) if wishes else None


def _answers(request: Mapping[str, Any]) -> int:
    given = request.get("n")
    if given is None:
        return min(-(-len(request.get("documents") or ()) // _PER_SEARCH), _MAX_N) or 1
    n = _whole(given, "n")
    if n > _MAX_N:
        raise InvalidInput(f"n: expected at most {_MAX_N}")
    return n


def _whole(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{name}: expected a whole number of at least 1")
    return value


def capped(call_type: str | None, request: Mapping[str, Any], total: int, n: int) -> dict[str, Any]:
    """The caps to write into a request: the gate's, for each of its `n` answers, under the name the caller used."""
    if KINDS.get(call_type or "") is not Kind.CHAT:
        return {}
    name = "max_output_tokens" if call_type == "aresponses" else "max_tokens"
    if call_type == "acompletion" and request.get("max_completion_tokens") is not None:
        name = "max_completion_tokens"
    return {other: None for other in CAP_NAMES if other in request} | {name: max(total // n, 1)}


def prompt_tokens(request: Mapping[str, Any]) -> int:
    """A bound on the prompt's tokens: all text, tool calls and tool schemas, ids of pre-tokenised input as they are."""
    total = sum(MESSAGE_TOKENS + _content(message) for message in request.get("messages") or ())
    for name in ("input", "prompt", "instructions", "query"):
        total += _input(request.get(name))
    documents = list(request.get("documents") or ())
    if documents:  # a reranker reads the query once per document
        total += sum(map(_input, documents)) + _input(request.get("query")) * (len(documents) - 1)
    for name in ("tools", "functions", "response_format", "text"):
        if request.get(name):
            total += text_bound(_json(request[name]))
    return total


def _content(message: Any) -> int:
    if not isinstance(message, Mapping):
        return text_bound(str(message))
    total = _input(message.get("content"))
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            total += text_bound(_json(message[name]))
    return total


def _input(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, str):
        return text_bound(value)
    if isinstance(value, int):
        return 1
    if isinstance(value, Mapping):
        return _part(value)
    if isinstance(value, list | tuple):
        return sum(MESSAGE_TOKENS * isinstance(item, Mapping) + _input(item) for item in value)
    return text_bound(str(value))


def _part(part: Mapping[str, Any]) -> int:
    """One content part, one message or one item of the responses API."""
    texts = [part[name] for name in ("text", "content", "output", "arguments") if name in part]
    if texts:
        return sum(map(_input, texts))
    return MEDIA_TOKENS if "type" in part else text_bound(_json(part))


def _holds_media(value: Any) -> bool:
    """Whether anything in there is no text."""
    if isinstance(value, list | tuple):
        return any(map(_holds_media, value))
    if not isinstance(value, Mapping):
        return False
    if "content" in value or "output" in value:
        return _holds_media(value.get("content")) or _holds_media(value.get("output"))
    return "type" in value and _part(value) == MEDIA_TOKENS


def _json(value: Any) -> str:
    return json.dumps(value, default=str)


def texts(request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every text of a request with the role that it speaks in, in order: what a guard has to read."""
    if request.get("instructions"):
        yield str(request["instructions"]), "system"
    for name in ("messages", "input", "prompt", "query", "documents"):
        yield from _spoken(request.get(name), "tool" if name == "documents" else "user")


def _spoken(value: Any, role: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield value, role
    elif isinstance(value, Mapping):
        role = str(value.get("role") or ("tool" if "output" in value else role))
        for name in ("text", "content", "output"):
            yield from _spoken(value.get(name), role)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _spoken(item, role)
