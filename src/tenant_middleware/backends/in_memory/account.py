"""One tenant's buckets, budget and reservations, as plain arithmetic without a lock or a clock."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from tenant_middleware.admission.period import Span, span_at
from tenant_middleware.admission.store import Ask, Denied, Granted, Left, Limits, Rule

# How soon a caller that waits for a slot or for money in flight should ask again.
BUSY_RETRY = 0.1
# More expired reservations than this of one tenant are merged: still charged, but a late settle adds to them.
MAX_LOST = 10_000

_new = tuple.__new__  # a NamedTuple's own constructor takes twice the time
REPLAYED = Denied("replayed", 0, 0, None, None)
UNKNOWN = Denied("unknown_call", 0, 0, None, None)


class Books:
    """The money of one calendar period, in nano-dollars."""

    __slots__ = ("ends", "lost", "reserved", "span", "spent")

    def __init__(self, span: Span, spent: int = 0) -> None:
        self.span = span
        self.ends = span.end
        self.spent = spent
        self.reserved = 0
        self.lost = 0


class Held(NamedTuple):
    """A reservation: what it took, from which period, and the nonce of the request that made it."""

    books: Books
    output: int
    tokens: int
    nano: int
    expires_at: float
    nonce: str


class Account:
    """Requests and tokens that may come now (negative: a debt), live and expired reservations, the current books.

    An absent limit is an infinite one, so that the decision needs no branches for it.
    """

    __slots__ = (
        "at",
        "books",
        "budget",
        "concurrency",
        "done",
        "done_before",
        "done_since",
        "grown",
        "held",
        "limits",
        "lost",
        "marker_ttl",
        "quiet_until",
        "request_cap",
        "request_rate",
        "requests",
        "token_cap",
        "token_limit",
        "token_rate",
        "tokens",
    )

    def __init__(self, limits: Limits, books: Books, now: float, marker_ttl: float) -> None:
        self.books = books
        self.marker_ttl = marker_ttl
        self.requests = self.tokens = inf
        self.at = self.done_since = now
        self.quiet_until = min(books.span.end, now + marker_ttl)
        self.grown: dict[str, tuple[str, Granted]] = {}
        self.held: dict[str, Held] = {}
        self.lost: dict[str, Held] = {}
        self.done: set[str] = set()
        self.done_before: set[str] = set()
        self.apply(limits)

    def apply(self, limits: Limits) -> None:
        """Use these limits from now on; what is in the buckets stays, up to their new size."""
        self.limits = limits
        rpm, tpm = limits.rpm, limits.tpm
        self.request_rate = 0.0 if rpm is None else rpm / 60
        self.request_cap = inf if rpm is None else max(limits.burst * rpm, 1.0)
        self.token_rate = 0.0 if tpm is None else tpm / 60
        self.token_limit = inf if tpm is None else tpm
        self.token_cap = inf if tpm is None else limits.burst * tpm
        self.concurrency = inf if limits.max_concurrency is None else limits.max_concurrency
        self.budget = inf if limits.budget_nano is None else limits.budget_nano
        self.requests = self.request_cap if rpm is None else min(self.requests, self.request_cap)
        self.tokens = self.token_cap if tpm is None else min(self.tokens, self.token_cap)

    def move_to(self, now: float, limits: Limits) -> None:
        """Refill, expire and turn the period as time has passed; a clock that went back refills nothing."""
        if limits is not self.limits and limits != self.limits:
            self.apply(limits)
        self.refill(now)
        if now >= self.quiet_until or limits.period != self.books.span.kind:
            self._turn(now, limits)

    def refill(self, now: float) -> None:
        """What time has added to the buckets."""
        elapsed = max(now - self.at, 0.0)
        self.requests = min(self.requests + elapsed * self.request_rate, self.request_cap)
        self.tokens = min(self.tokens + elapsed * self.token_rate, self.token_cap)
        self.at = now

    def _turn(self, now: float, limits: Limits) -> None:
        """Expire the reservations whose worker fell silent (no slot any more, but charged in full), and the period."""
        for call_id in [call_id for call_id, held in self.held.items() if held.expires_at <= now]:
            held = self.lost[call_id] = self.held.pop(call_id)
            held.books.reserved -= held.nano
            held.books.lost += held.nano
        while len(self.lost) > MAX_LOST:
            oldest = next(iter(self.lost))
            del self.lost[oldest]
            self.grown.pop(oldest, None)
        span = self.books.span
        if now >= span.end or span.kind != limits.period:
            closed, self.books = self.books, Books(span_at(now, limits.period))
            for call_id in [call_id for call_id, held in self.lost.items() if held.books is not closed]:
                del self.lost[call_id]
                self.grown.pop(call_id, None)
        self._age_markers(now)
        expiries = (held.expires_at for held in self.held.values())
        self.quiet_until = min(self.books.span.end, self.done_since + self.marker_ttl, min(expiries, default=inf))

    def reserve(self, ask: Ask, now: float) -> Granted | Denied:
        """Decide all limits at once; a denial changes nothing."""
        _, call_id, limits, prompt, max_output, min_output, fixed, per_token, ttl, nonce = ask
        if now >= self.quiet_until or now < self.at or limits is not self.limits:
            self.move_to(now, limits)
        else:  # the same refill without a call: this line is the hottest there is
            elapsed = now - self.at
            level = self.requests + elapsed * self.request_rate
            self.requests = level if level < self.request_cap else self.request_cap
            level = self.tokens + elapsed * self.token_rate
            self.tokens = level if level < self.token_cap else self.token_cap
            self.at = now
        live = self.held
        if call_id in live or call_id in self.done or call_id in self.done_before or call_id in self.lost:
            return self._again(call_id, nonce)
        books = self.books
        nano = fixed + max_output * per_token
        room = self.budget - books.spent - books.lost - books.reserved
        output = max_output
        if nano > room:
            output = int((room - fixed) // per_token) if per_token else -1
            nano = fixed + output * per_token
        tokens = prompt + output
        if (
            output < min_output
            or self.requests < 1
            or self.tokens < (tokens if tokens < self.token_cap else self.token_cap)
            or len(live) >= self.concurrency
            or tokens > self.token_limit
        ):
            return self._denial(ask, output)
        self.requests -= 1
        self.tokens -= tokens
        books.reserved += nano
        expires_at = now + ttl
        if expires_at < self.quiet_until:
            self.quiet_until = expires_at
        live[call_id] = _new(Held, (books, output, tokens, nano, expires_at, nonce))
        left = (self.requests, self.tokens, len(live), books.spent, books.reserved, books.lost, books.ends)
        return _new(Granted, (output, tokens, nano, expires_at, left))

    def _again(self, call_id: str, nonce: str) -> Granted | Denied:
        """The same grant for a retry of the same request; a replay gets nothing."""
        held = self.held.get(call_id)
        if held is None or held.nonce != nonce:
            return REPLAYED
        return Granted(held.output, held.tokens, held.nano, held.expires_at, self.left())

    def _denial(self, ask: Ask, output: int) -> Denied:
        """Which rule decided. First what no short wait helps against, so that nobody waits in vain."""
        books, limits = self.books, self.limits
        least = ask.fixed_nano + ask.min_output * ask.output_nano
        charged = books.spent + books.lost
        tokens = ask.prompt_tokens + max(output, ask.min_output)
        if tokens > self.token_limit:
            return Denied("tpm", limits.tpm or 0, tokens, None, None, True)
        if charged + least > self.budget:
            never = least > self.budget
            return Denied("budget", limits.budget_nano or 0, charged, None, books.span.end, never)
        need, short = min(tokens, self.token_cap), list[Denied]()
        if self.requests < 1:
            short.append(self._rate("rpm", limits.rpm or 0, self.requests, 1.0, self.request_rate))
        if self.tokens < need:
            short.append(self._rate("tpm", limits.tpm or 0, self.tokens, need, self.token_rate))
        if short:  # the longer wait decides: after it the call isn't told to wait again
            return max(short, key=lambda denied: denied.retry_after or 0.0)
        if len(self.held) >= self.concurrency:
            return Denied("concurrency", limits.max_concurrency or 0, len(self.held), BUSY_RETRY, None)
        return Denied("budget_busy", limits.budget_nano or 0, charged + books.reserved, BUSY_RETRY, books.span.end)

    def _rate(self, rule: Rule, limit: int, level: float, need: float, rate: float) -> Denied:
        # A millisecond more, so that rounding can't make a punctual caller early.
        wait = (need - level) / rate + 0.001
        return Denied(rule, limit, limit - int(level // 1), wait, None)

    def extend(self, ask: Ask, now: float) -> Granted | Denied:
        """Renew a reservation and add to it, if tokens and budget allow; an expired one lives again."""
        call_id = ask.call_id
        self.move_to(now, ask.limits)
        held = self.held.get(call_id) or self.lost.get(call_id)
        if held is None:
            return REPLAYED if self.is_done(call_id) else UNKNOWN
        nonce, answer = self.grown.get(call_id, ("", None))
        if answer is not None and nonce == ask.nonce:
            return answer
        output, books = ask.max_output, held.books
        room = self.budget - books.spent - books.lost - books.reserved
        if output and ask.fixed_nano + output * ask.output_nano > room:
            output = int((room - ask.fixed_nano) // ask.output_nano) if ask.output_nano else -1
        tokens = ask.prompt_tokens + output
        nano = ask.fixed_nano + output * ask.output_nano
        if output < ask.min_output or (nano and nano > room) or (tokens and self.tokens < min(tokens, self.token_cap)):
            return self._denial_of_growth(ask, books, output)
        if self.lost.pop(call_id, None) is not None:
            books.lost -= held.nano
            books.reserved += held.nano
        expires_at = now + ask.ttl
        self.quiet_until = min(self.quiet_until, expires_at)
        grown = held._replace(tokens=held.tokens + tokens, nano=held.nano + nano, expires_at=expires_at)
        self.held[call_id] = grown
        self.tokens -= tokens
        books.reserved += nano
        answer = Granted(output, tokens, nano, expires_at, self.left())
        self.grown[call_id] = (ask.nonce, answer)
        return answer

    def _denial_of_growth(self, ask: Ask, books: Books, output: int) -> Denied:
        least = ask.fixed_nano + ask.min_output * ask.output_nano
        charged, limit = books.spent + books.lost, self.limits.budget_nano or 0
        if charged + least > self.budget:
            return Denied("budget", limit, charged, None, self.books.span.end, least > self.budget)
        if output < ask.min_output or least > self.budget - charged - books.reserved:
            return Denied("budget_busy", limit, charged + books.reserved, BUSY_RETRY, self.books.span.end)
        need = min(ask.prompt_tokens + output, self.token_cap)
        return self._rate("tpm", self.limits.tpm or 0, self.tokens, need, self.token_rate)

    def settle(self, call_id: str, held: Held, tokens: int, nano: int) -> None:
        """Swap a live hold for the truth, in the period it was taken in.

        Needs no time: what comes back to a bucket is cut to its size at the next refill. A debt does, see `refill`.
        """
        del self.held[call_id]
        books = held.books
        books.reserved -= held.nano
        books.spent += nano
        self.tokens += held.tokens - tokens
        self.done.add(call_id)
        if self.grown:
            self.grown.pop(call_id, None)

    def settle_late(self, call_id: str, tokens: int, nano: int) -> None:
        """Swap an expired hold for the truth; a call of which nothing is known is charged to the current period."""
        held, books = self.lost.pop(call_id, None), self.books
        if held is not None:
            books = held.books
            books.lost -= held.nano
            tokens -= held.tokens
        books.spent += nano
        self.tokens -= tokens
        self.done.add(call_id)
        self.grown.pop(call_id, None)

    def release(self, call_id: str) -> bool:
        """Give tokens, money and concurrency back; an id that holds nothing is barred all the same."""
        held = self.held.get(call_id)
        if held is not None:
            self.settle(call_id, held, 0, 0)
            return True
        known = call_id in self.lost
        self.settle_late(call_id, 0, 0)
        return known

    def is_done(self, call_id: str) -> bool:
        return call_id in self.done or call_id in self.done_before

    def _age_markers(self, now: float) -> None:
        """Forget settled ids after one to two `marker_ttl`."""
        if not -self.marker_ttl < now - self.done_since < self.marker_ttl:
            self.done_before, self.done, self.done_since = self.done, set(), now

    def idle(self, now: float) -> bool:
        """Whether forgetting this account changes no later answer."""
        self.move_to(now, self.limits)
        busy = self.held or self.lost or self.done or self.done_before
        full = self.requests >= self.request_cap and self.tokens >= self.token_cap
        return not busy and full and not (self.books.spent or self.books.lost)

    def left(self) -> Left:
        """What is left, as it is counted here."""
        books = self.books
        return Left(self.requests, self.tokens, len(self.held), books.spent, books.reserved, books.lost, books.ends)
