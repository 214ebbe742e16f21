"""What LiteLLM's answers have to pass on their way out: no other tenant's canary, and a look at what they give away.

Every text of an answer is looked at, in each of its shapes: content, reasoning, refusals and tool arguments of chats,
items and events of the responses API. Answers are never changed in place: LiteLLM caches and logs the same objects.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import litellm
from pydantic import BaseModel

from tenant_middleware.errors import InvalidInput
from tenant_middleware.guardrails import AnswerGuard, CanaryGuard, CanaryStream
from tenant_middleware.litellm.usage import field as field_of
from tenant_middleware.tenant import Tenant

_log = logging.getLogger(__name__)

Path = tuple[str | int, ...]
Change = Callable[[Path, str], str]

# The fields of an answer that hold what a model wrote, or lead to it; ids, names and echoes of the request don't.
_WRITTEN = frozenset(
    {
        *("choices", "delta", "message", "content", "refusal", "text", "output", "item", "part", "response", "summary"),
        *("reasoning_content", "reasoning", "reasoning_items", "thinking_blocks", "thinking"),
        *("tool_calls", "function_call", "function", "custom", "arguments", "input"),
        *("provider_specific_fields", "audio", "transcript"),
    }
)
# What a changed text's tokens would still tell.
_TOKENS = "logprobs"
_NO_REPLAYS: frozenset[str] = frozenset()


class OutputGuard:
    """The canaries and answer checks of a tenancy, over LiteLLM's answers."""

    def __init__(self, canaries: CanaryGuard | None, answers: AnswerGuard | None) -> None:
        self.canaries = canaries
        self.answers = answers

    def __bool__(self) -> bool:
        return self.canaries is not None or self.answers is not None

    def whole(self, response: Any, tenant: Tenant, cache_entry: str | None) -> Any:
        """An answer without the tenant's own canaries; raises IsolationBreach when there is a foreign one."""
        texts: list[str] = []

        def look(path: Path, text: str) -> str:
            texts.append(self.clean(text, tenant, cache_entry))
            return texts[-1]

        cleaned = rewritten(response, look)
        self.check(texts, tenant)
        return cleaned

    def clean(self, text: str, tenant: Tenant, cache_entry: str | None) -> str:
        """One text without the tenant's own canaries.

        Nothing is excused as a replay: found text stands in the user's messages as often as not, and only the
        application could tell the one from the other.
        """
        return text if self.canaries is None else self.canaries.settle(text, tenant, _NO_REPLAYS, cache_entry)

    def check(self, texts: list[str], tenant: Tenant) -> None:
        """Flag what a whole answer gives away besides canaries."""
        if self.answers is not None:
            self.answers.check("\n".join(texts), tenant)


@dataclass(slots=True, eq=False)
class _Channel:
    """One text of a streamed answer: what its scanner has let through so far, and all that was said in it."""

    scanner: CanaryStream
    cleared: str = ""
    closed: bool = False

    def push(self, text: str) -> None:
        self.cleared += self.scanner.push(text)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.cleared += self.scanner.close()

    def take(self, length: int) -> str:
        taken, self.cleared = self.cleared[:length], self.cleared[length:]
        return taken


@dataclass(slots=True, eq=False)
class _Waiting:
    """A chunk that goes out when all its texts are cleared."""

    chunk: Any
    pieces: list[tuple[_Channel, int]]

    def is_clear(self) -> bool:
        need: dict[_Channel, int] = {}
        for channel, length in self.pieces:
            need[channel] = need.get(channel, 0) + length
        return all(channel.closed or len(channel.cleared) >= length for channel, length in need.items())

    def released(self) -> Any:
        pieces = iter(self.pieces)

        def share(path: Path, text: str) -> str:
            channel, length = next(pieces)
            return channel.take(length)

        return rewritten(self.chunk, share) if self.pieces else self.chunk


