"""Canaries in a real proxy: planted by this process, found by two workers that share nothing but the key with it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tenant_middleware import Tenant
from tenant_middleware.guardrails import CanaryGuard
from tenant_middleware.local import local_redis
from tests.litellm import proxy as proxies
from tests.litellm.proxies import policy
from tests.litellm.proxy import Proxy
from tests.litellm.upstream import Upstream

pytestmark = [pytest.mark.services, pytest.mark.guardrail]

KEY = "a key of at least sixteen bytes"
FILLER = "Our price list is due in May. " * 40
PLANTER = CanaryGuard(KEY.encode())


@pytest.fixture(scope="module", params=[KEY, None], ids=["guarded", "without the key"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _provider: Upstream
) -> Iterator[tuple[Proxy, bool]]:
    """The second is the control: the same answers, and nobody who looks at them."""
    environ = {"TENANCY__SECRETS__CANARY_KEY": request.param} if request.param else {}
    with local_redis() as redis:
        folder = tmp_path_factory.mktemp("proxy")
        settings = proxies.config(_provider.url, redis=redis)
        rules = policy(redis, answers={"foreign_ids": True})
        with proxies.running(folder, rules, settings, workers=2 if request.param else 1, environ=environ) as running:
            yield running, request.param is not None


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def answer(name: str) -> str:
    return f"{FILLER}{PLANTER.mint(Tenant(name, 'pro'))} {FILLER}"


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chat(client: httpx.Client, answer: str, *, stream: bool) -> str:
    """Everything that the client gets to see, with the pieces of a stream put together."""
    body = {"model": "chat", "messages": [{"role": "user", "content": f"[say={answer}]"}], "stream": stream}
    given = client.post("/v1/chat/completions", json=body)
    if not stream:
        return given.text
    pieces = [choice["delta"].get("content") or "" for event in events(given) for choice in event.get("choices", ())]
    return "".join(pieces) + "".join(json.dumps(event) for event in events(given) if "error" in event)


def responses(client: httpx.Client, answer: str, *, stream: bool) -> str:
    given = client.post("/v1/responses", json={"model": "chat", "input": f"[say={answer}]", "stream": stream})
    if not stream:
        return given.text
    pieces = [event["delta"] for event in events(given) if event.get("type") == "response.output_text.delta"]
    return "".join(pieces) + "".join(json.dumps(event) for event in events(given) if "delta" not in event)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("route", [chat, responses])
def test_another_tenants_canary_stops_an_answer(
    served: tuple[Proxy, bool], name: str, answer: str, route: Any, stream: bool
) -> None:
    proxy, guarded = served
    mark = PLANTER.sightings(answer)[0].canary
    with proxy.client(name) as owner, proxy.client(f"{name}x") as other:
        own, stolen = route(owner, answer, stream=stream), route(other, answer, stream=stream)
    assert FILLER.strip() in own, "the owner gets its answer"
    if not guarded:
        assert mark in own and mark in stolen
        return
    assert mark not in own and "isolation_breach" not in own
    assert mark not in stolen and "canary that isn't this tenant's" in stolen
    assert name not in stolen.replace(f"{name}x", ""), "nor whose it was"
    assert stream or "isolation_breach" in stolen
    rows = proxy.settled(1, f"{name}x")
    assert [row.completion_tokens > 0 for row in rows] == [True], "it is paid for"
    assert "isolation incident in answer" in proxy.log() and mark not in proxy.log()


def test_what_was_stopped_is_not_served_from_the_cache(served: tuple[Proxy, bool], name: str, answer: str) -> None:
    proxy, guarded = served
    with proxy.client(f"{name}x") as other:
        given = [chat(other, answer, stream=False) for _ in range(3)]
    mark = PLANTER.sightings(answer)[0].canary
    assert [mark in one for one in given] == [not guarded] * 3


def test_an_ordinary_stream_comes_through_unchanged(served: tuple[Proxy, bool], name: str) -> None:
    with served[0].client(name) as client:
        assert chat(client, FILLER, stream=True) == FILLER
        assert json.loads(chat(client, FILLER, stream=False))["choices"][0]["message"]["content"] == FILLER
