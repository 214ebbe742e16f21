"""The deployments that are audited: everything in memory, on a real Redis, and on Redis with Pinecone's test server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.identity.forgery import Forgery
from tenant_middleware.identity.settings import IdentitySettings
from tenant_middleware.keys import encode
from tenant_middleware.local import local_redis
from tenant_middleware.tenancy import Tenancy
from tests.pinecone_server.app import PineconeServer

DIMENSION = 8
_KEY = "0123456789abcdef0123456789abcdef"
_ISSUER: dict[str, Any] = {"issuer": "https://id.example.test/", "audience": "genai", "algorithms": ["EdDSA"]}
ISSUER = Forgery.of(IdentitySettings(**_ISSUER, jwks={"keys": []}))
"""Whose tokens the policy accepts: `ISSUER.good(tenant)`."""


def policy(isolation: str = "namespace", **backends: str) -> dict[str, Any]:
    """Two tenants in one tier, one of which owns a model."""
    return {
        "identity": {**_ISSUER, "jwks": json.loads(json.dumps(ISSUER.twin._settings.jwks))},
        "backends": backends,
        "admission": {"store_timeout": "10s"},  # a busy machine is no outage
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
def over_redis(url: str, folder: Path, isolation: str = "namespace", **more: Any) -> Iterator[Tenancy]:
    """All backends on one Redis; `more` are sections of the policy."""
    backends = dict.fromkeys(("admission", "history", "cache", "vectors"), url)
    values = policy(isolation, **backends, ledger=f"sqlite:///{folder}/ledger.db")
    with Tenancy.from_mapping({**values, **more}) as tenancy:
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


def traces(client: Redis, tenant_id: str = "tm-audit-") -> set[bytes]:
    """Keys and indexes of a Redis whose name or content has a tenant's id in it, plain or encoded."""
    # Base32 writes five bits a letter: what the encoding of every id that begins so begins with.
    encoded = encode(tenant_id)[: len(tenant_id) * 8 // 5]
    named = re.compile(rf"(?<![a-z0-9])(?:{re.escape(tenant_id)}|{encoded})".encode())
    indexes = {name for name in client.execute_command("FT._LIST") if named.search(name)}
    return indexes | {key for key in client.scan_iter() if any(map(named.search, _contents(client, key)))}


def _contents(client: Any, key: bytes) -> Iterator[bytes]:
    """A key's name, and what lies under it."""
    yield key
    kind = client.type(key)
    if kind == b"hash":
        yield from (part for pair in client.hgetall(key).items() for part in pair)
    elif kind == b"stream":
        yield from (part for _, fields in client.xrange(key) for pair in fields.items() for part in pair)
    elif kind == b"string":
        yield client.get(key) or b""
    elif kind != b"none":  # which expired since
        ranges = {
            b"set": client.smembers,
            b"zset": lambda k: client.zrange(k, 0, -1),
            b"list": lambda k: client.lrange(k, 0, -1),
        }
        yield from ranges[kind](key)


DEPLOYMENTS: dict[str, Callable[[Path], AbstractContextManager[Tenancy]]] = {
    "memory": in_memory,
    "redis": on_redis,
    "pinecone": on_pinecone,
}
