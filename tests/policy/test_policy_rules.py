"""Who is admitted, with which terms, to which models; and what a wrong policy says at start-up."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tenant_middleware.errors import AuthenticationError
from tenant_middleware.patterns import matches, overlap
from tenant_middleware.policy import Policy
from tenant_middleware.tenant import Tenant

TIER: dict[str, Any] = {
    "rpm": 60,
    "tpm": 60_000,
    "max_concurrency": 4,
    "budget": {"usd": "5", "period": "day"},
    "models": ["gpt-*", "embed"],
    "max_output_tokens": 100,
}
TENANTS: dict[str, Any] = {
    "acme": {"tier": "gold", "owns": ["ft:acme:*", "gpt-acme"]},
    "Acme": {"tier": "free", "models": ["embed"], "rpm": 5},
}


def policy(**changes: Any) -> Policy:
    return Policy.model_validate({"tiers": {"gold": TIER, "free": TIER}, "tenants": TENANTS} | changes)


def test_the_policys_tier_wins_and_a_contradicting_token_is_refused() -> None:
    rules = policy()
    assert rules.admit("acme", None, "u") == rules.admit("acme", "gold", "u") == Tenant("acme", "gold", "u")
    with pytest.raises(AuthenticationError) as caught:
        rules.admit("acme", "free")
    assert caught.value.rule == "tier"


def test_unlisted_tenants_need_a_policy_that_admits_them_and_a_known_tier() -> None:
    with pytest.raises(AuthenticationError):
        policy().admit("initech", "free")
    open_policy = policy(unlisted_tenants=True)
    assert open_policy.admit("initech", "free").tier == "free"
    for tier in (None, "platinum"):
        with pytest.raises(AuthenticationError):
            open_policy.admit("initech", tier)


def test_a_tenant_object_that_contradicts_the_policy_gets_no_terms() -> None:
    for stranger in (Tenant("initech", "gold"), Tenant("acme", "free"), Tenant("ACME", "gold")):
        with pytest.raises(AuthenticationError):
            policy().for_tenant(stranger)


def test_names_that_differ_in_case_are_two_tenants() -> None:
    rules = policy()
    assert rules.for_tenant(Tenant("acme", "gold")).rpm == 60
    assert rules.for_tenant(Tenant("Acme", "free")).rpm == 5


@pytest.mark.parametrize(
    ("tenant", "model", "allowed", "rule"),
    [
        ("acme", "gpt-4", True, "tiers.gold.models"),
        ("acme", "ft:acme:1", True, "tenants.acme.owns"),
        ("Acme", "ft:acme:1", False, "models"),
        ("Acme", "gpt-acme", False, "models"),
        ("Acme", "gpt-4", False, "models"),
        ("Acme", "embed", True, "tenants.Acme.models"),
        ("acme", "claude", False, "models"),
        ("acme", "GPT-4", False, "models"),
    ],
)
def test_who_may_call_what(tenant: str, model: str, allowed: bool, rule: str) -> None:
    tier = TENANTS[tenant]["tier"]
    assert policy().entitlement(Tenant(tenant, tier), model) == (allowed, rule)


@pytest.mark.parametrize(
    ("owns", "others"), [("ft:*", "ft:b:*"), ("*:x", "ft:*"), ("a*b*", "*c"), ("same", "same"), ("m", "*")]
)
def test_two_tenants_cannot_own_one_model(owns: str, others: str) -> None:
    tenants = {"a": {"tier": "gold", "owns": [owns]}, "b": {"tier": "gold", "owns": [others]}}
    with pytest.raises(ValidationError, match="overlap"):
        policy(tenants=tenants)
    policy(tenants={"a": {"tier": "gold", "owns": [owns, others]}})


PATTERNS = st.text("ab*", max_size=4)
NAMES = ["".join(letters) for size in range(8) for letters in itertools.product("ab", repeat=size)]


@given(PATTERNS, PATTERNS)
def test_overlap_means_that_some_name_matches_both(a: str, b: str) -> None:
    assert overlap(a, b) == any(matches(a, name) and matches(b, name) for name in NAMES)


@pytest.mark.parametrize("field", ["rpm", "tpm", "max_concurrency", "budget", "models", "max_output_tokens"])
def test_a_limit_that_is_left_out_is_an_error_and_unlimited_is_a_decision(field: str) -> None:
    without = {name: value for name, value in TIER.items() if name != field}
    with pytest.raises(ValidationError, match=field):
        Policy.model_validate({"tiers": {"gold": without}})
    if field in ("rpm", "tpm", "max_concurrency", "budget"):
        assert (
            getattr(Policy.model_validate({"tiers": {"gold": without | {field: "unlimited"}}}).tiers["gold"], field)
            is None
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"rpmm": 5},
        {"rpm": 0},
        {"rpm": -1},
        {"burst": 0},
        {"burst": 1.5},
        {"weight": 0},
        {"weight": float("nan")},
        {"queue_timeout": -1},
        {"queue_timeout": float("inf")},
        {"budget": {"usd": "NaN"}},
        {"budget": {"usd": "-1"}},
        {"budget": {"usd": "1e9"}},
        {"budget": {"usd": "1", "period": "fortnight"}},
        {"isolation": "none"},
        {"guard": "on"},
        {"min_output_tokens": 1000},
        {"when_down": {"limits": "open"}},
        {"backends": {"vektors": "memory://"}},
    ],
    ids=str,
)
def test_wrong_values_are_refused_in_a_tier_and_in_a_tenants_own_terms(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"tiers": {"gold": TIER | wrong}})
    with pytest.raises(ValidationError, match=r"tenants\.acme\."):
        Policy.model_validate({"tiers": {"gold": TIER}, "tenants": {"acme": {"tier": "gold"} | wrong}})


def test_explain_names_the_rule_behind_every_value() -> None:
    rows = {row.name: (row.value, row.rule) for row in policy().explain(Tenant("Acme", "free"))}
    assert rows["rpm"] == ("5", "tenants.Acme.rpm")
    assert rows["tpm"] == ("60000", "tiers.free.tpm")
    assert rows["burst"] == ("0.1", "default")
    assert rows["budget"] == ("5 USD per day", "tiers.free.budget")
    assert rows["models"] == ("embed", "tenants.Acme.models")
