"""The contracts of ExactCache and SemanticCache, for any backend: subclass one and override its fixtures.

`new_cache(rules)` makes an empty cache under the given rules, `advance(seconds)` lets time pass for it. `tamper(cache,
tenant, other)` makes the store hand `other` what it keeps for `tenant`, as a writer that bypasses us would.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tenant_middleware.errors import InvalidInput, IsolationBreach
from tenant_middleware.isolation.cache import CacheRules, ExactCache, Question, SemanticCache, exact_key, question
from tenant_middleware.tenant import Tenant

RULES = CacheRules(secret=b"not a secret: for tests only", ttl=60.0)
PAIRS = [("acme", "globex"), ("Acme", "acme"), ("acme", "acme2")]
Advance = Callable[[float], None]


def towards(degrees: float) -> list[float]:
    """An embedding at an angle: 20 degrees apart is a cosine distance of 0.06, 30 degrees 0.13."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0, 0.0]


def asked(tenant: Tenant, text: str, degrees: float = 0.0, rules: CacheRules = RULES, **scope: Any) -> Question:
    return question(tenant, rules, text, towards(degrees), **scope)


class _TwoTenants:
    @pytest.fixture
    def advance(self) -> Advance:
        """Lets time pass for the cache; override this."""
        raise LookupError("override the fixture advance")

    @pytest.fixture
    def tamper(self) -> Callable[..., None]:
        """Hands one tenant's entry to another behind the cache's back; override this."""
        raise LookupError("override the fixture tamper")

    @pytest.fixture(params=PAIRS, ids="/".join)
    def two(self, request: pytest.FixtureRequest) -> tuple[Tenant, Tenant]:
        first, second = request.param
        return Tenant(first, "free", "user"), Tenant(second, "free", "user")


