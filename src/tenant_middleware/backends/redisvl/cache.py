"""The semantic cache on RedisVL's index: the tenant in every key, a tag filter before the search, a stamp after it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from array import array
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tenant_middleware.backends.redis.answers import ANSWERS, CACHE, RedisAnswers, RedisVersions, store_args
from tenant_middleware.backends.redis.clients import areach, reach, unavailable
from tenant_middleware.errors import InvalidInput, IsolationBreach, missing_extra
from tenant_middleware.isolation.cache import (
    CacheRules,
    KnowledgeVersions,
    Lookup,
    Question,
    RulesFor,
    stamped,
    unstamped,
)
from tenant_middleware.isolation.questions.matching import compatible
from tenant_middleware.keys import key, tag
from tenant_middleware.tenant import Tenant

try:
    from redis.exceptions import RedisError, ResponseError
    from redisvl.exceptions import RedisVLError
    from redisvl.extensions.cache.llm import SemanticCache as RedisVLCache
    from redisvl.utils.vectorize import BaseVectorizer
except ImportError as error:
    raise missing_extra("redisvl", __name__) from error

_NEAREST = 4
_FIELDS = ("prompt", "response", "version", "distance")


class _Given(BaseVectorizer):  # type: ignore[misc]  # RedisVL ships no types
    """Tells RedisVL the size of vectors that the caller brings along; it never embeds."""


@dataclass(frozen=True, slots=True)
class _Near:
    place: str
    text: str
    stamped: str
    version: int
    distance: float


class RedisSemanticCache(RedisAnswers):
    """A SemanticCache for several workers: one RedisVL index per embedding size, shared by all tenants.

    The search runs over one tenant's bucket alone, so its time doesn't grow with the other tenants. Past `max_entries`
    a tenant's oldest answers go; time is the server's.
    """

    def __init__(
        self, url: str, *, rules: CacheRules | RulesFor, name: str = "tm_answers", timeout: float = 5.0
    ) -> None:
        super().__init__(url, "answers", rules, timeout)
        if self._clients.in_cluster:
            raise InvalidInput(
                "the semantic cache needs a Redis with the Query Engine and one shard: on a cluster a search sees one "
                "shard only and doesn't say so; give [backends] cache a URL of its own"
            )
        self._name = name
        self._versions = RedisVersions(self._clients)
        self._known: set[int] = set()
        self._making = threading.Lock()

    @property
    def versions(self) -> KnowledgeVersions:
        return self._versions

    def lookup(self, tenant: Tenant, question: Question) -> Lookup:
        rules = self._rules(tenant)
        self._make_index(len(question.embedding))
        batch = self._search(self._clients.sync, tenant, question)
        replies = reach(CACHE, lambda: batch.execute(raise_on_error=False))
        return self._decided(tenant, question, rules, replies)

    def store(self, tenant: Tenant, question: Question, answer: str, *, version: int) -> None:
        rules = self._rules(tenant)
        if not rules.enabled:
            return
        self._make_index(len(question.embedding))
        keys, args = self._entry(tenant, question, rules, answer, version)
        self._clients.run(CACHE, ANSWERS, keys, args)

    def invalidate(self, tenant: Tenant) -> int:
        return self.clear(tenant)

    async def alookup(self, tenant: Tenant, question: Question) -> Lookup:
        rules = self._rules(tenant)
        await self._amake_index(len(question.embedding))
        batch = self._search(self._clients.here(), tenant, question)
        replies = await areach(CACHE, batch.execute(raise_on_error=False))
        return self._decided(tenant, question, rules, replies)

    async def astore(self, tenant: Tenant, question: Question, answer: str, *, version: int) -> None:
        rules = self._rules(tenant)
        if not rules.enabled:
            return
        await self._amake_index(len(question.embedding))
        keys, args = self._entry(tenant, question, rules, answer, version)
        await self._clients.arun(CACHE, ANSWERS, keys, args)

    async def ainvalidate(self, tenant: Tenant) -> int:
        return await self.aclear(tenant)

    def _index(self, dims: int) -> str:
        return f"{self._name}_{dims}"

    def _make_index(self, dims: int) -> None:
        """Create the index for vectors of this size unless it exists; RedisVL compares the schema of one that does."""
        if dims in self._known:
            return
        with self._making:
            if dims in self._known:
                return
            try:
                RedisVLCache(
                    name=self._index(dims),
                    vectorizer=_Given(model="given", dims=dims),
                    filterable_fields=[{"name": "tenant", "type": "tag"}, {"name": "bucket", "type": "tag"}],
                    redis_client=self._clients.sync,
                )
            except (RedisError, RedisVLError, OSError) as error:
                refusal = unavailable(CACHE, error)
            else:
                self._known.add(dims)
                return
        raise refusal

    async def _amake_index(self, dims: int) -> None:
        if dims not in self._known:
            await asyncio.to_thread(self._make_index, dims)

    def _search(self, client: Any, tenant: Tenant, question: Question) -> Any:
        """One round trip: the tenant's knowledge version, and the nearest questions of the bucket."""
        batch = client.pipeline(transaction=False)
        batch.get(RedisVersions.place(tenant))
        batch.execute_command(
            "FT.SEARCH",
            self._index(len(question.embedding)),
            f"(@tenant:{{{tag(tenant)}}} @bucket:{{{question.bucket}}})=>[KNN {_NEAREST} @prompt_vector $v "
            "HYBRID_POLICY ADHOC_BF AS distance]",
            *("PARAMS", 2, "v", _floats(question.embedding)),
            *("RETURN", len(_FIELDS), *_FIELDS),
            *("SORTBY", "distance", "DIALECT", 2),
        )
        return batch

    def _decided(self, tenant: Tenant, question: Question, rules: CacheRules, replies: list[Any]) -> Lookup:
        version, found = (self._checked(reply, len(question.embedding)) for reply in replies)
        version = int(version or 0)
        if not rules.enabled:
            return Lookup(None, version)
        for near in map(_near, found[1::2], found[2::2]):
            answer = unstamped(tenant, question.bucket, near.stamped)
            if not near.place.startswith(_prefix(self._index(len(question.embedding)), tenant)):
                raise IsolationBreach("a cached answer lay under a key of somebody else; nothing was returned")
            fits = near.version == version and near.distance <= rules.distance_threshold
            if fits and compatible(question.text, near.text):
                self._seen[tenant.id, True] += 1
                return Lookup(answer, version, near.distance)
        self._seen[tenant.id, False] += 1
        return Lookup(None, version)

    def _checked(self, reply: Any, dims: int) -> Any:
        if isinstance(reply, ResponseError) and "no such index" in str(reply).lower():
            self._known.discard(dims)  # dropped behind our back: made anew at the next call
            return [0]
        if isinstance(reply, Exception):
            raise unavailable(CACHE, reply)
        return reply

    def _entry(
        self, tenant: Tenant, question: Question, rules: CacheRules, answer: str, version: int
    ) -> tuple[list[str], list[Any]]:
        """Fields as RedisVL names them, so that its own tools read the index."""
        text = hashlib.sha256(question.text.encode("utf-8", "surrogatepass")).hexdigest()
        place = f"{_prefix(self._index(len(question.embedding)), tenant)}{question.bucket}{text}."
        fields = {
            "entry_id": text,
            "prompt": question.text.encode("utf-8", "surrogatepass"),
            "response": stamped(tenant, question.bucket, answer),
            "prompt_vector": _floats(question.embedding),
            "tenant": tag(tenant),
            "bucket": question.bucket,
            "version": version,
        }
        return [self._list(tenant), place], store_args(rules, fields)


@lru_cache(maxsize=4096)
def _prefix(index: str, tenant: Tenant) -> str:
    """What a tenant's answers are stored under; bucket and text follow as digests of a fixed length."""
    return f"{index}:{key(tenant, 'answer')[:-1]}:"


def _floats(embedding: tuple[float, ...]) -> bytes:
    return array("f", embedding).tobytes()


def _near(place: bytes, row: list[bytes]) -> _Near:
    fields = dict(zip(row[::2], row[1::2], strict=True))
    return _Near(
        place.decode(),
        fields[b"prompt"].decode("utf-8", "surrogatepass"),
        fields[b"response"].decode(),
        int(fields[b"version"]),
        max(0.0, float(fields[b"distance"])),
    )
