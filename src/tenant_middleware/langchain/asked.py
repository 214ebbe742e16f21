"""What a call of a cached chain asks: the last user message, and everything else that shapes its answer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenant_middleware.errors import ConfigurationError, InvalidInput, missing_extra
from tenant_middleware.langchain.values import to_json

try:
    from langchain_core.load import dumpd
    from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, convert_to_messages
    from langchain_core.prompt_values import PromptValue
    from langchain_core.runnables import Runnable, RunnableConfig
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

Picker = Callable[[Any], str]
Context = Callable[[Any, RunnableConfig], Mapping[str, Any]]

_QUESTION_KEYS = ("question", "input", "query", "messages")
_THREAD_KEYS = frozenset(("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map"))


@dataclass(frozen=True, slots=True)
class Asked:
    """The text whose nearness counts, the context that must be equal, and whether earlier turns are part of it."""

    text: str
    context: dict[str, Any]
    remembers: bool


def read(
    input: Any,
    config: RunnableConfig | None,
    options: Mapping[str, Any],
    *,
    question: str | Picker | None,
    context: Context | None,
    chain: str,
) -> Asked:
    """Take a call apart; raises when the answer would depend on memory that nothing here shows."""
    configurable = _configurable(config)
    if callable(question) and context is None:
        raise ConfigurationError(
            "cached: a function picks the question, so nothing says what else in the input shapes the answer; pass "
            "context=lambda input, config: {...} that returns it (an empty dictionary when there is nothing)"
        )
    if "thread_id" in configurable and context is None:
        raise ConfigurationError(
            "cached: this call has a thread_id, so its answer depends on messages that the cache can't see; pass "
            "context=lambda input, config: {...} that returns them (they are compared exactly), or cache a part of the "
            "chain that runs without memory"
        )
    text, rest, remembers = _split(input, question)
    return Asked(
        text,
        {
            "chain": chain,
            "rest": to_json(rest),
            "options": to_json(dict(options)),
            "configurable": to_json({k: v for k, v in configurable.items() if k not in _THREAD_KEYS}),
            "app": to_json(dict(context(input, config or {}))) if context else None,
        },
        remembers or "thread_id" in configurable,
    )


def identity(runnable: Runnable[Any, Any], name: str | None) -> str:
    """What tells this chain from others behind one cache.

    With a `name`: its serialised form, prompts included; parts that LangChain can't serialise count by their class
    alone, so that other processes arrive at the same identity. Without one: a random mark, as addresses are used again.
    """
    return f"{name}|{_plain(dumpd(runnable))!r}" if name else f"|{secrets.token_hex(16)}"


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        unserialised = node.get("type") == "not_implemented"
        return {
            key: _plain(value)
            for key, value in sorted(node.items())
            if not (unserialised and key == "repr") and key != "graph"
        }
    return [_plain(item) for item in node] if isinstance(node, list) else node


def _configurable(config: RunnableConfig | None) -> dict[str, Any]:
    """The caller's settings of a call; LangGraph's own objects begin with two underscores."""
    given = (config or {}).get("configurable") or {}
    return {key: value for key, value in given.items() if not key.startswith("__")}


def _split(input: Any, question: str | Picker | None) -> tuple[str, Any, bool]:
    if callable(question):
        return _text(question(input)), None, False
    if isinstance(input, str):
        return input, None, False
    if isinstance(input, PromptValue):
        return _last_of(input.to_messages())
    if isinstance(input, Mapping):
        return _of_mapping(input, question)
    if isinstance(input, BaseMessage):
        return _last_of([input])
    if isinstance(input, Sequence):
        return _last_of(convert_to_messages(list(input)))
    raise InvalidInput(
        f"cached: expected text, messages, a prompt or a dictionary, got {type(input).__name__}; say question=..."
    )


def _of_mapping(input: Mapping[str, Any], question: str | None) -> tuple[str, Any, bool]:
    key = question or next((k for k in _QUESTION_KEYS if k in input), None)
    if key is None or key not in input:
        raise InvalidInput(f"cached: the input has no key {question or _QUESTION_KEYS}; say question='its key'")
    rest = {k: v for k, v in input.items() if k != key}
    if isinstance(input[key], str):
        return input[key], rest, any(_is_history(value) for value in rest.values())
    text, before, remembers = _split(input[key], None)
    return text, [rest, before], remembers


def _last_of(messages: Sequence[BaseMessage]) -> tuple[str, Any, bool]:
    if not messages or not isinstance(messages[-1], HumanMessage):
        raise InvalidInput("cached: expected a conversation that ends with a user message")
    before = list(messages[:-1])
    remembers = any(not isinstance(message, SystemMessage) for message in before)
    return _text(messages[-1].content), [_said(message) for message in before], remembers


def _said(message: BaseMessage) -> list[Any]:
    """Who said what, without ids and usage, which differ each time."""
    calls = [[call["name"], call["args"]] for call in getattr(message, "tool_calls", [])]
    return [message.type, message.content, calls]


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, BaseMessage) for item in value)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    raise InvalidInput(
        f"cached: the question must be text, got {type(content).__name__}; images and files are not cached"
    )
