"""The deployments that are audited: everything in memory, on a real Redis, and on Redis with Pinecone's test server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.backends.redis.wire import REGISTRY
from tenant_middleware.identity.forgery import Forgery
from tenant_middleware.identity.settings import IdentitySettings
from tenant_middleware.keys import encode
from tenant_middleware.local import local_redis
from tenant_middleware.tenancy import Tenancy
from tests.pinecone_server.app import PineconeServer

DIMENSION = 8
_KEY = "0123456789abcdef0123456789abcdef"
_ISSUER: dict[str, Any] = {"issuer": "https://id.example.test/", "audience": "genai", "algorithms": ["EdDSA"]}


def policy(isolation: str = "namespace", **backends: str) -> dict[str, Any]:
    """Two tenants in one tier, one of which owns a model; tokens of an issuer whose key nobody here has."""
    twin = Forgery.of(IdentitySettings(**_ISSUER, jwks={"keys": []})).twin._settings.jwks
    return {
        "identity": {**_ISSUER, "jwks": json.loads(json.dumps(twin))},
        "backends": backends,
        "secrets": {"fingerprint_key": _KEY},
        "tiers": {
            "pro": {
                "rpm": 100_000,
                "tpm": "unlimited",
                "max_concurrency": "unlimited",
                "budget": {"usd": "1000", "period": "month"},
                "models": ["openai/local"],
                "max_output_tokens": 64,
                "isolation": isolation,
            }
        },
        "tenants": {"acme": {"tier": "pro", "owns": ["ft:base:acme:*"]}, "globex": {"tier": "pro"}},
        "prices": {"openai/local": {"per_call_usd": "0.001"}},
    }


@contextmanager
def in_memory(folder: Path, isolation: str = "namespace") -> Iterator[Tenancy]:
    with Tenancy.from_mapping(policy(isolation)) as tenancy:
        yield tenancy


@contextmanager
def on_redis(folder: Path, isolation: str = "namespace") -> Iterator[Tenancy]:
    with local_redis() as url, over_redis(url, folder, isolation) as tenancy:
        yield tenancy


@contextmanager
def over_redis(url: str, folder: Path, isolation: str = "namespace") -> Iterator[Tenancy]:
    """All backends on one Redis."""
    backends = dict.fromkeys(("admission", "history", "cache", "vectors"), url)
    values = policy(isolation, **backends, ledger=f"sqlite:///{folder}/ledger.db")
    with Tenancy.from_mapping(values) as tenancy:
        yield tenancy


@contextmanager
def on_pinecone(folder: Path, isolation: str = "namespace") -> Iterator[Tenancy]:
    """Redis for the rest, and Pinecone's test server for documents."""
    with PineconeServer() as server, on_redis(folder, isolation) as tenancy:
        server.create_index("docs", DIMENSION)
        vectors = PineconeVectors(
            "docs", api_key="key", controller=server.url, isolation=lambda t: tenancy.policy.for_tenant(t).isolation
        )
        tenancy.__dict__["vectors"] = vectors  # a pinecone:// URL has no place for another controller
        try:
            yield tenancy
        finally:
            vectors.close()


def traces(client: Redis) -> set[bytes]:
    """Whatever in a Redis carries the name of an audit: keys, indexes, members of the registry of tenants."""
    # What every encoded id of an audit's tenants begins with: base32 writes five bits a letter.
    encoded = encode("tm-audit-")[: 9 * 8 // 5].encode()
    names = {*client.scan_iter(), *client.execute_command("FT._LIST"), *client.smembers(REGISTRY)}
    return {name for name in names if encoded in name or b"tm-audit-" in name}


DEPLOYMENTS: dict[str, Callable[[Path], AbstractContextManager[Tenancy]]] = {
    "memory": in_memory,
    "redis": on_redis,
    "pinecone": on_pinecone,
}
