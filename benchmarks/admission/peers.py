"""Limiters from PyPI on the same Redis. None has money, a record per call or one decision for requests and tokens.

`limits`, `pyrate-limiter` and `throttled-py` take two calls, requests and tokens; LiteLLM's limiter is driven by its
hooks, as the proxy does it, without the proxy around it.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from benchmarks.admission.contenders import CONNECTIONS, ESTIMATE, PROMPT, RPM, TPM
from tenant_middleware.tenant import Tenant


class _NoSettle:
    async def settle(self, tenant: Tenant, call_id: str) -> None:
        raise NotImplementedError("this limiter has no second step")


class LimitsLibrary(_NoSettle):
    """`limits`, sliding window counter: its cheapest one without a doubled edge."""

    def __init__(self, url: str) -> None:
        from limits import parse
        from limits.aio.storage import RedisStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter

        self.storage = RedisStorage(f"async+{url}", implementation="redispy", max_connections=CONNECTIONS)
        self.limiter = SlidingWindowCounterRateLimiter(self.storage)
        self.requests, self.tokens = parse(f"{RPM}/minute"), parse(f"{TPM}/minute")

    async def reserve(self, tenant: Tenant, call_id: str) -> bool:
        if not await self.limiter.hit(self.requests, "rpm", tenant.id):
            return False
        return await self.limiter.hit(self.tokens, "tpm", tenant.id, cost=ESTIMATE)

    async def close(self) -> None:
        """Its client closes with its loop."""


class Pyrate(_NoSettle):
    """`pyrate-limiter`, GCRA in Redis."""

    def __init__(self, url: str) -> None:
        from pyrate_limiter import GCRA, Duration, Rate, RedisStateStore, StateBucket

        self.client = Redis.from_url(url, max_connections=CONNECTIONS, protocol=2)
        self.limiters: dict[tuple[str, str], Any] = {}
        self.make = lambda name, limit: StateBucket(
            [Rate(limit, Duration.MINUTE)], GCRA(), RedisStateStore(self.client, f"pyrate:{name}")
        )

    def bucket(self, what: str, tenant: Tenant) -> Any:
        found = self.limiters.get((what, tenant.id))
        if found is None:
            limit = RPM if what == "rpm" else TPM
            found = self.limiters[what, tenant.id] = self.make(f"{what}:{tenant.id}", limit)
        return found

    async def reserve(self, tenant: Tenant, call_id: str) -> bool:
        from pyrate_limiter import RateItem

        for what, weight in (("rpm", 1), ("tpm", ESTIMATE)):
            bucket = self.bucket(what, tenant)
            if not await bucket.put(RateItem(tenant.id, bucket.now(), weight=weight)):
                return False
        return True

    async def close(self) -> None:
        await self.client.aclose()


class ThrottledPy(_NoSettle):
    """`throttled-py`, GCRA in Redis."""

    def __init__(self, url: str) -> None:
        from throttled.asyncio import RateLimiterType, Throttled, per_min
        from throttled.asyncio.store import RedisStore

        store = RedisStore(server=url, options={"SOCKET_TIMEOUT": 30, "MAX_CONNECTIONS": CONNECTIONS})
        using = RateLimiterType.GCRA.value
        self.requests = Throttled(using=using, quota=per_min(RPM), store=store)
        self.tokens = Throttled(using=using, quota=per_min(TPM), store=store)

    async def reserve(self, tenant: Tenant, call_id: str) -> bool:
        if (await self.requests.limit(f"rpm:{tenant.id}", cost=1)).limited:
            return False
        return not (await self.tokens.limit(f"tpm:{tenant.id}", cost=ESTIMATE)).limited

    async def close(self) -> None:
        """Its client closes with its loop."""


class LiteLLM(_NoSettle):
    """The proxy's parallel_request_limiter_v3: its pre-call hook with a key's rpm and tpm limit."""

    def __init__(self, url: str) -> None:
        from litellm.caching import DualCache, RedisCache
        from litellm.proxy._types import UserAPIKeyAuth
        from litellm.proxy.hooks.parallel_request_limiter_v3 import _PROXY_MaxParallelRequestsHandler_v3
        from litellm.proxy.utils import InternalUsageCache

        host, _, port = url.removeprefix("redis://").partition(":")
        self.cache = DualCache(redis_cache=RedisCache(host=host, port=int(port)))
        self.limiter = _PROXY_MaxParallelRequestsHandler_v3(InternalUsageCache(self.cache))
        self.key = lambda tenant: UserAPIKeyAuth(api_key=tenant.id, rpm_limit=RPM, tpm_limit=TPM)
        self.message = {"role": "user", "content": "x" * 4 * PROMPT}

    async def reserve(self, tenant: Tenant, call_id: str) -> bool:
        data = {"model": "gpt-4o-mini", "messages": [self.message], "max_tokens": 100, "litellm_call_id": call_id}
        await self.limiter.async_pre_call_hook(
            user_api_key_dict=self.key(tenant), cache=self.cache, data=data, call_type="completion"
        )
        return True

    async def close(self) -> None:
        await self.cache.redis_cache.disconnect()
