"""The contract of ProviderIds, for any backend: subclass it and override its fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tenant_middleware.isolation.provider_state import ProviderIds
from tenant_middleware.tenant import Tenant

PAIRS = [("acme", "globex"), ("Acme", "acme"), ("acme", "acme2")]


class ProviderIdsContract:
    """What every ProviderIds promises; `new_ids(ttl, most)` makes an empty one, `advance(seconds)` lets time pass."""

    @pytest.fixture
    def new_ids(self) -> Callable[[float, int], ProviderIds]:
        raise LookupError("ProviderIdsContract: override the fixture new_ids")

    @pytest.fixture
    def advance(self) -> Callable[[float], None]:
        raise LookupError("ProviderIdsContract: override the fixture advance")

    @pytest.fixture
    def ids(self, new_ids: Callable[[float, int], ProviderIds]) -> ProviderIds:
        return new_ids(100.0, 3)

    @pytest.fixture(params=PAIRS, ids="/".join)
    def two(self, request: pytest.FixtureRequest) -> tuple[Tenant, Tenant]:
        first, second = request.param
        return Tenant(first, "free"), Tenant(second, "free")

    def test_an_id_is_of_the_tenant_that_was_given_it(self, ids: ProviderIds, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        assert not ids.owns(a, "response", "resp_1"), "nobody's yet"
        ids.claim(a, "response", "resp_1")
        assert ids.owns(a, "response", "resp_1")
        assert not ids.owns(b, "response", "resp_1") and not ids.owns(a, "conversation", "resp_1")
        assert not ids.owns(a, "response", "resp_") and not ids.owns(a, "response", "RESP_1")

    def test_only_the_newest_are_kept_and_one_tenant_fills_only_its_own_share(
        self, ids: ProviderIds, two: tuple[Tenant, Tenant]
    ) -> None:
        a, b = two
        ids.claim(b, "response", "resp_b")
        for number in range(10):
            ids.claim(a, "response", f"resp_{number}")
        assert sum(ids.owns(a, "response", f"resp_{number}") for number in range(10)) == 3
        assert ids.owns(b, "response", "resp_b")

    def test_an_id_ends_after_its_time(
        self, ids: ProviderIds, two: tuple[Tenant, Tenant], advance: Callable[[float], None]
    ) -> None:
        ids.claim(two[0], "conversation", "conv_1")
        advance(90)
        assert ids.owns(two[0], "conversation", "conv_1")
        advance(20)
        assert not ids.owns(two[0], "conversation", "conv_1")

    def test_clear_forgets_one_tenants(self, ids: ProviderIds, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            ids.claim(tenant, "response", "resp_1")
        assert ids.clear(a) == 1 and not ids.owns(a, "response", "resp_1") and ids.owns(b, "response", "resp_1")

    async def test_the_async_twins_see_the_same(self, ids: ProviderIds, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        await ids.aclaim(a, "response", "resp_1")
        assert await ids.aowns(a, "response", "resp_1") and not await ids.aowns(b, "response", "resp_1")
        assert await asyncio.to_thread(ids.owns, a, "response", "resp_1")
        assert await ids.aclear(a) == 1 and not await ids.aowns(a, "response", "resp_1")
