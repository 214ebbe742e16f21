"""What a conversation is: typed messages of a tenant's session, oldest first, bounded in time and in tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tenant_middleware.errors import InvalidInput
from tenant_middleware.tenant import Tenant

Role = Literal["system", "user", "assistant", "tool"]
ROLES: frozenset[str] = frozenset(("system", "user", "assistant", "tool"))

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: who spoke and what; `data` is JSON that a framework needs to rebuild a message of its own.

    `tokens` is what the message counts when a session is trimmed, estimated from the text when nobody says.
    """

    role: Role
    content: str
    tokens: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidInput(f"message role: expected one of {sorted(ROLES)}, got another value")
        if not isinstance(self.content, str):
            raise InvalidInput(
                f"message content: expected text, got {type(self.content).__name__}; use data= for parts"
            )
        if self.tokens is not None and self.tokens < 0:
            raise InvalidInput(f"message tokens: expected 0 or more, got {self.tokens}")

    @property
    def weight(self) -> int:
        """What this message counts against `HistoryLimits.max_tokens`."""
        if self.tokens is not None:
            return self.tokens
        return _TOKENS_PER_MESSAGE + -(-len(self.content) // _CHARACTERS_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """How long and how large a session may get; `ttl` in seconds counts from the last write, None is without bound."""

    ttl: float | None = None
    max_tokens: int | None = None
    max_messages: int | None = None

    def __post_init__(self) -> None:
        for name in ("ttl", "max_tokens", "max_messages"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidInput(f"history {name}: expected more than 0 or None, got {value}")


@dataclass(frozen=True, slots=True)
class HistoryCount:
    """How much a tenant has stored; what a clear is checked by."""

    sessions: int
    messages: int


class HistoryStore(Protocol):
    """Conversations by tenant and session id; what one tenant does never shows in another's.

    `append` keeps the messages of one call together and in order whoever appends at the same time, trims the session
    to the store's limits and answers its new length. `drop_oldest` takes messages off the front and returns them;
    `move_oldest` puts them at the end of another session, in one step; `remove` takes out the one at a position.
    """

    def append(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int: ...
    def read(self, tenant: Tenant, session: str, *, last: int | None = None) -> list[Message]: ...
    def replace(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int: ...
    def drop_oldest(self, tenant: Tenant, session: str, count: int) -> list[Message]: ...
    def move_oldest(self, tenant: Tenant, session: str, to: str, count: int) -> list[Message]: ...
    def remove(self, tenant: Tenant, session: str, position: int) -> Message | None: ...
    def clear(self, tenant: Tenant, session: str) -> int: ...
    def clear_tenant(self, tenant: Tenant) -> int: ...
    def sessions(self, tenant: Tenant) -> list[str]: ...
    def count(self, tenant: Tenant) -> HistoryCount: ...
    async def aappend(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int: ...
    async def aread(self, tenant: Tenant, session: str, *, last: int | None = None) -> list[Message]: ...
    async def areplace(self, tenant: Tenant, session: str, messages: Sequence[Message]) -> int: ...
    async def adrop_oldest(self, tenant: Tenant, session: str, count: int) -> list[Message]: ...
    async def amove_oldest(self, tenant: Tenant, session: str, to: str, count: int) -> list[Message]: ...
    async def aremove(self, tenant: Tenant, session: str, position: int) -> Message | None: ...
    async def aclear(self, tenant: Tenant, session: str) -> int: ...
    async def aclear_tenant(self, tenant: Tenant) -> int: ...
    async def asessions(self, tenant: Tenant) -> list[str]: ...
    async def acount(self, tenant: Tenant) -> HistoryCount: ...


def surplus(messages: Sequence[Message], limits: HistoryLimits) -> int:
    """How many of the oldest messages go so that the rest fits; the last message always stays.

    A tool result never leads the rest: without the call that asked for it, providers reject the conversation.
    """
    total, kept, drop = sum(message.weight for message in messages), len(messages), 0
    while kept > 1 and _over(total, kept, limits):
        total, kept, drop = total - messages[drop].weight, kept - 1, drop + 1
    while drop and kept > 1 and messages[drop].role == "tool":
        kept, drop = kept - 1, drop + 1
    return drop


def fit(messages: Sequence[Message], max_tokens: int) -> list[Message]:
    """The newest messages that fit into a prompt of `max_tokens`, without touching what is stored."""
    return list(messages[surplus(messages, HistoryLimits(max_tokens=max_tokens)) :])


def _over(total: int, kept: int, limits: HistoryLimits) -> bool:
    too_long = limits.max_messages is not None and kept > limits.max_messages
    return too_long or (limits.max_tokens is not None and total > limits.max_tokens)


def check_session(session: object) -> str:
    """A session id is any text of 1 to 512 characters; it never leaves the tenant, so it needs no grammar."""
    if isinstance(session, str) and 0 < len(session) <= 512:
        return session
    raise InvalidInput("session id: expected text of 1 to 512 characters")


def check_messages(messages: Iterable[Message]) -> list[Message]:
    """The messages as a list; anything that is no Message is refused before a backend sees it."""
    checked = list(messages)
    for message in checked:
        if not isinstance(message, Message):
            raise InvalidInput(f"history: expected Message values, got {type(message).__name__}")
    return checked


def check_window(value: object, name: str) -> None:
    """A window or count is a whole number of 0 or more; a negative one would silently mean something else."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InvalidInput(f"history {name}: expected a whole number of 0 or more")


_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def to_json(message: Message) -> str:
    """A message as one line of JSON; refuses data that JSON can't carry."""
    try:
        return _JSON.encode([message.role, message.content, message.tokens, dict(message.data)])
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"message data: expected JSON values ({type(error).__name__})") from None


def from_json(line: str | bytes) -> Message:
    """The inverse of `to_json`."""
    return Message(*json.loads(line))


def from_json_lines(lines: Sequence[bytes]) -> list[Message]:
    """`from_json` of many, in one pass."""
    return [Message(*fields) for fields in json.loads(b"[%b]" % b",".join(lines))]
