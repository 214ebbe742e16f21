"""What a store of limits and budgets does: one decision, all or nothing, for requests, tokens, concurrency and money.

Values only; the in-memory and the Redis store implement `AdmissionStore` and answer alike (contract suite in
`tenant_middleware.testing`). Amounts are whole tokens and whole nano-dollars; times are seconds on the store's clock.
What is made for each call is a NamedTuple: a third of the time of a frozen dataclass, on the hottest path there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from math import inf
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.metering.pricing import to_usd
from tenant_middleware.policy import Period, Tier
from tenant_middleware.tenant import Tenant

Rule = Literal["rpm", "tpm", "concurrency", "budget", "budget_busy", "replayed", "unknown_call"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers of a tenant's terms; None is unlimited. `burst` is the share of a minute that may come at once."""

    rpm: int | None
    tpm: int | None
    burst: float
    max_concurrency: int | None
    budget_nano: int | None
    period: Period

    @classmethod
    def of(cls, terms: Tier) -> Limits:
        budget = terms.budget
        return cls(
            rpm=terms.rpm,
            tpm=terms.tpm,
            burst=terms.burst,
            max_concurrency=terms.max_concurrency,
            budget_nano=None if budget is None else int(budget.usd * 1_000_000_000),
            period="month" if budget is None else budget.period,
        )


class Ask(NamedTuple):
    """A reservation: `prompt_tokens` plus between `min_output` and `max_output` tokens, costing
    `fixed_nano + output * output_nano`.

    The budget decides the output that is granted inside that range: the most it still pays for. `nonce` names this
    sending: the same call id with the same nonce is a retry of ours after a lost reply and gets the same answer, with
    another nonce it is a replay.
    """

    tenant: Tenant
    call_id: str
    limits: Limits
    prompt_tokens: int
    max_output: int
    min_output: int
    fixed_nano: int
    output_nano: int
    ttl: float
    nonce: str


class Balance(NamedTuple):
    """What is left for a tenant; None where it is unlimited. Money in nano-dollars of the current period."""

    requests: int | None
    tokens: int | None
    in_flight: int
    spent_nano: int
    reserved_nano: int
    lost_nano: int
    resets_at: float

    @property
    def spent_usd(self) -> Decimal:
        """What was settled in this period."""
        return to_usd(self.spent_nano)

    @property
    def held_usd(self) -> Decimal:
        """What calls in flight may cost at most, and calls that nobody settled."""
        return to_usd(self.reserved_nano + self.lost_nano)


class Left(NamedTuple):
    """A balance as the stores count it: fractions of requests and tokens, infinite when unlimited, negative in debt."""

    requests: float
    tokens: float
    in_flight: int
    spent_nano: int
    reserved_nano: int
    lost_nano: int
    resets_at: float

    def balance(self) -> Balance:
        requests, tokens = (None if n == inf else max(int(n), 0) for n in self[:2])
        return Balance(requests, tokens, *self[2:])


class Granted(NamedTuple):
    """An admitted reservation: `output` tokens of answer, `tokens` and `nano` held until `expires_at`."""

    output: int
    tokens: int
    nano: int
    expires_at: float
    left: tuple[float, float, int, int, int, int, float]

    @property
    def balance(self) -> Balance:
        """What is left for the tenant; worked out for whoever asks."""
        return Left(*self.left).balance()


class Denied(NamedTuple):
    """A refusal that changed nothing: the deciding rule, its limit and use, and when to come back.

    `limit` and `used` are in the unit of the rule (requests, tokens, calls, nano-dollars). `retry_after` is in
    seconds, None when only `resets_at` helps; `never` says that no wait makes this call admissible.
    """

    rule: Rule
    limit: int
    used: int
    retry_after: float | None
    resets_at: float | None
    never: bool = False


class Settlement(NamedTuple):
    """The truth about a reservation: tokens and money really used, and the row for the books."""

    tenant: Tenant
    call_id: str
    limits: Limits
    tokens: int
    nano: int
    row: LedgerRow | None


class AdmissionStore(Protocol):
    """Reserve, extend, settle and release, each one atomic step and idempotent per (tenant, call id).

    Reservations expire `ttl` seconds after the last `reserve` or `extend`; an expired one stays charged in full
    ("lost") until a late settle puts the truth in its place. A settled or released id is refused when reserved again.
    Budgets count in the period the reservation was taken in, also when it is settled in the next. `in_process` says
    that the sync methods only compute, so that async code may call them too.
    """

    in_process: bool

    def reserve(self, ask: Ask) -> Granted | Denied: ...
    def extend(self, ask: Ask) -> Granted | Denied:
        """Grow a live reservation by `max_output` tokens (0 renews the lease alone) under the same rules.

        The answer tells what was added. A reservation that expired meanwhile is live again.
        """
        ...

    def settle(self, settlement: Settlement) -> bool:
        """Swap the hold for the truth and hand the row to the books; False when it was settled before."""
        ...

    def release(self, tenant: Tenant, call_id: str, limits: Limits) -> bool:
        """Give tokens, money and concurrency back (the request stays counted); False when it was done before."""
        ...

    def balance(self, tenant: Tenant, limits: Limits) -> Balance: ...
    def close(self) -> None: ...

    async def areserve(self, ask: Ask) -> Granted | Denied: ...
    async def aextend(self, ask: Ask) -> Granted | Denied: ...
    async def asettle(self, settlement: Settlement) -> bool: ...
    async def arelease(self, tenant: Tenant, call_id: str, limits: Limits) -> bool: ...
    async def abalance(self, tenant: Tenant, limits: Limits) -> Balance: ...
    async def aclose(self) -> None: ...


@runtime_checkable
class Refillable(Protocol):
    """A store whose buckets an operator may fill, to forgive a debt."""

    def refill(self, tenant: Tenant) -> None: ...
