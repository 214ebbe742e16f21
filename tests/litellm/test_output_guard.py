"""Answers on their way out of LiteLLM: another tenant's canary stops them, one's own are taken out, ids are flagged."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from typing import Any

import litellm
import pytest
from litellm import Router
from litellm.caching.caching import Cache
from litellm.types.utils import Delta, ModelResponse, ModelResponseStream, StreamingChoices

from tenant_middleware import ConfigurationError, IsolationBreach, Tenancy, scope
from tenant_middleware.guardrails import AnswerGuard, CanaryGuard, Incident, Registry
from tenant_middleware.litellm import TenantCallback, TenantRouter
from tenant_middleware.litellm.output import GuardedStream, OutputGuard
from tests.litellm.conftest import ACME, GLOBEX, POLICY
from tests.litellm.upstream import Upstream

pytestmark = pytest.mark.guardrail

KEY = "a key of at least sixteen bytes"
FILLER = "Our price list is due in May. " * 40
Deployments = Callable[..., list[dict[str, Any]]]
# Planted where documents are ingested, by a process that shares nothing but the key.
PLANTER = CanaryGuard(KEY.encode())


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def guarded(told: list[Any]) -> Iterator[Tenancy]:
    values = POLICY | {"secrets": {"canary_key": KEY}, "answers": {"foreign_ids": True}}
    with Tenancy.from_mapping(values) as made:
        made.canaries = CanaryGuard(KEY.encode(), on_incident=told.append)
        made.answers = AnswerGuard(Registry(["acme", "globex"]), on_flag=lambda who, v: told.append((who.id, v.rules)))
        yield made


def test_the_policy_file_turns_it_on(tenancy: Tenancy) -> None:
    assert tenancy.canaries is None and tenancy.answers is None
    with Tenancy.from_mapping(POLICY | {"secrets": {"canary_key": KEY}, "answers": {"foreign_ids": True}}) as made:
        assert made.canaries is not None and made.canaries.scan(PLANTER.mint(GLOBEX), ACME).blocked
        assert made.answers is not None and made.answers.check("ask globex", ACME).flagged


def asking(answer: str, nonce: str = "hi") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"[say={answer}]{nonce}"}]


async def whole(router: Router, answer: str) -> str:
    said = await router.acompletion("chat", asking(answer))
    return str(said.choices[0].message.content)


async def streamed(router: Router, answer: str, shown: list[str] | None = None) -> str:
    shown = [] if shown is None else shown
    async for chunk in await router.acompletion("chat", asking(answer), stream=True):
        shown.append(chunk.choices[0].delta.content or "" if chunk.choices else "")
    return "".join(shown)


async def responded(router: Router, answer: str) -> str:
    response = await router.aresponses(model="chat", input=f"[say={answer}]")
    return str(response.output[0].content[0].text)


async def responded_in_a_stream(router: Router, answer: str, shown: list[str] | None = None) -> str:
    shown = [] if shown is None else shown
    async for event in await router.aresponses(model="chat", input=f"[say={answer}]", stream=True):
        if event.type == "response.output_text.delta":
            shown.append(event.delta)
        elif event.type == "response.completed":
            assert event.response.output[0].content[0].text == "".join(shown), "the whole repeats the pieces"
    return "".join(shown)


def base64ed(text: str) -> str:
    return base64.b64encode(text.encode()).decode().rstrip("=")


WAYS = [whole, streamed, responded, responded_in_a_stream]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "dressed", [str, lambda c: base64.b64encode(c.encode()).decode().rstrip("=")], ids=["plain", "base64"]
)
async def test_another_tenants_canary_stops_an_answer(
    guarded: Tenancy, told: list[Any], deployments: Deployments, way: Any, dressed: Callable[[str], str]
) -> None:
    router = TenantRouter(guarded, model_list=deployments("chat"))
    answer = f"{FILLER}{dressed(PLANTER.mint(GLOBEX))} {FILLER}"
    with scope(GLOBEX):
        assert (await way(router, answer)).split() == (FILLER + FILLER).split(), "its own answer, without the mark"
    assert told == []
    shown: list[str] = []
    with scope(ACME), pytest.raises(IsolationBreach) as stopped:
        await (way(router, answer, shown) if "stream" in way.__name__ else way(router, answer))
    assert FILLER.startswith("".join(shown)), "nothing of the canary, nor after it, was shown"
    assert "globex" not in str(stopped.value)
    (incident,) = told
    assert isinstance(incident, Incident) and incident.tenant_id == "acme" and incident.kind == "leak"
    assert PLANTER.is_of(incident.canary, "globex")


@pytest.mark.parametrize("way", WAYS)
async def test_without_the_guard_the_same_answer_gets_through(
    tenancy: Tenancy, deployments: Deployments, way: Any
) -> None:
    """The control: what the tests above see stopped is stopped by the guard alone."""
    router = TenantRouter(tenancy, model_list=deployments("chat"))
    canary = PLANTER.mint(GLOBEX)
    with scope(ACME):
        assert canary in await way(router, FILLER + canary)


@pytest.mark.parametrize("way", [streamed, responded_in_a_stream])
async def test_an_ordinary_stream_comes_through_unchanged_and_is_billed(
    guarded: Tenancy, told: list[Any], deployments: Deployments, way: Any
) -> None:
    router = TenantRouter(guarded, model_list=deployments("chat"))
    with scope(ACME):
        assert await way(router, FILLER) == FILLER
    (row,) = guarded.ledger.rows(tenant_id="acme")
    assert row.status == "ok" and row.completion_tokens > 0 and told == []


async def test_a_stopped_answer_is_paid_for(guarded: Tenancy, deployments: Deployments) -> None:
    router = TenantRouter(guarded, model_list=deployments("chat"))
    for way in (whole, streamed):
        with scope(ACME), pytest.raises(IsolationBreach):
            await way(router, FILLER + PLANTER.mint(GLOBEX))
    rows = guarded.ledger.rows(tenant_id="acme")
    assert len(rows) == 2 and all(row.completion_tokens > 0 for row in rows)


@pytest.mark.parametrize("way", WAYS)
async def test_another_tenants_id_is_flagged_once_and_goes_on(
    guarded: Tenancy, told: list[Any], deployments: Deployments, way: Any
) -> None:
    router = TenantRouter(guarded, model_list=deployments("chat"))
    with scope(ACME):
        assert await way(router, "The rate of globex is 40 euros.") == "The rate of globex is 40 euros."
    with scope(GLOBEX):
        await way(router, "The rate of globex is 40 euros.")
    assert told == [("acme", ("foreign-identifier",))]


async def test_a_stopped_answer_leaves_the_cache(
    guarded: Tenancy, told: list[Any], deployments: Deployments, upstream: Upstream
) -> None:
    """Also one that was stored before anybody looked for canaries."""
    litellm.cache = Cache(type="local")
    guarded.seal()
    answer = f"Sure: {PLANTER.mint(GLOBEX)}"
    canaries, guarded.canaries = guarded.canaries, None
    router = TenantRouter(guarded, model_list=deployments("chat"), cache_responses=True)

    async def ask(router: Router) -> str:
        try:
            return await whole(router, answer)
        finally:
            for _ in range(20):  # LiteLLM stores in a task
                await asyncio.sleep(0)

    with scope(ACME):
        assert await ask(router) == await ask(router) == answer
        assert len(upstream.books()["seen"]) == 1, "the second came from the cache"
        guarded.canaries = canaries
        watching = TenantRouter(guarded, model_list=deployments("chat"), cache_responses=True)
        for calls in (1, 2, 3):  # the hit, and twice the model: what is stopped isn't stored again
            with pytest.raises(IsolationBreach):
                await ask(watching)
            assert len(upstream.books()["seen"]) == calls
    assert told[0].cache_entry is not None


async def test_a_callback_withholds_what_it_cannot_raise(
    guarded: Tenancy, told: list[Any], deployments: Deployments
) -> None:
    litellm.callbacks = [TenantCallback(guarded)]
    router = Router(model_list=deployments("chat"))
    answer = f"Sure: {PLANTER.mint(GLOBEX)} there."
    with scope(GLOBEX):
        assert (await whole(router, answer)).split() == ["Sure:", "there."]
    with scope(ACME):
        said = await router.acompletion("chat", asking(answer))
        assert (said.choices[0].message.content, said.choices[0].finish_reason) == ("", "content_filter")
        response = await router.aresponses(model="chat", input=f"[say={answer}]")
        assert (response.output[0].content[0].text, response.status) == ("", "incomplete")
        with pytest.raises(ConfigurationError, match="TenantRouter"):
            await router.acompletion("chat", asking(answer), stream=True)
    assert [incident.kind for incident in told] == ["leak", "leak"]


def chunk(index: int = 0, *, finish: str | None = None, **delta: Any) -> ModelResponseStream:
    return ModelResponseStream(
        choices=[StreamingChoices(index=index, finish_reason=finish, delta=Delta(**delta))], model="m", id="c"
    )


def through(stream: GuardedStream, chunks: list[ModelResponseStream]) -> list[ModelResponseStream]:
    return [ready for one in chunks for ready in stream.push(one)] + stream.close()


def pieces(text: str, field: str, index: int = 0) -> list[ModelResponseStream]:
    return [chunk(index, **{field: text[at : at + 7]}) for at in range(0, len(text), 7)]


def call(arguments: str, name: str | None = None) -> dict[str, Any]:
    return {"index": 0, "id": name and "call-1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_reasoning_is_not_held_back_by_the_answer_that_follows() -> None:
    """Each text of a choice has its own scanner, which ends where the next begins."""
    stream = GuardedStream(OutputGuard(PLANTER, None), ACME, None)
    chunks = [*pieces(FILLER, "reasoning_content"), *pieces(FILLER, "content")]
    given = [ready for one in chunks for ready in stream.push(one)]
    assert "".join(getattr(one.choices[0].delta, "reasoning_content", None) or "" for one in given) == FILLER
    assert any(one.choices[0].delta.content for one in given), "the answer flows while it is written"


def test_choices_and_tool_calls_keep_their_order_and_their_objects() -> None:
    chunks = [
        chunk(role="assistant", content=""),
        *[one for pair in zip(pieces(FILLER, "content"), pieces(FILLER, "content", 1), strict=True) for one in pair],
        chunk(1, finish="stop"),
        chunk(tool_calls=[call("", "look_up")]),
        *[chunk(tool_calls=[call(FILLER[at : at + 9])]) for at in range(0, len(FILLER), 9)],
        chunk(finish="tool_calls"),
    ]
    given = through(GuardedStream(OutputGuard(PLANTER, None), ACME, None), chunks)
    assert all(one is other for one, other in zip(given, chunks, strict=True)), "clean chunks go out as they came"


@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal"])
def test_every_text_of_a_choice_is_looked_at(field: str) -> None:
    guard = OutputGuard(PLANTER, None)
    canary = PLANTER.mint(GLOBEX)
    with pytest.raises(IsolationBreach):
        through(GuardedStream(guard, ACME, None), pieces(FILLER + canary, field))
    given = through(GuardedStream(guard, GLOBEX, None), [*pieces(f"ab {canary} cd", field), chunk(finish="stop")])
    text = "".join(getattr(one.choices[0].delta, field, None) or "" for one in given)
    assert text == "ab  cd" and given[-1].choices[0].finish_reason == "stop"
    message = {"role": "assistant", "content": "x", field: canary}
    with pytest.raises(IsolationBreach):
        guard.whole(ModelResponse(choices=[{"index": 0, "message": message}]), ACME, None)


def test_tool_arguments_and_the_second_choice_are_looked_at() -> None:
    canary = PLANTER.mint(GLOBEX)
    torn = [chunk(tool_calls=[call(canary[at : at + 6])]) for at in range(0, len(canary), 6)]
    with pytest.raises(IsolationBreach):
        through(GuardedStream(OutputGuard(PLANTER, None), ACME, None), torn)
    with pytest.raises(IsolationBreach):
        through(GuardedStream(OutputGuard(PLANTER, None), ACME, None), pieces(canary, "content", 1))
    choices = [
        {"index": 0, "message": {"role": "assistant", "content": "x"}},
        {"index": 1, "message": {"role": "assistant", "content": None, "tool_calls": [call(canary, "look_up")]}},
    ]
    with pytest.raises(IsolationBreach):
        OutputGuard(PLANTER, None).whole(ModelResponse(choices=choices), ACME, None)


def test_the_tokens_of_what_was_taken_out_go_too() -> None:
    """LiteLLM's own object, which it caches and logs, stays as it was."""
    canary = PLANTER.mint(ACME)
    answer = ModelResponse(
        choices=[{"index": 0, "message": {"role": "assistant", "content": canary}, "logprobs": {"content": []}}]
    )
    cleaned = OutputGuard(PLANTER, None).whole(answer, ACME, None)
    assert cleaned.choices[0].message.content == "" and cleaned.choices[0].logprobs is None
    assert answer.choices[0].message.content == canary
