"""LangChain's key-value store (cached embeddings, parent documents) with the tenant in every key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any, Generic, TypeVar

from tenant_middleware.context import current_tenant, pin, scope
from tenant_middleware.errors import ConfigurationError, IsolationBreach, missing_extra
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.keys import decode, encode, namespace
from tenant_middleware.langchain.pinned import asteps, called_now, steps
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.stores import BaseStore, InMemoryBaseStore
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

V = TypeVar("V")


class TenantKeyValueStore(BaseStore[str, V], Generic[V]):
    """Wraps a `langchain_core.stores.BaseStore` with text keys so that each tenant sees its own keys alone.

    The tenant is read when a method is called; `yield_keys` and `clear_tenant` cover one tenant.
    """

    def __init__(self, inner: BaseStore[str, V]) -> None:
        if isinstance(inner, TenantKeyValueStore):
            raise ConfigurationError("TenantKeyValueStore: the inner store is wrapped already")
        self.inner = inner
        if isinstance(inner, InMemoryBaseStore):
            RESIDENTS.register(self)

    @passing
    def mget(self, keys: Sequence[str]) -> list[V | None]:
        return self.inner.mget(_inward(keys))

    @passing
    def mset(self, key_value_pairs: Sequence[tuple[str, V]]) -> None:
        self.inner.mset(_pairs(key_value_pairs))

    @passing
    def mdelete(self, keys: Sequence[str]) -> None:
        self.inner.mdelete(_inward(keys))

    @passing
    def amget(self, keys: Sequence[str]) -> Coroutine[Any, Any, list[V | None]]:
        return called_now(self.inner.amget, _inward(keys))

    @passing
    def amset(self, key_value_pairs: Sequence[tuple[str, V]]) -> Coroutine[Any, Any, None]:
        return called_now(self.inner.amset, _pairs(key_value_pairs))

    @passing
    def amdelete(self, keys: Sequence[str]) -> Coroutine[Any, Any, None]:
        return called_now(self.inner.amdelete, _inward(keys))

    @passing
    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        return steps(pin(self._names(namespace(current_tenant()), prefix or "")))

    @passing
    def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        return asteps(pin(self._anames(namespace(current_tenant()), prefix or "")))

    def clear_tenant(self) -> int:
        """Delete every key of the tenant in context; says how many there were."""
        names = list(self.yield_keys())
        self.mdelete(names)
        return len(names)

    async def aclear_tenant(self) -> int:
        """The async twin of `clear_tenant`."""
        names = [name async for name in self.ayield_keys()]
        await self.amdelete(names)
        return len(names)

    def leave(self, tenant: Tenant) -> int:
        """Drop the tenant's keys from this process; stores elsewhere aren't asked."""
        with scope(tenant):
            return self.clear_tenant()

    def _names(self, mine: str, prefix: str) -> Iterator[str]:
        for name in self.inner.yield_keys(prefix=mine):
            if (plain := _plain(name, mine)).startswith(prefix):
                yield plain

    async def _anames(self, mine: str, prefix: str) -> AsyncIterator[str]:
        async for name in self.inner.ayield_keys(prefix=mine):
            if (plain := _plain(name, mine)).startswith(prefix):
                yield plain


def _inward(keys: Sequence[str]) -> list[str]:
    """Keys are encoded: as part of a path or a pattern, a caller's own would reach out of the tenant."""
    mine = namespace(current_tenant())
    return [f"{mine}{encode(key)}" for key in keys]


def _pairs(pairs: Sequence[tuple[str, V]]) -> list[tuple[str, V]]:
    return list(zip(_inward([key for key, _ in pairs]), (value for _, value in pairs), strict=True))


def _plain(name: str, mine: str) -> str:
    if not name.startswith(mine):
        raise IsolationBreach("the store listed a key of another tenant; nothing was returned")
    return decode(name[len(mine) :])
