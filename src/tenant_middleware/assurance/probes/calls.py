"""Ways to another tenant's models and money, and to a context that isn't one's own."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator

from tenant_middleware.admission.call import Call
from tenant_middleware.admission.store import Ask, Granted, Limits, Settlement
from tenant_middleware.assurance.probes.stage import Probe, Stage
from tenant_middleware.context import current_tenant, peek_tenant, pin, scope
from tenant_middleware.errors import TenancyError, TenantMismatch
from tenant_middleware.guardrails.canary import CanaryGuard
from tenant_middleware.policy import Policy, TenantRule
from tenant_middleware.tenant import Tenant


def _owned_model(stage: Stage) -> str:
    return f"ft:audit:{stage.code.lower()}"


def _owning_policy(stage: Stage) -> Policy:
    """The live policy with one fine-tuned model more, which belongs to the audit's owner."""
    policy, owner = stage.tenancy.policy, stage.owner
    anything = {"tier": owner.tier, "models": ("*",)}
    rule = TenantRule.model_validate({**anything, "owns": (f"{_owned_model(stage)}*",)})
    other = TenantRule.model_validate(anything)
    tenants = {**policy.tenants, owner.id: rule, stage.other.id: other}
    return Policy(tiers=policy.tiers, tenants=tenants, prices=policy.prices, unlisted_tenants=policy.unlisted_tenants)


def foreign_adapter(stage: Stage, who: Tenant) -> object:
    """A fine-tuned model of another tenant, asked for by somebody whose own terms allow every model."""
    allowed = _owning_policy(stage).entitlement(stage.arriving(who), _owned_model(stage)).allowed
    return stage.code if allowed else None


def listed_adapters(stage: Stage, who: Tenant) -> object:
    """Every model that the live policy gives to one tenant alone, asked for at the live gate."""
    for rule in stage.tenancy.policy.tenants.values():
        for pattern in rule.owns:
            try:
                stage.tenancy.gate.check_entitled(Call(who, pattern.replace("*", "audit")))
            except TenancyError:
                continue
            return stage.code
    return None


def _owns_something(stage: Stage) -> str | None:
    owned = any(rule.owns for rule in stage.tenancy.policy.tenants.values())
    return None if owned else "no tenant of this policy owns a model"


def _listed_owner(stage: Stage, who: Tenant) -> object:
    policy = stage.tenancy.policy
    name, rule = next((name, rule) for name, rule in policy.tenants.items() if rule.owns)
    model = rule.owns[0].replace("*", "audit")
    return stage.code if policy.entitlement(Tenant(name, rule.tier), model).allowed else None


def charged_to_another(stage: Stage, who: Tenant) -> object:
    """A call entered for the owner from inside somebody else's scope."""
    call = Call(stage.owner, _priced_model(stage) or "audit")
    with scope(stage.arriving(who)):
        try:
            with stage.tenancy.gate.call(call):
                raise _Stopped
        except _Stopped:
            return stage.code
        except TenantMismatch:
            return None


def _priced_model(stage: Stage) -> str | None:
    """A model that the owner may call and whose price is known, so that the gate has no other reason to refuse."""
    policy = stage.tenancy.policy
    return next((model for model in policy.prices if policy.entitlement(stage.owner, model).allowed), None)


def _no_priced_model(stage: Stage) -> str | None:
    return "the policy prices no model that the audited tier may call" if _priced_model(stage) is None else None


class _Stopped(Exception):
    """Ends an admitted call before anything is spent: the gate gives the reservation back."""


def released_by_another(stage: Stage, who: Tenant) -> object:
    """The owner's open reservation, ended by somebody who knows its id."""
    limits = Limits.of(stage.tenancy.policy.for_tenant(stage.owner))
    call, store = Call(stage.owner, "audit"), stage.tenancy.gate.store_for(stage.owner)
    granted = store.reserve(Ask(stage.owner, call.id, limits, 1, 1, 1, 0, 0, 30.0, call.id))
    if not isinstance(granted, Granted):
        return None
    try:
        before = store.balance(stage.owner, limits).in_flight
        store.release(stage.arriving(who), call.id, limits)
        store.settle(Settlement(stage.arriving(who), call.id, limits, 0, 0, None))
        return stage.code if store.balance(stage.owner, limits).in_flight < before else None
    finally:
        store.release(stage.owner, call.id, limits)


def stream_elsewhere(stage: Stage, who: Tenant) -> object:
    """A stream that the owner began, read on in somebody else's scope; it tells whose it is at each step."""

    def steps() -> Iterator[str]:
        while True:
            yield stage.code if current_tenant().id == stage.arriving(who).id else "still the owner's"

    with scope(stage.owner):
        stream = pin(steps())
        next(stream)
    with scope(who):
        return next(stream)


def _stream_of_ones_own(stage: Stage, who: Tenant) -> object:
    with scope(who):
        return stage.code if next(pin(iter([current_tenant().id]))) == who.id else None


def _stream_unpinned(stage: Stage, who: Tenant) -> object:
    def steps() -> Iterator[str]:
        while True:
            yield stage.code if current_tenant().id == who.id else "still the owner's"

    stream = steps()
    with scope(stage.owner):
        next(stream)
    with scope(who):
        return next(stream)


def raw_thread(stage: Stage, who: Tenant) -> object:
    """A thread that nobody bound must see no tenant at all."""
    return _seen_in_thread(stage, who, lambda seen: seen.append(peek_tenant()))


def _bound_thread(stage: Stage, who: Tenant) -> object:
    with scope(who):
        context = contextvars.copy_context()
    return _seen_in_thread(stage, who, lambda seen: seen.append(context.run(peek_tenant)))


def _seen_in_thread(stage: Stage, who: Tenant, look: object) -> object:
    seen: list[Tenant | None] = []
    with scope(who):
        thread = threading.Thread(target=look, args=(seen,))  # type: ignore[arg-type]  # one of the two above
        thread.start()
        thread.join()
    return stage.code if seen != [None] else None


def canary_in_output(stage: Stage, who: Tenant) -> object:
    """An answer that holds the owner's canary, judged for somebody else: a leak itself would raise alarms."""
    guard = CanaryGuard(stage.dice.randbytes(32), random=stage.dice.randbytes)
    answer = guard.plant(stage.canary.text, stage.owner)
    return None if guard.scan(answer, stage.arriving(who)).blocked else answer


PROBES = (
    Probe("models.adapter", "another tenant's fine-tuned model", foreign_adapter),
    Probe(
        "models.listed",
        "every model that this policy gives to one tenant alone",
        listed_adapters,
        own=_listed_owner,
        unguarded=_listed_owner,
        needs=_owns_something,
    ),
    Probe("budget.charge", "a call booked on another tenant", charged_to_another, needs=_no_priced_model),
    Probe("budget.release", "ending another tenant's reservation by its id", released_by_another),
    Probe(
        "context.stream",
        "a stream resumed in another tenant's scope",
        stream_elsewhere,
        own=_stream_of_ones_own,
        unguarded=_stream_unpinned,
    ),
    Probe("context.thread", "a raw thread beside a scope", raw_thread, own=_bound_thread, unguarded=_bound_thread),
    Probe("guard.canary", "an answer with another tenant's canary in it", canary_in_output),
)
