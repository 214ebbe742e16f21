"""Seals LiteLLM's response cache: the key is the pinned tenant's, whatever the caller sends as key or namespace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

from tenant_middleware.context import peek_tenant, scope
from tenant_middleware.errors import SealError, missing_extra
from tenant_middleware.isolation import seal
from tenant_middleware.isolation.cache import ExactCache, exact_key
from tenant_middleware.isolation.seal import KeepsCaches, LayerReport
from tenant_middleware.keys import key
from tenant_middleware.litellm.calls import OpenCall, pinned
from tenant_middleware.litellm.request import CAP_NAMES

try:
    import litellm
    from litellm.caching.caching import Cache
    from litellm.caching.redis_semantic_cache import RedisSemanticCache
except ImportError as error:
    raise missing_extra("litellm", __name__) from error

_log = logging.getLogger(__name__)

# What callers could choose a bucket with: they are not part of what is asked.
_CHOOSERS = ("cache_key", "caching_groups", "redis_namespace")
# Tools and memory make an answer personal: then only the subject itself gets it again.
_PERSONAL = ("tools", "functions", "previous_response_id", "conversation")


_measuring: ContextVar[bool] = ContextVar("tenant_middleware_litellm_measuring", default=False)


def measures_vectors() -> bool:
    """Whether this is a semantic cache's one sync call, by which it learns how long its model's vectors are."""
    return _measuring.get()


class SealedKey(str):
    """A key made here; any other key finds and stores nothing."""


class _Sealed(Cache):
    """LiteLLM's cache with tenant keys; without a pinned call it is no cache at all."""

    tenant_values: ExactCache
    building: asyncio.Lock

    def get_cache_key(self, **kwargs: Any) -> Any:
        preset = (kwargs.get("litellm_params") or {}).get("preset_cache_key")
        if isinstance(preset, SealedKey):
            return preset
        open_call = pinned(kwargs)
        if open_call is None:
            return None
        made = self._tenant_key(open_call, super().get_cache_key(**_plain(open_call, kwargs)), kwargs)
        open_call.cache_entry = made
        if made is not None and isinstance(kwargs.get("litellm_params"), dict):
            kwargs["litellm_params"]["preset_cache_key"] = made
        return made

    def _tenant_key(self, open_call: OpenCall, asked: str, kwargs: Mapping[str, Any]) -> SealedKey | None:
        rules = self.tenant_values.rules_for(open_call.tenant)
        if not rules.enabled:
            return None
        personal = any(kwargs.get(name) for name in _PERSONAL)
        return SealedKey(
            key(open_call.tenant, "litellm", exact_key(open_call.tenant, rules, {"asked": asked}, personal=personal))
        )

    def _with_key(self, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        open_call = pinned(kwargs)
        if open_call is not None and open_call.stopped:
            return None
        if not isinstance(kwargs.get("cache_key"), SealedKey):
            kwargs["cache_key"] = self.get_cache_key(**kwargs)
        return kwargs if kwargs["cache_key"] is not None else None

    def get_cache(self, dynamic_cache_object: Any = None, **kwargs: Any) -> Any:
        keyed = self._with_key(kwargs)
        return super().get_cache(dynamic_cache_object, **keyed) if keyed else None

    async def async_get_cache(self, dynamic_cache_object: Any = None, **kwargs: Any) -> Any:
        keyed = self._with_key(kwargs)
        if not keyed or not await self._has_index():
            return None
        with _as_owner(kwargs):
            return await super().async_get_cache(dynamic_cache_object, **keyed)

    def add_cache(self, result: Any, **kwargs: Any) -> None:
        keyed = self._with_key(kwargs)
        if keyed:
            super().add_cache(result, **keyed)  # type: ignore[no-untyped-call]  # LiteLLM's

    async def async_add_cache(self, result: Any, dynamic_cache_object: Any = None, **kwargs: Any) -> None:
        keyed = self._with_key(kwargs)
        if keyed and await self._has_index():
            with _as_owner(kwargs):
                await super().async_add_cache(result, dynamic_cache_object, **keyed)

    async def async_add_cache_pipeline(self, result: Any, dynamic_cache_object: Any = None, **kwargs: Any) -> None:
        """Embeddings, a key for each input: LiteLLM asks `get_cache_key` for them."""
        kwargs.pop("cache_key", None)
        if self.get_cache_key(**kwargs) is not None:
            await super().async_add_cache_pipeline(result, dynamic_cache_object, **kwargs)

    async def _has_index(self) -> bool:
        """A semantic cache on Redis makes its index when it is first used, by a sync call that says nobody's words."""
        cache: Any = self.cache
        if not isinstance(cache, RedisSemanticCache) or getattr(cache, "_llmcache", None) is not None:
            return True
        if self.building.locked():
            return False  # another call makes it, or waits for what is down
        async with self.building:
            token = _measuring.set(True)
            try:
                await asyncio.to_thread(lambda: cache.llmcache)
            except Exception as error:  # noqa: BLE001  # the model is called instead, and the next call tries again
                _log.error("the semantic cache has no index, so nothing is cached: %s", type(error).__name__)
                return False
            finally:
                _measuring.reset(token)
        return True


def _plain(open_call: OpenCall, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, without what chooses a bucket, and with the caller's cap: the gate's shrinks with the budget."""
    plain = {name: value for name, value in kwargs.items() if name not in (*_CHOOSERS, *CAP_NAMES, "cache")}
    plain["litellm_params"] = {}
    for place in ("metadata", "litellm_metadata"):
        metadata = plain.get(place)
        if isinstance(metadata, Mapping):
            plain[place] = {name: value for name, value in metadata.items() if name not in _CHOOSERS}
    if open_call.hold.call.max_tokens is not None:
        plain["max_tokens"] = open_call.hold.call.max_tokens
    return plain


def _as_owner(kwargs: Mapping[str, Any]) -> AbstractContextManager[object]:
    """A semantic cache embeds the question by a model call, which is the tenant's; in a proxy no scope is open."""
    open_call = pinned(kwargs)
    return scope(open_call.tenant) if open_call is not None and peek_tenant() is None else nullcontext()


def is_sealed(cache: Any) -> bool:
    """Whether a cache keys by tenant."""
    return isinstance(cache, _Sealed)


def check_cache() -> None:
    """Raise SealError unless LiteLLM has no cache, or a sealed one."""
    if litellm.cache is not None and not is_sealed(litellm.cache):
        raise SealError(
            "litellm.cache isn't keyed by tenant, so it would hand one tenant's answers to another: call "
            "tenancy.seal() after setting it, and again whenever it is replaced"
        )


class ResponseCacheSealer:
    """Makes the global response cache, in place, one whose keys carry the tenant; its store stays as it is."""

    framework = "litellm"

    def __init__(self) -> None:
        self._before: list[tuple[Any, type[Any]]] = []

    def seal(self, tenancy: KeepsCaches) -> list[LayerReport]:
        found = litellm.cache
        if found is None:
            return [LayerReport(self.framework, "response cache", "absent", "litellm.cache is None")]
        if not isinstance(found, Cache):
            detail = f"{type(found).__name__} is no litellm Cache: nothing is known of how it keys"
            return [LayerReport(self.framework, "response cache", "not_sealable", detail)]
        if not is_sealed(found):
            kind = type(found)
            self._before.append((found, kind))
            found.__class__ = type(f"Sealed{kind.__name__}", (_Sealed, kind) if kind is not Cache else (_Sealed,), {})
        vars(found)["tenant_values"] = tenancy.exact_cache
        vars(found).setdefault("building", asyncio.Lock())
        return [LayerReport(self.framework, "response cache", "sealed", str(found.type))]

    def check(self) -> None:
        check_cache()

    def unseal(self) -> None:
        for cache, kind in self._before:
            cache.__class__ = kind
        self._before.clear()


seal.register(ResponseCacheSealer())
