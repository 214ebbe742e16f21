"""One model call on its way through the gate: what is asked, what is held, what is left."""

from __future__ import annotations

import itertools
import os
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from tenant_middleware.admission.queue import Slot
from tenant_middleware.admission.store import Balance, Left, Limits
from tenant_middleware.errors import InvalidInput
from tenant_middleware.metering.pricing import Price
from tenant_middleware.metering.usage import Tally, Usage, check_tokens
from tenant_middleware.tenant import Tenant


class Kind(StrEnum):
    """What a model call is; each kind is totalled on its own."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    IMAGE = "image"


def new_call_id() -> str:
    """128 random bits of our own: a caller's id may be replayed, guessed or shared."""
    while True:
        try:
            return _ids.popleft()
        except IndexError:  # drawn many at a time, since each draw is a system call
            drawn = secrets.token_hex(16 * _DRAWN)
            _ids.extend(drawn[start : start + 32] for start in range(0, len(drawn), 32))


_DRAWN = 128
_ids: deque[str] = deque()
if hasattr(os, "register_at_fork"):  # a child's ids are its own
    os.register_at_fork(after_in_child=_ids.clear)


_ORIGIN = secrets.token_hex(8)
_numbers = itertools.count()


def new_nonce() -> str:
    """Tells a store our own repeated request from another one for the same call.

    It is compared within one call id, which nobody can guess, so a number will do: random bits cost a system call.
    """
    return f"{_ORIGIN}{next(_numbers):x}"


@dataclass(frozen=True, slots=True)
class Call:
    """A model call before it is admitted. `prompt_tokens` is a bound, `max_tokens` the caller's wish for the output.

    `id` is made here, never read from a request. `n` is the number of answers asked for at once (of a reranker: of
    searches that it will charge for), `service_tier` how the provider is asked to serve the call (batch, flex,
    priority), at its price, and `media` says that the prompt holds more than text.
    """

    tenant: Tenant
    model: str
    kind: Kind = Kind.CHAT
    prompt_tokens: int = 0
    max_tokens: int | None = None
    id: str = field(default_factory=new_call_id)
    attempt: int = 0
    n: int = 1
    stream: bool = False
    service_tier: str = ""
    media: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.tenant, Tenant):
            raise InvalidInput(f"Call.tenant: expected a Tenant, got {type(self.tenant).__name__}")
        if not self.model:
            raise InvalidInput("Call.model: expected the model's name")
        check_tokens(self.prompt_tokens, "prompt_tokens")
        if self.max_tokens is not None and check_tokens(self.max_tokens, "max_tokens") == 0:
            raise InvalidInput("max_tokens: expected at least 1")
        if not isinstance(self.n, int) or not 1 <= self.n <= 128:
            raise InvalidInput("n: expected a whole number from 1 to 128")
        if type(self.kind) is not Kind:
            object.__setattr__(self, "kind", Kind(self.kind))

    @property
    def paid_units(self) -> int:
        """How often a per-call price is due: images and searches are paid one by one, other answers per request."""
        return self.n if self.kind in (Kind.IMAGE, Kind.RERANK) else 1


@dataclass(slots=True, eq=False)
class Hold:
    """An admitted call: what it may use until it is settled or released, exactly once.

    `max_tokens` is the output cap for all `n` answers together; the adapter writes it into the request. A hold with a
    `parent` joined an open call of the same tenant: it is an attempt of that call, with no reservation of its own; one
    that was made by another attempt is `inside` it, and knows better what was used. One of another kind is made while
    the call `around` it waits for it, and may run on its slot: `lent` says that one does.
    """

    call: Call
    limits: Limits
    price: Price
    max_tokens: int
    nano: int
    started: float
    queue_wait: float = 0.0
    parent: Hold | None = None
    inside: Hold | None = None
    around: Hold | None = None
    lent: bool = False
    attempts: list[Hold] = field(default_factory=list)
    slot: Slot | None = None
    usage: Usage | None = None
    renewed: float = 0.0
    # Where the tier reserves what was learnt (`reserved`, output) instead of the cap: what was written when last asked.
    adaptive: bool = False
    reserved: int = 0
    seen: int = 0
    left: tuple[float, float, int, int, int, int, float] | None = None
    first_chunk: float | None = None
    admission: float = 0.0
    done: bool = False

    @property
    def root(self) -> Hold:
        """The hold that has the reservation and the ledger row."""
        return self if self.parent is None else self.parent

    @property
    def balance(self) -> Balance | None:
        """What was left for the tenant once this call was admitted; None for an attempt of another call."""
        return Left(*self.left).balance() if self.left is not None else None

    def report(self, usage: Usage) -> None:
        """Note what the call has used so far; the last report before the end is what is settled."""
        self.usage = usage

    @contextmanager
    def reporting(self, counted: Tally) -> Iterator[None]:
        """Report what a stream counted however it ends; a provider that failed before it sent anything gets nothing."""
        try:
            yield
        except BaseException:
            if counted.began:
                self.report(counted.usage())
            raise
        self.report(counted.usage())
