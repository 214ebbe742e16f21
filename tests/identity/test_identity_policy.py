"""Identity with the real policy: listed tenants keep the policy's tier, others need a rule that admits them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tenant_middleware.errors import AuthenticationError, SettingsError
from tenant_middleware.identity import JwtIdentity
from tenant_middleware.settings import load


@pytest.fixture
def build(issuer: Any) -> Callable[..., JwtIdentity]:
    def make(unlisted: bool = False, **identity: Any) -> JwtIdentity:
        terms: dict[str, Any] = {"rpm": 30, "tpm": 20_000, "models": ["m"], "max_output_tokens": 64}
        terms |= {"max_concurrency": 2, "budget": {"usd": "1", "period": "month"}, "weight": 1}
        values: dict[str, Any] = {
            "identity": {
                "issuer": "https://id.example.test/",
                "audience": "genai-platform",
                "algorithms": ["EdDSA"],
                "jwks": issuer.jwks("k1"),
                **identity,
            },
            "policy": {"unlisted_tenants": unlisted},
            "tiers": {"free": terms, "enterprise": terms},
            "tenants": {"acme": {"tier": "enterprise"}, "Acme": {"tier": "free"}},
        }
        settings, policy = load(None, overrides=values, environ={})
        assert settings.identity is not None
        return JwtIdentity(settings.identity, policy.admit)

    return make


@pytest.mark.parametrize(
    ("unlisted", "tenant", "tier", "admitted"),
    [
        (False, "acme", "enterprise", "enterprise"),
        (False, "acme", None, "enterprise"),
        (False, "Acme", None, "free"),
        (False, "acme", "free", None),
        (False, "Acme", "enterprise", None),
        (False, "ACME", "enterprise", None),
        (False, "acme2", "enterprise", None),
        (True, "acme2", "enterprise", "enterprise"),
        (True, "acme2", None, None),
        (True, "acme2", "gold", None),
        (True, "acme", "free", None),
    ],
)
def test_policy_decides(
    unlisted: bool,
    tenant: str,
    tier: str | None,
    admitted: str | None,
    issuer: Any,
    build: Callable[..., JwtIdentity],
    told: Callable[[BaseException], str],
) -> None:
    identity, token = build(unlisted), issuer.token(tenant, tier)
    if admitted is not None:
        got = identity.verify(token)
        assert (got.id, got.tier, got.subject) == (tenant, admitted, "user")
        return
    with pytest.raises(AuthenticationError) as caught:
        identity.verify(token)
    assert tenant not in told(caught.value) and "Acme" not in told(caught.value)


@pytest.mark.parametrize(
    ("identity", "reason"), [({"algorithms": ["none"]}, "never accepted"), ({"isuer": "x"}, "isuer")]
)
def test_settings_layer_names_the_key(identity: dict[str, Any], reason: str, build: Callable[..., JwtIdentity]) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        build(**identity)
    assert "identity" in str(caught.value)
