"""LiteLLM's semantic cache on a real Redis, in a real proxy: near is near, but within one tenant.

The provider embeds every text as the same vector, so that whatever isn't kept apart hits. LiteLLM
keeps the teams of a proxy apart by itself as well; in the SDK, where it doesn't, the hazards show what the seal does.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tenant_middleware.local import local_redis
from tests.litellm import proxy as proxies
from tests.litellm.proxies import TIERS, policy
from tests.litellm.proxy import Proxy
from tests.litellm.upstream import Upstream

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, _provider: Upstream) -> Iterator[Proxy]:
    with local_redis() as redis:
        settings = proxies.config(_provider.url)
        cache = {"type": "redis-semantic", "redis_url": redis, "similarity_threshold": 0.9}
        cache["redis_semantic_cache_embedding_model"] = "embed"
        settings["litellm_settings"] |= {"cache": True, "cache_params": cache}
        # One slot for all: the embedding of a question runs on the slot of the call that asks it.
        one_slot: dict[str, Any] = {"queue": {"pools": {"all": {"models": ["*"], "slots": 1}}}}
        one_slot["tiers"] = {name: tier | {"queue_timeout": 20} for name, tier in TIERS.items()}
        with proxies.running(tmp_path_factory.mktemp("semantic"), policy(redis, **one_slot), settings) as running:
            yield running


def ask(client: httpx.Client, text: str, **more: Any) -> str:
    body = {"model": "chat", "messages": [{"role": "user", "content": f"[prompt=100][output=50] {text}"}], **more}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_near_questions_hit_within_one_tenant_alone(served: Proxy, upstream: Upstream) -> None:
    """The provider numbers its answers: one that was seen before is a hit. A busy machine may miss some."""
    name, other = (f"t-{uuid.uuid4().hex[:12]}" for _ in range(2))
    with served.client(name) as mine, served.client(other) as foreign, served.client(name.upper()) as case:
        seen, answer, asked = set[str](), ask(mine, "What does the plan cost?"), 1
        end = time.monotonic() + 60
        while answer not in seen and time.monotonic() < end:
            seen.add(answer)
            answer, asked = ask(mine, f"How much is the plan, said otherwise for the {asked}. time?"), asked + 1
        assert answer in seen, "its own paraphrase should hit"
        for stranger in (foreign, case):
            assert ask(stranger, "What does the plan cost?") not in seen
        assert ask(mine, "What does the plan cost?", temperature=0.5) not in seen, "parameters are part of the scope"
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
        assert ask(mine, "What does the plan cost?", tools=[tool]) not in seen, "tools are part of the scope"
    end = time.monotonic() + 30
    while len(chats := [row for row in served.rows(name) if row.kind == "chat"]) < asked + 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert sorted(row.status for row in chats) == ["cache_hit"] + ["ok"] * (asked + 1)
    assert {row.cost_nano for row in chats if row.status == "ok"} == {200_000}, "at the chat model's price"
    embedded = {row.model for row in served.rows(name) if row.kind == "embedding"}
    assert embedded == {"embed"}, "its embeddings are the tenant's own"
