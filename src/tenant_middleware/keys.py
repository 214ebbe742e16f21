"""The one place where a key, namespace, tag, index name or cache scope is made from a tenant.

Every part is written in lower-case base32 (RedisVL tags ignore case, so `Acme` and `acme` must differ in more than
case). The alphabet has no separator in it, which makes joined parts injective; each name ends in a mark of its own, so
that no name is a prefix of another. `{...}` is Redis Cluster's hash tag: all keys of one tenant share a slot.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from functools import lru_cache

from tenant_middleware.errors import InvalidInput
from tenant_middleware.tenant import Tenant

PREFIX = "tm"
MIN_DIGEST_BITS = 128


def encode(text: str) -> str:
    """Lower-case base32 without padding: injective, safe in every alphabet we meet; refuses lone surrogates."""
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput("a key part must be valid Unicode, got a lone surrogate") from error
    return base64.b32encode(raw).decode("ascii").rstrip("=").lower()


def decode(name: str) -> str:
    """The inverse of `encode`; raises InvalidInput for a name that `encode` did not make."""
    try:
        text = base64.b32decode(name.upper() + "=" * (-len(name) % 8)).decode("utf-8")
    except ValueError as error:
        raise InvalidInput("not a name made by this encoder") from error
    if encode(text) != name:
        raise InvalidInput("not a name made by this encoder")
    return text


def key(tenant: Tenant, *parts: str) -> str:
    """A Redis key, `tm:{<tenant>}:<part>:<part>.`: no two (tenant, parts) share one, none is a prefix of another."""
    names = ":".join(map(encode, parts)) if parts else "-"  # no part at all is not one empty part
    return f"{key_prefix(tenant)}{names}."


def key_prefix(tenant: Tenant) -> str:
    """What every key of this tenant, and no key of another one, starts with; for scans and erasure."""
    return f"{PREFIX}:{{{encode(tenant.id)}}}:"


def pool_key(name: str) -> str:
    """What every key of a pool of slots begins with; its tag has a sign that no tenant's tag has."""
    return f"{PREFIX}:{{.{encode(name)}}}:"


def namespace(tenant: Tenant) -> str:
    """A partition name for services with namespaces: at most 210 ASCII characters, never blank or reserved."""
    return f"{PREFIX}.{encode(tenant.id)}."


@lru_cache(maxsize=8192)
def tag(tenant: Tenant) -> str:
    """A value for an exact tag or metadata filter: letters and digits only, so nothing in it needs escaping."""
    return encode(tenant.id)


def scoped_id(tenant: Tenant, record_id: str, *, limit: int = 512) -> str:
    """A record id inside an index that tenants share; past `limit` characters the record's part becomes a digest.

    A store that may see digests keeps the full id beside the record and verifies it.
    """
    plain = f"{tag(tenant)}.{encode(record_id)}"
    return plain if len(plain) <= limit else f"{tag(tenant)}.{digest(tenant, 'id', record_id)}-"


def digest(tenant: Tenant, *parts: str, bits: int = 160) -> str:
    """A name for alphabets or lengths that forbid an injective one (index names): SHA-256 cut to `bits`, base32.

    Collision resistant, not injective: whoever uses it stores the full id beside it and compares.
    """
    if not MIN_DIGEST_BITS <= bits <= 256 or bits % 8:
        raise InvalidInput(f"digest bits: expected a multiple of 8 from {MIN_DIGEST_BITS} to 256, got {bits}")
    whole = hashlib.sha256(key(tenant, *parts).encode("ascii")).digest()
    return base64.b32encode(whole[: bits // 8]).decode("ascii").rstrip("=").lower()


def fingerprint(secret: bytes, tenant: Tenant, text: str) -> str:
    """A keyed hash of content for logs, caches and ledgers: equal texts of two tenants give unrelated values."""
    return hmac.digest(_own_secret(secret, tenant), text.encode("utf-8", "surrogatepass"), "sha256").hex()


@lru_cache(maxsize=4096)
def _own_secret(secret: bytes, tenant: Tenant) -> bytes:
    return hmac.digest(secret, key(tenant, "fingerprint").encode("ascii"), "sha256")
