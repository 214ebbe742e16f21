"""Ways in with a token that nobody was given."""

from __future__ import annotations

from functools import partial

from tenant_middleware.assurance.probes.stage import Probe, Stage
from tenant_middleware.identity.forgery import KINDS, Forgery
from tenant_middleware.tenant import Tenant

_TRIES = {
    "none": "a token without a signature (alg none)",
    "expired": "a token that has expired",
    "forged": "a token signed with a key of the attacker's",
    "audience": "a token meant for another service",
    "confused": "a token signed with the public key as a secret",
}


def _victim(stage: Stage) -> Tenant:
    """Somebody the policy admits, so that only the token's flaw is in the way."""
    for name, rule in stage.tenancy.policy.tenants.items():
        return Tenant(name, rule.tier)
    return stage.owner


def _forgery(stage: Stage) -> Forgery:
    settings = stage.tenancy.settings.identity
    assert settings is not None, "asked for by `needs`"
    return Forgery.of(settings)


def let_in(kind: str, stage: Stage, who: Tenant) -> object:
    forgery = _forgery(stage)
    token = forgery.make(kind, _victim(stage))
    return stage.code if forgery.accepted(token, stage.tenancy.identity) else None


def _good(stage: Stage, who: Tenant) -> object:
    forgery, victim = _forgery(stage), _victim(stage)
    return stage.code if forgery.twin.verify(forgery.good(victim)).id == victim.id else None


def _unchecked(kind: str, stage: Stage, who: Tenant) -> object:
    forgery, victim = _forgery(stage), _victim(stage)
    return stage.code if forgery.read(forgery.make(kind, victim)) == victim.id else None


def _no_identity(stage: Stage) -> str | None:
    return "the policy has no [identity] section" if stage.tenancy.settings.identity is None else None


PROBES = tuple(
    Probe(
        f"tokens.{kind}",
        _TRIES[kind],
        partial(let_in, kind),
        own=_good,
        unguarded=partial(_unchecked, kind),
        needs=_no_identity,
    )
    for kind in KINDS
)
