"""Answers as JSON and back: text, numbers, lists, dictionaries, messages and documents. No pickle, no class loading."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tenant_middleware.errors import InvalidInput, missing_extra

try:
    from langchain_core.documents import Document
    from langchain_core.messages import (
        AIMessage,
        AIMessageChunk,
        BaseMessage,
        message_chunk_to_message,
        message_to_dict,
        messages_from_dict,
    )
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk
    from langchain_core.runnables import AddableDict
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

_KIND = "$"


def dumps(value: Any) -> str:
    """The value as JSON text; raises InvalidInput for a type that could only be pickled."""
    return _encoded(to_json(value))


def loads(text: str) -> Any:
    """The inverse of `dumps`."""
    return from_json(json.loads(text))


def _encoded(data: Any) -> str:
    try:
        return json.dumps(data, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a cached value holds what JSON can't carry ({type(error).__name__})") from None


def to_json(value: Any) -> Any:
    """Plain JSON data, messages and documents told apart by a mark."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, BaseMessage):
        return {_KIND: "message", "v": _message(value)}
    if isinstance(value, Document):
        return {_KIND: "document", "v": [value.id, value.page_content, to_json(value.metadata)]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {_KIND: "dict", "v": {key: to_json(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    raise InvalidInput(
        f"values of type {type(value).__name__} can't be cached: expected text, numbers, lists, dictionaries, messages "
        "or documents; end the cached part of the chain before it makes such an object"
    )


def from_json(data: Any) -> Any:
    """The inverse of `to_json`; tuples come back as lists."""
    if isinstance(data, list):
        return [from_json(item) for item in data]
    if not isinstance(data, dict):
        return data
    kind, inner = data[_KIND], data["v"]
    if kind == "message":
        return messages_from_dict([inner])[0]
    if kind == "document":
        return Document(id=inner[0], page_content=inner[1], metadata=from_json(inner[2]))
    return {key: from_json(item) for key, item in inner.items()}


def _message(message: BaseMessage) -> dict[str, Any]:
    """Without its id: a graph that gets one id twice would replace the first message by the second."""
    whole = message_chunk_to_message(message)
    data = message_to_dict(whole)
    data["data"]["id"] = None
    return data


_GENERATIONS = (Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)


def dump_generations(generations: Sequence[Generation]) -> str:
    """What a model returned, as JSON text."""
    rows = []
    for generation in generations:
        if type(generation) not in _GENERATIONS:
            known = ", ".join(kind.__name__ for kind in _GENERATIONS)
            raise InvalidInput(f"generations of type {type(generation).__name__} can't be cached: expected {known}")
        message = to_json(generation.message) if isinstance(generation, ChatGeneration) else None
        rows.append([generation.text, to_json(generation.generation_info), message])
    return _encoded(rows)


def load_generations(text: str) -> list[Generation]:
    """The inverse of `dump_generations`; chunks come back whole."""
    return [_generation(*row) for row in json.loads(text)]


def _generation(text: str, info: Any, message: Any) -> Generation:
    if message is not None:
        return ChatGeneration(message=from_json(message), generation_info=from_json(info))
    return Generation(text=text, generation_info=from_json(info))


def as_chunk(value: Any) -> Any:
    """A whole answer as the only chunk of a stream: something that consumers can add to."""
    if isinstance(value, AIMessage) and not isinstance(value, AIMessageChunk):
        return AIMessageChunk(
            content=value.content,
            additional_kwargs=value.additional_kwargs,
            response_metadata=value.response_metadata,
            usage_metadata=value.usage_metadata,
            tool_call_chunks=[
                {"name": c["name"], "args": json.dumps(c["args"]), "id": c["id"], "index": i, "type": "tool_call_chunk"}
                for i, c in enumerate(value.tool_calls)
            ],
            chunk_position="last",
        )
    return AddableDict(value) if isinstance(value, dict) else value