class GuardedStream:
    """A streamed answer on its way through the guard: chunks go out in order, as they came, a window later.

    A text is scanned to its end when its choice ends or another text of the same choice begins; one that goes on after
    that is scanned anew.
    """

    def __init__(self, guard: OutputGuard, tenant: Tenant, cache_entry: str | None) -> None:
        self._guard, self._tenant, self._cache_entry = guard, tenant, cache_entry
        self._queue: deque[_Waiting] = deque()
        self._open: dict[Hashable, dict[Hashable, _Channel]] = {}
        self._said: dict[Hashable, list[str]] = {}

    def push(self, chunk: Any) -> list[Any]:
        """Take a chunk; gives those that may be shown now."""
        if isinstance(chunk, str | bytes):
            raise InvalidInput("LiteLLM streams this answer as raw text, which the output guard can't read")
        spoken: list[tuple[Hashable, Hashable, str]] = []

        def hear(path: Path, text: str) -> str:
            spoken.append((*_place(chunk, path), text))
            return text

        choices = field_of(chunk, "choices")
        if choices is not None or isinstance(field_of(chunk, "delta"), str):
            rewritten(chunk, hear)
        else:
            chunk = rewritten(chunk, self._repeated)
        for _, name, text in spoken:
            self._said.setdefault(name, []).append(text)
        canaries = self._guard.canaries
        if canaries is None:
            return [chunk]
        self._queue.append(_Waiting(chunk, [self._heard(canaries, *piece, spoken) for piece in spoken]))
        for choice in choices or ():
            if field_of(choice, "finish_reason"):
                self._close(field_of(choice, "index"))
        return self._cleared()

    def close(self) -> list[Any]:
        """The rest, once the answer is through."""
        for group in list(self._open):
            self._close(group)
        self._guard.check(["".join(texts) for texts in self._said.values()], self._tenant)
        return self._cleared()

    def _heard(
        self,
        canaries: CanaryGuard,
        group: Hashable,
        name: Hashable,
        text: str,
        spoken: list[tuple[Hashable, Hashable, str]],
    ) -> tuple[_Channel, int]:
        """Scan a piece of a text; the group's texts that this chunk adds nothing to have ended."""
        channels = self._open.setdefault(group, {})
        for other in channels.keys() - {name for _, name, _ in spoken}:
            channels.pop(other).close()
        if name not in channels:
            channels[name] = _Channel(canaries.stream(self._tenant, cache_entry=self._cache_entry))
        channels[name].push(text)
        return channels[name], len(text)

    def _repeated(self, path: Path, text: str) -> str:
        """A whole text of the responses API, which its pieces have gone before."""
        self._close(_RESPONSE)
        return self._guard.clean(text, self._tenant, self._cache_entry)

    def _close(self, group: Hashable) -> None:
        for channel in self._open.pop(group, {}).values():
            channel.close()

    def _cleared(self) -> list[Any]:
        ready: list[Any] = []
        while self._queue and self._queue[0].is_clear():
            ready.append(self._queue.popleft().released())
        return ready


_RESPONSE = "response"


def _place(chunk: Any, path: Path) -> tuple[Hashable, Hashable]:
    """Which choice a piece of text belongs to, and which of its texts it continues."""
    if path[0] == "choices":
        return path[1], path
    where = ("type", "item_id", "output_index", "content_index", "summary_index")
    return _RESPONSE, tuple(field_of(chunk, name) for name in where)


def rewritten(value: Any, change: Change, path: Path = ()) -> Any:
    """The value, or a copy of it, whose texts are what `change(path, text)` makes of them."""
    if isinstance(value, str):
        made = change(path, value) if value else value
        return value if made == value else made
    if isinstance(value, list):
        items = [rewritten(item, change, (*path, _index(item, at))) for at, item in enumerate(value)]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if not isinstance(value, BaseModel | Mapping):
        return value
    parts = value if isinstance(value, Mapping) else {**value.__dict__, **(value.__pydantic_extra__ or {})}
    made_of = {name: rewritten(part, change, (*path, name)) for name, part in parts.items() if name in _WRITTEN}
    changes = {name: new for name, new in made_of.items() if new is not parts[name]}
    if not changes:
        return value
    if parts.get(_TOKENS):
        changes[_TOKENS] = type(parts[_TOKENS])() if isinstance(parts[_TOKENS], list) else None
    if isinstance(value, Mapping):
        return {**value, **changes}
    copy = value.model_copy()
    for name, new in changes.items():
        (copy.__dict__ if name in copy.__dict__ else copy.__pydantic_extra__)[name] = new  # type: ignore[index]  # one of the two has it
    return copy


def _index(item: Any, at: int) -> int:
    index = field_of(item, "index")
    return index if isinstance(index, int) else at


async def drop_entry(entry: str) -> None:
    """Take an answer out of LiteLLM's cache; a semantic one deletes nothing by key, but its hits are seen again."""
    store: Any = getattr(litellm.cache, "cache", None)
    try:
        if hasattr(store, "async_delete_cache"):
            await store.async_delete_cache(entry)
        elif hasattr(store, "delete_cache"):
            store.delete_cache(entry)
    except Exception as error:  # noqa: BLE001  # whatever a store raises must not stand in for the breach
        _log.error("an answer that was stopped is still in LiteLLM's cache: %s", type(error).__name__)


def withheld(response: Any) -> Any:
    """An answer without a word of it, marked as filtered: what is left to give where LiteLLM lets no hook raise."""
    empty = rewritten(response, lambda path, text: "")
    for choice in field_of(empty, "choices") or ():
        vars(choice)["finish_reason"] = "content_filter"
    if field_of(empty, "output") is not None:
        vars(empty)["status"] = "incomplete"
    return empty
