"""What [identity] of the policy file says: whose tokens are accepted, signed how, and which claims name the tenant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator, model_validator

from tenant_middleware.identity.jwks import ASYMMETRIC

SYMMETRIC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
PASSPORT_TYPE = "tenant-passport+jwt"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class IdentitySettings(BaseModel):
    """Issuer, audience and algorithms have no default, and exactly one source of keys must be named.

    `jwks_file` is read once, when the identity is built. A claim is named by its exact name or, when no claim has that
    name, by a dotted path; a name with `://` in it is never a path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: Text
    audience: Text | tuple[Text, ...]
    algorithms: tuple[str, ...] = Field(min_length=1)
    jwks_file: Path | None = None
    jwks: dict[str, Any] | None = None
    jwks_url: str | None = None
    secret: SecretStr | None = None
    tenant_claim: Text = "tenant_id"
    tier_claim: Text | None = "tier"
    subject_claim: Text | None = "sub"
    token_types: tuple[Text, ...] = ("JWT", "at+jwt")
    leeway: float = Field(default=0.0, ge=0, le=300, allow_inf_nan=False)
    max_token_bytes: int = Field(default=16 * 1024, ge=256, le=1024 * 1024)
    cache_size: int = Field(default=1024, ge=0, le=1_000_000)
    jwks_max_age: float = Field(default=600.0, ge=30, allow_inf_nan=False)
    jwks_refresh_every: float = Field(default=30.0, ge=30, allow_inf_nan=False)
    jwks_stale_for: float = Field(default=3600.0, ge=0, allow_inf_nan=False)
    jwks_timeout: float = Field(default=5.0, gt=0, le=30, allow_inf_nan=False)
    jwks_loopback_http: bool = False

    @property
    def audiences(self) -> tuple[str, ...]:
        """The accepted audiences; a token needs one of them."""
        return (self.audience,) if isinstance(self.audience, str) else self.audience

    @field_validator("algorithms")
    @classmethod
    def _known_algorithms(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name.lower() == "none":
                raise ValueError("'none' is never accepted: name the algorithm your identity provider signs with")
            if name not in ASYMMETRIC and name not in SYMMETRIC_BYTES:
                raise ValueError(f"expected names out of {', '.join((*ASYMMETRIC, *SYMMETRIC_BYTES))}")
        return names

    @field_validator("audience")
    @classmethod
    def _some_audience(cls, audience: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not audience:
            raise ValueError("expected at least one audience")
        return audience

    @field_validator("tenant_claim", "tier_claim", "subject_claim")
    @classmethod
    def _claim_name(cls, name: str | None) -> str | None:
        if name is not None and "://" not in name and not all(name.split(".")):
            raise ValueError("expected a claim's name, a dotted path without empty steps, or a URL")
        return name

    @field_validator("token_types")
    @classmethod
    def _no_passports(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if any(PASSPORT_TYPE in kind.lower() for kind in types):
            raise ValueError("a passport is never accepted where users come in: leave its type out")
        return types

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> IdentitySettings:
        named = [name for name in ("jwks_file", "jwks", "jwks_url", "secret") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"expected exactly one of jwks_file, jwks, jwks_url or secret, got {', '.join(named) or 'none of them'}"
            )
        symmetric = [name for name in self.algorithms if name in SYMMETRIC_BYTES]
        if symmetric and len(symmetric) != len(self.algorithms):
            raise ValueError("HS* can't stand beside asymmetric algorithms: a public key could pass for the secret")
        if bool(symmetric) != (self.secret is not None):
            raise ValueError("HS* needs `secret`, and `secret` is for HS* alone: public keys come from a JWKS")
        if self.secret is not None:
            _check_secret(self.secret, symmetric)
        if self.jwks_url is not None:
            check_url(self.jwks_url, loopback_http=self.jwks_loopback_http)
        if self.jwks_stale_for < self.jwks_max_age:
            raise ValueError("jwks_stale_for counts from the last good answer: expected at least jwks_max_age")
        return self


def _check_secret(secret: SecretStr, algorithms: list[str]) -> None:
    needed = max(SYMMETRIC_BYTES[name] for name in algorithms)
    came = len(secret.get_secret_value().encode("utf-8"))
    if came < needed:
        raise ValueError(f"secret: {', '.join(algorithms)} needs at least {needed} random bytes, got {came}")


def check_url(url: str, *, loopback_http: bool) -> None:
    """Raise ValueError unless keys may be fetched from there: https, or loopback http where the settings allow it."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.fragment or not parts.hostname:
        raise ValueError("jwks_url: expected https://host/path without credentials or fragment")
    if parts.scheme == "https":
        return
    if parts.scheme == "http" and loopback_http and parts.hostname in _LOOPBACK:
        return
    raise ValueError("jwks_url: expected https (http only to loopback, in tests, with jwks_loopback_http = true)")
