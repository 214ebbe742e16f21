"""TenantKeyValueStore: LangChain's own suite once per tenant over one store, and what a hostile key reaches."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.stores import BaseStore, InMemoryByteStore
from langchain_tests.integration_tests import BaseStoreAsyncTests, BaseStoreSyncTests
from redis import Redis

from tenant_middleware.context import scope
from tenant_middleware.errors import ConfigurationError, IsolationBreach, MissingTenant, TenantMismatch
from tenant_middleware.langchain import TenantKeyValueStore
from tenant_middleware.tenant import Tenant

TENANTS = [Tenant("Acme", "free", "u"), Tenant("acme", "free", "u"), Tenant("acme2", "free", "u")]
NEIGHBOUR = Tenant("acme3", "free", "u")


class RedisBytes(BaseStore[str, bytes]):
    """A plain store on Redis, with nothing of tenants in it."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        found: Any = self._client.mget(keys) if keys else []
        return list(found)

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        for key, value in key_value_pairs:
            self._client.set(key, value)

    def mdelete(self, keys: Sequence[str]) -> None:
        if keys:
            self._client.delete(*keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        for name in self._client.scan_iter(f"{prefix or ''}*"):
            yield name.decode()


class Files(BaseStore[str, bytes]):
    """As LangChain's LocalFileStore: a key is a path below one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._path(key).read_bytes() if self._path(key).exists() else None for key in keys]

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        for key, value in key_value_pairs:
            self._path(key).write_bytes(value)

    def mdelete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        yield from (path.name for path in self._root.iterdir() if path.name.startswith(prefix or ""))

    def _path(self, key: str) -> Path:
        return (self._root / key).resolve()


@pytest.fixture(params=["memory", "redis", "files"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseStore[str, bytes]]:
    """One store for all tenants; a neighbour's keys of the same names are in it already."""
    if request.param == "redis":
        with Redis.from_url(request.getfixturevalue("redis_url")) as client:
            yield _with_a_neighbour(RedisBytes(client))
    else:
        yield _with_a_neighbour(InMemoryByteStore() if request.param == "memory" else Files(tmp_path))


def _with_a_neighbour(inner: BaseStore[str, bytes]) -> BaseStore[str, bytes]:
    with scope(NEIGHBOUR):
        TenantKeyValueStore(inner).mset([(key, b"of the neighbour") for key in ("foo", "bar", "buz", "buzz")])
    return inner


class TestSuiteOfLangChain(BaseStoreSyncTests[bytes]):
    @pytest.fixture(params=TENANTS, ids=str)
    def kv_store(self, request: pytest.FixtureRequest, inner: BaseStore[str, bytes]) -> Iterator[BaseStore[str, bytes]]:
        with scope(request.param):
            yield TenantKeyValueStore(inner)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"one", b"two", b"three"


class TestAsyncSuiteOfLangChain(BaseStoreAsyncTests[bytes]):
    @pytest.fixture(params=TENANTS, ids=str)
    async def kv_store(
        self, request: pytest.FixtureRequest, inner: BaseStore[str, bytes]
    ) -> AsyncIterator[BaseStore[str, bytes]]:
        yield _Scoped(TenantKeyValueStore(inner), request.param)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"one", b"two", b"three"


class _Scoped(BaseStore[str, bytes]):
    """Opens the scope in each call: pytest-asyncio's fixtures and tests don't share a context."""

    def __init__(self, inner: TenantKeyValueStore[bytes], tenant: Tenant) -> None:
        self._inner, self._tenant = inner, tenant

    def _called(self, name: str, *args: Any, **kwargs: Any) -> Any:
        with scope(self._tenant):
            return getattr(self._inner, name)(*args, **kwargs)

    def mget(self, keys: Sequence[str]) -> Any:
        return self._called("mget", keys)

    def mset(self, key_value_pairs: Any) -> None:
        self._called("mset", key_value_pairs)

    def mdelete(self, keys: Sequence[str]) -> None:
        self._called("mdelete", keys)

    def yield_keys(self, *, prefix: str | None = None) -> Any:
        return self._called("yield_keys", prefix=prefix)

    async def amget(self, keys: Sequence[str]) -> Any:
        return await self._called("amget", keys)

    async def amset(self, key_value_pairs: Any) -> None:
        await self._called("amset", key_value_pairs)

    async def amdelete(self, keys: Sequence[str]) -> None:
        await self._called("amdelete", keys)

    def ayield_keys(self, *, prefix: str | None = None) -> Any:
        return self._called("ayield_keys", prefix=prefix)


def test_the_same_key_is_two(inner: BaseStore[str, bytes], pair: tuple[Tenant, Tenant]) -> None:
    store = TenantKeyValueStore(inner)
    for tenant in pair:
        with scope(tenant):
            store.mset([("doc/1", tenant.id.encode()), ("doc/2", b"x"), ("other", b"y")])
    for tenant in pair:
        with scope(tenant):
            assert store.mget(["doc/1", "none"]) == [tenant.id.encode(), None]
            assert sorted(store.yield_keys(prefix="doc/")) == ["doc/1", "doc/2"]
    assert len(list(inner.yield_keys())) == 4 + 6, "the bare store lists everyone's"
    with scope(pair[0]):
        assert store.clear_tenant() == 3 and list(store.yield_keys()) == []
    with scope(pair[1]):
        assert len(list(store.yield_keys())) == 3


def test_hostile_keys_reach_nobody(inner: BaseStore[str, bytes], pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    store = TenantKeyValueStore(inner)
    with scope(a):
        store.mset([("k", b"canary")])
    stored = next(name for name in inner.yield_keys() if inner.mget([name]) == [b"canary"])
    with scope(b):
        for key in (stored, f"/../{stored}", f"../{stored}", "*", "k*", ""):
            assert store.mget([key]) == [None]
            store.mdelete([key])
            assert list(store.yield_keys(prefix=key)) == []
    with scope(a):
        assert store.mget(["k"]) == [b"canary"]


async def test_the_tenant_is_read_at_the_call(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    store = TenantKeyValueStore(InMemoryByteStore())
    with scope(a):
        await store.amset([("k", b"of a")])
        got, late, names = store.amget(["k"]), store.amget(["k"]), store.yield_keys()
    assert await got == [b"of a"], "taken for a, at the call"
    with scope(b):
        with pytest.raises(TenantMismatch):
            await late
        with pytest.raises(TenantMismatch):
            next(iter(names))
        assert await store.aclear_tenant() == 0
    with scope(a):
        assert await store.aclear_tenant() == 1


def test_no_tenant_no_store_and_none_wrapped_twice() -> None:
    store = TenantKeyValueStore(InMemoryByteStore())
    for call in (lambda: store.mget(["k"]), lambda: store.mset([("k", b"v")]), lambda: store.yield_keys()):
        with pytest.raises(MissingTenant):
            call()
    with pytest.raises(ConfigurationError):
        TenantKeyValueStore(store)


def test_a_store_that_lists_others_keys_is_an_incident(pair: tuple[Tenant, Tenant]) -> None:
    class Careless(InMemoryByteStore):
        def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
            return super().yield_keys()

    store = TenantKeyValueStore(Careless())
    with scope(pair[0]):
        store.mset([("k", b"v")])
    with scope(pair[1]), pytest.raises(IsolationBreach):
        list(store.yield_keys())
