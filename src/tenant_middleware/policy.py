"""What each tenant may do: tiers, tenants and prices as one frozen value, and the rules that decide between them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tenant_middleware.clock import seconds_of
from tenant_middleware.complaints import complaints
from tenant_middleware.errors import AuthenticationError, InvalidTenant, TenantSuspended
from tenant_middleware.patterns import first_clash, matches
from tenant_middleware.tenant import Tenant, check_name

Isolation = Literal["namespace", "filter", "silo"]
GuardMode = Literal["off", "flag", "block"]
Period = Literal["hour", "day", "week", "month"]
BACKENDS = ("admission", "history", "cache", "vectors", "ledger")

# Money inside Redis is a double; past 2**53 nano-dollars (about 9 million USD) sums would lose digits.
MAX_BUDGET_USD = Decimal(9_000_000)


def _limit(value: object) -> object:
    if isinstance(value, str) and not value.isdigit():
        if value != "unlimited":
            raise ValueError('expected a whole number, or "unlimited"')
        return None
    return value


def _budget(value: object) -> object:
    if value is None or value == "unlimited":
        return None
    if not isinstance(value, Mapping | Budget):
        raise ValueError('expected { usd = "5", period = "month" }, or "unlimited"')
    return value


# A limit must be written down: leaving one out is an error, "unlimited" is a decision.
Limit = Annotated[int | None, Field(gt=0), BeforeValidator(_limit)]
Usd = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class Model(BaseModel):
    """Frozen, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Budget(Model):
    """Dollars per calendar period in UTC (weeks begin on Monday)."""

    usd: Annotated[Usd, Field(le=MAX_BUDGET_USD)]
    period: Period = "month"


class WhenDown(Model):
    """What a tier gets while the shared store is unreachable; identity, entitlement and isolation always refuse."""

    limits: Literal["closed", "degraded"] = "closed"
    budget: Literal["closed", "degraded"] = "closed"


class BackendUrls(Model):
    """Backends of a tier's or tenant's own: a physical silo."""

    admission: str | None = None
    history: str | None = None
    cache: str | None = None
    vectors: str | None = None


class Tier(Model):
    """The terms of a group of tenants; a tenant's own entry may replace any of them."""

    rpm: Limit
    tpm: Limit
    burst: Annotated[float, Field(gt=0, le=1)] = 0.1
    max_concurrency: Limit
    budget: Annotated[Budget | None, BeforeValidator(_budget)]
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    models: tuple[str, ...]
    max_output_tokens: Annotated[int, Field(gt=0)]
    min_output_tokens: Annotated[int, Field(gt=0)] = 16
    queue_timeout: Annotated[float, BeforeValidator(seconds_of), Field(ge=0, allow_inf_nan=False)] = 0.0
    estimate: Literal["strict", "adaptive"] = "strict"
    isolation: Isolation = "namespace"
    guard: GuardMode = "flag"
    cache: bool = True
    when_down: WhenDown = WhenDown()
    backends: BackendUrls = BackendUrls()

    @model_validator(mode="after")
    def _caps_are_ordered(self) -> Tier:
        if self.min_output_tokens > self.max_output_tokens:
            raise ValueError("min_output_tokens is larger than max_output_tokens")
        return self