class ExactCacheContract(_TwoTenants):
    """What every ExactCache promises."""

    @pytest.fixture
    def new_cache(self) -> Callable[[CacheRules], ExactCache]:
        raise LookupError("ExactCacheContract: override the fixture new_cache")

    @pytest.fixture
    def cache(self, new_cache: Callable[[CacheRules], ExactCache]) -> ExactCache:
        return new_cache(RULES)

    def test_each_tenant_finds_its_own(self, cache: ExactCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        cache.store(a, "k", "of a")
        assert cache.lookup(a, "k") == "of a" and cache.lookup(b, "k") is None
        cache.store(b, "k", "of b")
        assert (cache.lookup(a, "k"), cache.lookup(b, "k")) == ("of a", "of b")

    def test_the_key_says_tenant_subject_and_parts(self, cache: ExactCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        other = replace(a, subject="another")
        keys = {exact_key(t, RULES, {"p": p}) for t in (a, b, other) for p in ("x", "y")}
        assert len(keys) == 6
        shared = replace(RULES, share="tenant")
        assert exact_key(a, shared, {"p": 1}) == exact_key(other, shared, {"p": 1})
        assert exact_key(a, shared, {"p": 1}, personal=True) != exact_key(other, shared, {"p": 1}, personal=True)

    def test_an_entry_ends_after_its_time(
        self, cache: ExactCache, two: tuple[Tenant, Tenant], advance: Advance
    ) -> None:
        for tenant in two:
            cache.store(tenant, "k", "v")
        advance(59)
        assert cache.lookup(two[0], "k") == "v"
        advance(2)
        assert cache.lookup(two[0], "k") is None and cache.count(two[1]).entries == 0

    def test_one_tenant_fills_only_its_own_share(
        self, new_cache: Callable[[CacheRules], ExactCache], two: tuple[Tenant, Tenant]
    ) -> None:
        a, b = two
        cache = new_cache(replace(RULES, max_entries=3))
        cache.store(b, "k", "v")
        for i in range(10):
            cache.store(a, str(i), "v")
        assert cache.count(a).entries == 3 and cache.lookup(a, "9") == "v" and cache.lookup(a, "0") is None
        assert cache.lookup(b, "k") == "v"

    def test_clear_clears_one_tenant(self, cache: ExactCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            cache.store(tenant, "k", "v")
        assert cache.clear(a) == 1 and cache.lookup(a, "k") is None and cache.lookup(b, "k") == "v"

    def test_a_foreign_value_is_an_incident(
        self, cache: ExactCache, two: tuple[Tenant, Tenant], tamper: Callable[..., None]
    ) -> None:
        a, b = two
        cache.store(a, "k", "canary of a")
        tamper(cache, a, b)
        with pytest.raises(IsolationBreach) as caught:
            cache.lookup(b, "k")
        assert "canary" not in str(caught.value) and a.id not in str(caught.value)

    def test_switched_off_it_keeps_nothing(
        self, new_cache: Callable[[CacheRules], ExactCache], two: tuple[Tenant, Tenant]
    ) -> None:
        cache = new_cache(replace(RULES, enabled=False))
        cache.store(two[0], "k", "v")
        assert cache.lookup(two[0], "k") is None and cache.count(two[0]).entries == 0

    async def test_the_async_twins_see_the_same(self, cache: ExactCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        await cache.astore(a, "k", "v")
        assert await cache.alookup(a, "k") == "v" == await asyncio.to_thread(cache.lookup, a, "k")
        assert await cache.alookup(b, "k") is None
        assert (
            (await cache.acount(a)).entries == 1 and await cache.aclear(a) == 1 and await cache.alookup(a, "k") is None
        )


class SemanticCacheContract(_TwoTenants):
    """What every SemanticCache promises."""

    @pytest.fixture
    def new_cache(self) -> Callable[[CacheRules], SemanticCache]:
        raise LookupError("SemanticCacheContract: override the fixture new_cache")

    @pytest.fixture
    def cache(self, new_cache: Callable[[CacheRules], SemanticCache]) -> SemanticCache:
        return new_cache(RULES)

    def test_each_tenant_finds_its_own(self, cache: SemanticCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        cache.store(a, asked(a, "what is the price"), "of a", version=0)
        assert cache.lookup(a, asked(a, "what is the price")).answer == "of a"
        assert not cache.lookup(b, asked(b, "what is the price")).hit
        cache.store(b, asked(b, "what is the price"), "of b", version=0)
        assert cache.lookup(a, asked(a, "what is the price")).answer == "of a"
        assert cache.lookup(b, asked(b, "what is the price")).answer == "of b"

    def test_a_near_question_hits_and_a_far_one_misses(self, cache: SemanticCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            cache.store(tenant, asked(tenant, "what is the price"), tenant.id, version=0)
        near = cache.lookup(a, asked(a, "the price, please", 20))
        assert near.answer == a.id and near.distance == pytest.approx(1 - math.cos(math.radians(20)), abs=1e-3)
        assert not cache.lookup(a, asked(a, "the price, please", 30)).hit
        assert cache.lookup(b, asked(b, "the price, please", -20)).answer == b.id

    def test_the_nearest_answers(self, cache: SemanticCache, two: tuple[Tenant, Tenant]) -> None:
        a, _ = two
        cache.store(a, asked(a, "the price", 0), "far", version=0)
        cache.store(a, asked(a, "price", 10), "near", version=0)
        assert cache.lookup(a, asked(a, "price please", 12)).answer == "near"

    @pytest.mark.parametrize(
        ("stored", "other"),
        [
            ("revenue in 2023", "revenue in 2024"),
            ("meeting in March", "meeting in June"),
            ("can I cancel", "can I not cancel"),
            ("what does Anna earn", "what does Boris earn"),
            ("pay $50", "pay $500"),
        ],
    )
    def test_a_near_miss_misses(
        self, cache: SemanticCache, two: tuple[Tenant, Tenant], stored: str, other: str
    ) -> None:
        """However near the embeddings are: numbers, dates, names, negation and amounts must match."""
        a, _ = two
        cache.store(a, asked(a, stored), "answer", version=0)
        assert cache.lookup(a, asked(a, stored, 1)).hit
        assert not cache.lookup(a, asked(a, other, 0)).hit

    def test_another_context_or_subject_misses(
        self, new_cache: Callable[[CacheRules], SemanticCache], two: tuple[Tenant, Tenant]
    ) -> None:
        a, _ = two
        other = replace(a, subject="another")
        shared = replace(RULES, share="tenant")
        for rules, expected in ((RULES, False), (shared, True)):
            cache = new_cache(rules)
            cache.store(a, asked(a, "price", rules=rules, context={"system": "x"}), "v", version=0)
            assert cache.lookup(a, asked(a, "price", rules=rules, context={"system": "x"})).hit
            assert not cache.lookup(a, asked(a, "price", rules=rules, context={"system": "y"})).hit
            assert cache.lookup(other, asked(other, "price", rules=rules, context={"system": "x"})).hit is expected
            personal = asked(other, "price", rules=rules, context={"system": "x"}, personal=True)
            assert not cache.lookup(other, personal).hit

    def test_new_knowledge_makes_older_answers_miss(self, cache: SemanticCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            cache.store(
                tenant, asked(tenant, "price"), "old", version=cache.lookup(tenant, asked(tenant, "price")).version
            )
        before = cache.lookup(a, asked(a, "other")).version
        cache.versions.bump(a)
        assert not cache.lookup(a, asked(a, "price")).hit
        assert cache.lookup(b, asked(b, "price")).hit, "another tenant's documents changed, not b's"
        cache.store(a, asked(a, "other"), "made from what was read before the bump", version=before)
        assert not cache.lookup(a, asked(a, "other")).hit
        cache.store(a, asked(a, "price"), "new", version=cache.lookup(a, asked(a, "price")).version)
        assert cache.lookup(a, asked(a, "price")).answer == "new"

    def test_an_entry_ends_after_its_time(
        self, cache: SemanticCache, two: tuple[Tenant, Tenant], advance: Advance
    ) -> None:
        for tenant in two:
            cache.store(tenant, asked(tenant, "price"), "v", version=0)
        advance(59)
        assert cache.lookup(two[0], asked(two[0], "price")).hit
        advance(2)
        assert not cache.lookup(two[0], asked(two[0], "price")).hit and cache.count(two[1]).entries == 0

    def test_one_tenant_fills_only_its_own_share(
        self, new_cache: Callable[[CacheRules], SemanticCache], two: tuple[Tenant, Tenant]
    ) -> None:
        a, b = two
        rules = replace(RULES, max_entries=3)
        cache = new_cache(rules)
        cache.store(b, asked(b, "price"), "v", version=0)
        for word in ("north", "east", "south", "west", "up"):
            cache.store(a, asked(a, f"what lies {word}"), word, version=0)
        assert cache.count(a).entries == 3 and cache.lookup(a, asked(a, "what lies up")).answer == "up"
        assert not cache.lookup(a, asked(a, "what lies north")).hit
        assert cache.lookup(b, asked(b, "price")).hit

    def test_invalidate_drops_one_tenants_answers(self, cache: SemanticCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            cache.store(tenant, asked(tenant, "price"), "v", version=0)
        assert cache.invalidate(a) == 1 and not cache.lookup(a, asked(a, "price")).hit
        assert cache.lookup(b, asked(b, "price")).hit and cache.count(a).entries == 0

    def test_hits_and_misses_are_counted(self, cache: SemanticCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        cache.lookup(a, asked(a, "price"))
        cache.store(a, asked(a, "price"), "v", version=0)
        cache.lookup(a, asked(a, "price"))
        cache.lookup(a, asked(a, "price"))
        assert (cache.count(a).entries, cache.count(a).hits, cache.count(a).misses) == (1, 2, 1)
        assert (cache.count(b).entries, cache.count(b).hits, cache.count(b).misses) == (0, 0, 0)

    def test_a_foreign_answer_is_an_incident(
        self, cache: SemanticCache, two: tuple[Tenant, Tenant], tamper: Callable[..., None]
    ) -> None:
        a, b = two
        cache.store(a, asked(a, "price"), "canary of a", version=0)
        tamper(cache, a, b)
        with pytest.raises(IsolationBreach) as caught:
            cache.lookup(b, asked(b, "price"))
        assert "canary" not in str(caught.value) and a.id not in str(caught.value)

    def test_switched_off_it_keeps_nothing(
        self, new_cache: Callable[[CacheRules], SemanticCache], two: tuple[Tenant, Tenant]
    ) -> None:
        cache = new_cache(replace(RULES, enabled=False))
        cache.store(two[0], asked(two[0], "price"), "v", version=0)
        assert not cache.lookup(two[0], asked(two[0], "price")).hit

    @pytest.mark.parametrize("embedding", [[math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0], []])
    def test_an_embedding_without_direction_is_refused(
        self, two: tuple[Tenant, Tenant], embedding: list[float]
    ) -> None:
        with pytest.raises(InvalidInput, match="embedding"):
            question(two[0], RULES, "price", embedding)

    async def test_the_async_twins_see_the_same(self, cache: SemanticCache, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        version = (await cache.alookup(a, asked(a, "price"))).version
        await cache.astore(a, asked(a, "price"), "v", version=version)
        assert (await cache.alookup(a, asked(a, "price"))).answer == "v"
        assert (await asyncio.to_thread(cache.lookup, a, asked(a, "price"))).answer == "v"
        assert not (await cache.alookup(b, asked(b, "price"))).hit
        assert await cache.versions.abump(a) == version + 1 == await cache.versions.acurrent(a)
        assert not (await cache.alookup(a, asked(a, "price"))).hit
        assert (await cache.acount(a)).entries == 1 and await cache.ainvalidate(a) == 1
