"""Verification keys: parsed once out of a JWKS document and chosen by exact key id, algorithm and key type."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jwt

from tenant_middleware.errors import AuthenticationError, SettingsError

# algorithm -> key type and the curves it may have; a key of another type or curve never verifies that algorithm
ASYMMETRIC: dict[str, tuple[str, frozenset[str]]] = {
    **{name: ("RSA", frozenset()) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")},
    "ES256": ("EC", frozenset({"P-256"})),
    "ES384": ("EC", frozenset({"P-384"})),
    "ES512": ("EC", frozenset({"P-521"})),
    "ES256K": ("EC", frozenset({"secp256k1"})),
    "EdDSA": ("OKP", frozenset({"Ed25519", "Ed448"})),
}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
MAX_KEYS = 256


class UnusableKeys(ValueError):
    """A document out of which no verification key can be taken; the message says why, for each key."""


class KeySource(Protocol):
    """Where the key for a token's header comes from; `version` changes when a decoded identity must be checked anew."""

    def version(self) -> str | None: ...
    def key(self, kid: str | None, algorithm: str) -> Any: ...
    async def akey(self, kid: str | None, algorithm: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key, prepared for each algorithm it may verify."""

    kid: str | None
    by_algorithm: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeySet:
    """The usable keys of one JWKS document."""

    keys: tuple[VerificationKey, ...]
    version: str

    def find(self, kid: str | None, algorithm: str) -> Any | None:
        """The one key that fits, or None for an unknown key id; anything ambiguous or of another type is refused."""
        named = self.keys if kid is None else tuple(key for key in self.keys if key.kid == kid)
        if not named:
            return None
        fitting = [key.by_algorithm[algorithm] for key in named if algorithm in key.by_algorithm]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise AuthenticationError("the token doesn't say which of several keys signed it (kid)", rule="key")
        raise AuthenticationError("the token's algorithm doesn't belong to its key", rule="algorithm")


def parse(document: object, algorithms: tuple[str, ...]) -> KeySet:
    """The public signature keys of a JWKS for these algorithms; private, symmetric, weak and foreign ones are left out.

    Raises UnusableKeys when none is left.
    """
    listed = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(listed, list):
        raise UnusableKeys('expected a JSON object with a list "keys"')
    if len(listed) > MAX_KEYS:
        raise UnusableKeys(f"expected at most {MAX_KEYS} keys, got {len(listed)}")
    keys: list[VerificationKey] = []
    reasons: list[str] = []
    for place, jwk in enumerate(listed):
        try:
            keys.append(_key(jwk, algorithms))
        except UnusableKeys as error:
            reasons.append(f"key {place}: {error}")
    if not keys:
        raise UnusableKeys("no usable key: " + ("; ".join(reasons[:8]) or "the list is empty"))
    return KeySet(tuple(keys), hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest())


def _key(jwk: object, algorithms: tuple[str, ...]) -> VerificationKey:
    if not isinstance(jwk, Mapping):
        raise UnusableKeys("not an object")
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise UnusableKeys("its kid is no string")
    _check_purpose(jwk)
    fitting = [name for name in algorithms if _fits(jwk, name)]
    if not fitting:
        raise UnusableKeys("its type, curve or alg belongs to none of the configured algorithms")
    return VerificationKey(kid, {name: _prepare(jwk, name) for name in fitting})


def _check_purpose(jwk: Mapping[str, Any]) -> None:
    if _PRIVATE & jwk.keys():
        raise UnusableKeys("it is private or symmetric: publish the public half only")
    if jwk.get("use", "sig") != "sig":
        raise UnusableKeys("it is not for signatures (use)")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKeys("it is not for verification (key_ops)")


def _fits(jwk: Mapping[str, Any], algorithm: str) -> bool:
    if algorithm not in ASYMMETRIC:
        return False
    kty, curves = ASYMMETRIC[algorithm]
    return (
        jwk.get("kty") == kty
        and jwk.get("alg", algorithm) == algorithm
        and (not curves or (isinstance(jwk.get("crv"), str) and jwk["crv"] in curves))
    )


def _prepare(jwk: Mapping[str, Any], algorithm: str) -> Any:
    try:
        made = jwt.PyJWK(dict(jwk), algorithm)
        weak = made.Algorithm.check_key_length(made.key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        raise UnusableKeys(f"it can't be read ({type(error).__name__})") from None
    if weak:
        raise UnusableKeys("it is shorter than its algorithm needs")
    return made.key


class FixedKeys:
    """The keys of a file or of the settings: unchanged until the process ends."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def version(self) -> str:
        return self._keys.version

    def key(self, kid: str | None, algorithm: str) -> Any:
        found = self._keys.find(kid, algorithm)
        if found is None:
            raise unknown_key()
        return found

    async def akey(self, kid: str | None, algorithm: str) -> Any:
        return self.key(kid, algorithm)


class SharedSecret:
    """One secret for HS* tokens; a key id in the token means nothing to it."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def version(self) -> str:
        return "secret"

    def key(self, kid: str | None, algorithm: str) -> Any:
        return self._secret

    async def akey(self, kid: str | None, algorithm: str) -> Any:
        return self._secret


def unknown_key() -> AuthenticationError:
    """The refusal for a key id that the key set doesn't hold."""
    return AuthenticationError("the token was signed with a key that the issuer's key set doesn't hold", rule="key")


def from_file(path: Path, algorithms: tuple[str, ...]) -> FixedKeys:
    """Keys of a JWKS file; SettingsError names the file and the reason."""
    try:
        document = json.loads(path.read_bytes())
        return FixedKeys(parse(document, algorithms))
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except UnusableKeys as error:
        reason = str(error)
    except (ValueError, RecursionError):
        reason = "not JSON"
    raise SettingsError(f"{path}: identity.jwks_file: {reason}")


def from_mapping(document: Mapping[str, Any], algorithms: tuple[str, ...]) -> FixedKeys:
    """Keys of a JWKS that stands in the settings themselves."""
    try:
        return FixedKeys(parse(document, algorithms))
    except UnusableKeys as error:
        reason = str(error)
    raise SettingsError(f"identity.jwks: {reason}")