class TenantRule(BaseModel):
    """One listed tenant: its tier, the models that are its alone, and any of the tier's terms it has otherwise.

    `names` are what people call it; the guard compares a prompt that names a tenant with the caller.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    tier: str
    owns: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class PriceRule(Model):
    """A price that wins over the price map: USD per million tokens, and per call. `free` says that 0 is meant, `like`
    names the model of the map whose price counts instead, with its tiers, media and ways of serving.
    """

    input_usd_per_million: Usd = Decimal(0)
    output_usd_per_million: Usd = Decimal(0)
    cached_input_usd_per_million: Usd | None = None
    cache_write_usd_per_million: Usd | None = None
    cache_write_1h_usd_per_million: Usd | None = None
    per_call_usd: Usd = Decimal(0)
    free: bool = False
    like: str | None = None
    as_of: dt.date | None = None

    @model_validator(mode="after")
    def _one_price(self) -> PriceRule:
        if self.like is not None and self.model_fields_set != {"like"}:
            raise ValueError("like: it names a model of the price map, which leaves nothing else to say")
        return self


class Entitlement(NamedTuple):
    """Whether a tenant may call a model, and the rule that says so."""

    allowed: bool
    rule: str


class Explained(NamedTuple):
    """One resolved value and the rule that decided it."""

    name: str
    value: str
    rule: str


_passage: ContextVar[str | None] = ContextVar("tenant_middleware_passage", default=None)


@contextmanager
def passage(tenant: Tenant) -> Iterator[None]:
    """Let an export or erasure reach the stores of a suspended tenant; for this context alone."""
    token = _passage.set(tenant.id)
    try:
        yield
    finally:
        _passage.reset(token)


@dataclass(slots=True)
class _Standing:
    """What changes while the process runs: tenants of audits by tier, and tenants that nothing is served to.

    Not a private attribute of the model: pydantic looks those up in Python, and they are read twice a call.
    """

    guests: dict[str, str] = field(default_factory=dict)
    barred: frozenset[str] = frozenset()


class Policy(Model):
    """Tiers, tenants and prices; every question about what a tenant may do is answered here."""

    tiers: dict[str, Tier]
    tenants: dict[str, TenantRule] = {}
    prices: dict[str, PriceRule] = {}
    unlisted_tenants: bool = False

    @model_validator(mode="after")
    def _resolve(self) -> Policy:
        for name in self.tiers:
            check_name(name, "tier name")
        for tenant_id, rule in self.tenants.items():
            check_name(tenant_id, "tenants: tenant id")
            if rule.tier not in self.tiers:
                raise ValueError(f"tenants.{tenant_id}.tier: no [tiers.*] section of that name")
        _ = self._terms  # a tenant's own terms are checked now, not at its first call
        for model in self.prices:
            if "*" in model:
                raise ValueError(f"prices.{model}: a price is one model's; patterns are for `models` and `owns`")
        clash = first_clash([(p, t) for t, rule in self.tenants.items() for p in rule.owns])
        if clash is not None:
            raise ValueError(
                f"tenants: the `owns` patterns {clash[0]!r} and {clash[1]!r} overlap, so two tenants own one model"
            )
        return self

    @cached_property
    def _standing(self) -> _Standing:
        return _Standing()

    @cached_property
    def _terms(self) -> dict[str, Tier]:
        return {tenant_id: self._merge(tenant_id, rule) for tenant_id, rule in self.tenants.items()}

    def _merge(self, tenant_id: str, rule: TenantRule) -> Tier:
        tier = self.tiers[rule.tier]
        if not rule.overrides:
            return tier
        merged = {name: getattr(tier, name) for name in Tier.model_fields} | rule.overrides
        try:
            return Tier.model_validate(merged)
        except ValidationError as error:
            raise ValueError(f"tenants.{tenant_id}.{next(complaints(error, Tier))}") from None

    def admit(self, tenant_id: str, tier_claim: str | None, subject: str | None = None) -> Tenant:
        """The Tenant behind verified claims; AuthenticationError when no rule admits it or the tier contradicts."""
        self.refuse_barred(tenant_id)
        rule = self.tenants.get(tenant_id)
        if rule is not None:
            tier = rule.tier
            if tier_claim is not None and tier_claim != tier:
                raise AuthenticationError("the token's tier contradicts the policy's for this tenant", rule="tier")
        elif not self.unlisted_tenants:
            raise AuthenticationError("no rule of the policy admits this tenant", rule="tenant_not_admitted")
        elif tier_claim is None or tier_claim not in self.tiers:
            raise AuthenticationError("an unlisted tenant needs a tier claim that the policy knows", rule="tier")
        else:
            tier = tier_claim
        try:
            return Tenant(tenant_id, tier, subject)
        except InvalidTenant as error:
            raise AuthenticationError(str(error), rule="tenant_id") from None

    def invite(self, guest: Tenant) -> None:
        """Give the terms of its tier to a tenant that an audit made up, in this process; no token can name it.

        Raises AuthenticationError for a listed tenant or an unknown tier.
        """
        if guest.id in self.tenants or guest.tier not in self.tiers:
            raise AuthenticationError("a guest has an id that nobody has and a tier of this policy", rule="tier")
        self._standing.guests[guest.id] = guest.tier

    def dismiss(self, guest: Tenant) -> None:
        """Take an invitation back."""
        self._standing.guests.pop(guest.id, None)

    def bar(self, tenant_ids: frozenset[str]) -> None:
        """Have these tenants refused, and no others: by identity, gate and backends, which all ask here."""
        self._standing.barred = tenant_ids

    def is_barred(self, tenant_id: str) -> bool:
        """Whether nothing is served to a tenant, whoever passes."""
        return tenant_id in self._standing.barred

    def refuse_barred(self, tenant_id: str) -> None:
        """Raise TenantSuspended for a tenant that is barred, outside its `passage`."""
        if tenant_id in self._standing.barred and _passage.get() != tenant_id:
            raise TenantSuspended("this tenant is suspended: nothing of it is served", rule="suspended")

    def _lets_in(self, tenant: Tenant) -> bool:
        return (self.unlisted_tenants and tenant.tier in self.tiers) or self._standing.guests.get(
            tenant.id
        ) == tenant.tier

    def for_tenant(self, tenant: Tenant) -> Tier:
        """The terms in force for a tenant: its tier's, with what its own entry replaces."""
        if tenant.id in self._standing.barred:
            self.refuse_barred(tenant.id)
        rule = self.tenants.get(tenant.id)
        if rule is None:
            if self._lets_in(tenant):
                return self.tiers[tenant.tier]
            raise AuthenticationError("no rule of the policy admits this tenant", rule="tenant_not_admitted")
        if rule.tier != tenant.tier:
            raise AuthenticationError("the tenant's tier contradicts the policy", rule="tier")
        return self._terms[tenant.id]

    def admits(self, tenant: Tenant) -> bool:
        """Whether `for_tenant` has terms for it."""
        rule = self.tenants.get(tenant.id)
        if rule is None:
            return self._lets_in(tenant)
        return rule.tier == tenant.tier

    def terms_of(self, tenant_id: str) -> Tier:
        """The resolved terms of a listed tenant."""
        return self._terms[tenant_id]

    def entitlement(self, tenant: Tenant, model: str) -> Entitlement:
        """May this tenant call this model? An owner's pattern wins over every other; a foreign one looks unknown."""
        terms = self.for_tenant(tenant)
        owner = self._owner_of(model)
        if owner is not None:
            return Entitlement(owner == tenant.id, f"tenants.{owner}.owns" if owner == tenant.id else "models")
        if any(matches(pattern, model) for pattern in terms.models):
            own = "models" in self.tenants[tenant.id].overrides if tenant.id in self.tenants else False
            return Entitlement(True, f"tenants.{tenant.id}.models" if own else f"tiers.{tenant.tier}.models")
        return Entitlement(False, "models")

    def is_foreign(self, tenant: Tenant, model: str) -> bool:
        """Whether a model belongs to somebody else: what a provider says it answered with is checked by this."""
        return self._owner_of(model) not in (None, tenant.id)

    def _owner_of(self, model: str) -> str | None:
        for pattern, owner in self._owned:
            if matches(pattern, model):
                return owner
        return None

    @cached_property
    def _owned(self) -> tuple[tuple[str, str], ...]:
        return tuple((pattern, tenant_id) for tenant_id, rule in self.tenants.items() for pattern in rule.owns)

    def explain(self, tenant: Tenant) -> list[Explained]:
        """Every resolved value for a tenant and the rule that decided it."""
        terms, rule = self.for_tenant(tenant), self.tenants.get(tenant.id)
        listed = f"tenants.{tenant.id}"
        rows = [
            Explained("tenant", tenant.id, listed if rule else "policy.unlisted_tenants"),
            Explained("tier", tenant.tier, f"{listed}.tier" if rule else "the token's tier claim"),
        ]
        for name in Tier.model_fields:
            if name == "backends":
                continue
            if rule is not None and name in rule.overrides:
                decided = f"{listed}.{name}"
            elif name in self.tiers[tenant.tier].model_fields_set:
                decided = f"tiers.{tenant.tier}.{name}"
            else:
                decided = "default"
            rows.append(Explained(name, _shown(getattr(terms, name)), decided))
        if rule is not None and rule.owns:
            rows.append(Explained("owns", ", ".join(rule.owns), f"{listed}.owns"))
        return rows


def _shown(value: object) -> str:
    if value is None:
        return "unlimited"
    if isinstance(value, Budget):
        return f"{value.usd} USD per {value.period}"
    if isinstance(value, WhenDown):
        return f"limits {value.limits}, budget {value.budget}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)
