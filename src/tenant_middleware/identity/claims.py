"""What a token says, read strictly: headers before the signature is checked, times and names after."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from tenant_middleware.errors import AuthenticationError, InvalidTenant
from tenant_middleware.tenant import check_name, check_subject

_EXPIRED = "the token has expired: get a new one"
_EARLY = "the token is not valid yet: check the clocks, or set identity.leeway"

# first match wins, so subclasses come before their bases
_REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (jwt.ExpiredSignatureError, "expired", _EXPIRED),
    (jwt.ImmatureSignatureError, "not_yet_valid", _EARLY),
    (jwt.InvalidAudienceError, "audience", "the token is meant for another audience"),
    (jwt.InvalidIssuerError, "issuer", "the token comes from another issuer"),
    (jwt.exceptions.InvalidSubjectError, "subject", "the token's sub claim must be a string"),
    (jwt.InvalidSignatureError, "signature", "the token's signature is wrong"),
    (jwt.InvalidAlgorithmError, "algorithm", "the token is signed with an algorithm that isn't accepted"),
    (jwt.InvalidKeyError, "key", "the token can't be checked with the key it names"),
    (jwt.InvalidIssuedAtError, "malformed", "the token's iat claim must be a number"),
    (jwt.exceptions.InvalidJTIError, "malformed", "the token's jti claim must be a string"),
    (jwt.DecodeError, "malformed", "this is no well-formed token"),
)
# what PyJWT and json let through for hostile input, beside PyJWT's own errors
MALFORMED = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Claimed:
    """Who a verified token claims to be, and from when to when it may say so."""

    tenant_id: str
    tier: str | None
    subject: str | None
    expires: float
    not_before: float | None


@dataclass(frozen=True, slots=True)
class Header:
    """The only parts of an unverified header that are looked at; jku, x5u, jwk and the like are never read."""

    algorithm: str
    kid: str | None
    kind: str | None


def refusal_for(error: Exception) -> AuthenticationError:
    """Why a token was refused, in our words: the library's own messages can quote the token."""
    if isinstance(error, jwt.MissingRequiredClaimError):
        return AuthenticationError(f"the token lacks the claim {error.claim}", rule="claim")
    for kind, rule, message in _REASONS:
        if isinstance(error, kind):
            return AuthenticationError(message, rule=rule)
    return AuthenticationError("this is no well-formed token", rule="malformed")


def encode_token(token: object, max_bytes: int) -> bytes:
    """The token's bytes after the checks that cost nothing: a string, not empty, not too long, ASCII."""
    if not isinstance(token, str):
        raise AuthenticationError(f"expected the token as a string, got {type(token).__name__}", rule="malformed")
    if not token or token.isspace():
        raise AuthenticationError("no token: an empty identity is nobody", rule="missing")
    if len(token) > max_bytes:
        raise AuthenticationError(f"the token is longer than {max_bytes} bytes", rule="size")
    if not token.isascii():
        raise AuthenticationError("this is no well-formed token", rule="malformed")
    return token.encode("ascii")


def read_header(raw: bytes) -> Header:
    """The unverified header, as far as it decides how to verify; critical extensions are refused, we know none."""
    try:
        header = jwt.get_unverified_header(raw)
    except MALFORMED as error:
        refusal = refusal_for(error)
    else:
        return _checked_header(header)
    raise refusal  # outside the handler: the library's error, which may hold the token, is not chained


def _checked_header(header: Mapping[str, Any]) -> Header:
    if "crit" in header or "b64" in header:
        raise AuthenticationError("the token asks for extensions that aren't supported (crit, b64)", rule="malformed")
    algorithm, kind = header.get("alg"), header.get("typ")
    if not isinstance(algorithm, str):
        raise AuthenticationError("the token names no algorithm", rule="algorithm")
    if kind is not None and not isinstance(kind, str):
        raise AuthenticationError("the token's type (typ) must be a string", rule="type")
    return Header(algorithm, header.get("kid"), kind)


def type_name(kind: str) -> str:
    """A media type as `typ` writes it: without case and without `application/`."""
    return kind.lower().removeprefix("application/")


def times(claims: Mapping[str, Any]) -> tuple[float, float | None]:
    """`exp`, and the later of `nbf` and `iat`, each a number where present."""
    expires = _seconds(claims, "exp")
    if expires is None:
        raise AuthenticationError("the token lacks the claim exp", rule="claim")
    starts = [at for at in (_seconds(claims, "nbf"), _seconds(claims, "iat")) if at is not None]
    return expires, max(starts) if starts else None


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AuthenticationError(f"the token's {name} claim must be a number", rule="malformed")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise AuthenticationError(f"the token's {name} claim must be a finite number", rule="malformed")
    return seconds


def check_times(expires: float, not_before: float | None, now: float, leeway: float) -> None:
    """Refuse outside [not_before - leeway, expires + leeway)."""
    if now >= expires + leeway:
        raise AuthenticationError(_EXPIRED, rule="expired")
    if not_before is not None and now < not_before - leeway:
        raise AuthenticationError(_EARLY, rule="not_yet_valid")


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of that exact name, else the one at that dotted path; None where there is neither."""
    if name in claims:
        return claims[name]
    if "://" in name:
        return None
    found: Any = claims
    for step in name.split("."):
        if not isinstance(found, Mapping) or step not in found:
            return None
        found = found[step]
    return found


def text_claim(claims: Mapping[str, Any], name: str, what: str) -> str | None:
    """A claim that is one string or absent; lists are refused, since picking one of several would be a guess."""
    value = claim(claims, name)
    if value is not None and not isinstance(value, str):
        raise AuthenticationError(
            f"the token's {what} claim ({name}) must be one string, got {type(value).__name__}", rule=what
        )
    return value


def checked(tenant_id: str | None, tier: str | None, subject: str | None) -> tuple[str, str | None, str | None]:
    """The three names when each follows its grammar; a refusal that tells the grammar, and not the value, otherwise."""
    if tenant_id is None:
        raise AuthenticationError("the token lacks the tenant claim", rule="tenant")
    for value, what in ((tenant_id, "tenant id"), (tier, "tier")):
        if value is not None:
            _grammar(check_name, value, what)
    if subject is not None:
        _grammar(check_subject, subject)
    return tenant_id, tier, subject


def _grammar(check: Any, *values: str) -> None:
    try:
        check(*values)
    except InvalidTenant as error:
        refusal = AuthenticationError(f"the token names what can't be one: {error}", rule="tenant")
    else:
        return
    raise refusal
