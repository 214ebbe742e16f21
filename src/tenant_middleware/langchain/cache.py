"""LangChain's LLM cache with the tenant and the subject in every key."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import missing_extra
from tenant_middleware.isolation.cache import ExactCache, exact_key
from tenant_middleware.langchain.pinned import called_now
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.langchain.values import dump_generations, load_generations
from tenant_middleware.telemetry import stage
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
except ImportError as error:
    raise missing_extra("langchain", __name__) from error


class TenantCache(BaseCache):
    """An exact cache for `model.cache=` or `set_llm_cache`: nobody is answered from another tenant's calls.

    Shared within the tenant only when the policy says so; `clear` clears the current tenant's entries.
    """

    def __init__(self, cache: ExactCache) -> None:
        self._cache = cache

    @passing
    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        tenant, key = self._place(prompt, llm_string)
        with stage("cache", tenant):
            found = self._cache.lookup(tenant, key)
        return None if found is None else load_generations(found)

    @passing
    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        tenant, key = self._place(prompt, llm_string)
        self._cache.store(tenant, key, dump_generations(return_val))

    @passing
    def clear(self, **kwargs: Any) -> None:
        self._cache.clear(current_tenant())

    @passing
    def alookup(self, prompt: str, llm_string: str) -> Coroutine[Any, Any, RETURN_VAL_TYPE | None]:
        tenant, key = self._place(prompt, llm_string)
        return called_now(self._alookup, tenant, key)

    @passing
    def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> Coroutine[Any, Any, None]:
        tenant, key = self._place(prompt, llm_string)
        return called_now(self._aupdate, tenant, key, dump_generations(return_val))

    @passing
    def aclear(self, **kwargs: Any) -> Coroutine[Any, Any, None]:
        return called_now(self._aclear, current_tenant())

    async def _alookup(self, tenant: Tenant, key: str) -> RETURN_VAL_TYPE | None:
        with stage("cache", tenant):
            found = await self._cache.alookup(tenant, key)
        return None if found is None else load_generations(found)

    async def _aupdate(self, tenant: Tenant, key: str, value: str) -> None:
        await self._cache.astore(tenant, key, value)

    async def _aclear(self, tenant: Tenant) -> None:
        await self._cache.aclear(tenant)

    def _place(self, prompt: str, llm_string: str) -> tuple[Tenant, str]:
        tenant = current_tenant()
        parts = {"prompt": prompt, "llm": llm_string}
        return tenant, exact_key(tenant, self._cache.rules_for(tenant), parts)
