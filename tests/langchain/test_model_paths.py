"""Every way LangChain calls a chat model goes through the gate, for the tenant of the call, once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.errors import GraphBubbleUp
from pydantic import BaseModel

from tenant_middleware import (
    ConfigurationError,
    InvalidInput,
    MissingTenant,
    ModelForbidden,
    Tenancy,
    Tenant,
    TenantMismatch,
    scope,
)
from tenant_middleware.admission.call import Call
from tenant_middleware.langchain import TenantChatModel
from tenant_middleware.langchain.usage import usage_of
from tenant_middleware.local import echo_chat_model, scripted_tool_model
from tenant_middleware.metering.usage import Media, Usage


@pytest.fixture
def model(tenancy: Tenancy) -> TenantChatModel:
    return TenantChatModel(model=echo_chat_model(), model_name="openai/local", gate=tenancy.gate)


def calls(tenancy: Tenancy) -> dict[str, int]:
    return {tenant: total.calls for tenant, total in tenancy.ledger.totals(by="tenant").items()}


async def collect(stream: Any) -> list[Any]:
    return [step async for step in stream]


SYNC = {
    "invoke": lambda m: m.invoke("one two three").content,
    "batch": lambda m: m.batch(["one two three"])[0].content,
    "stream": lambda m: "".join(c.content for c in m.stream("one two three")),
    "chain": lambda m: (RunnableLambda(lambda text: text) | m).invoke("one two three").content,
    "chain stream": lambda m: "".join(
        c.content for c in (RunnableLambda(lambda text: text) | m).stream("one two three")
    ),
    "generate": lambda m: m.generate_prompt([m._convert_input("one two three")]).generations[0][0].text,
    "stream events": lambda m: m.stream_events("one two three", version="v3").output.text,
}
ASYNC = {
    "ainvoke": lambda m: m.ainvoke("one two three"),
    "abatch": lambda m: m.abatch(["one two three"]),
    "astream": lambda m: collect(m.astream("one two three")),
    "astream_events": lambda m: collect(m.astream_events("one two three", version="v2")),
}


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
@pytest.mark.parametrize("path", SYNC)
def test_a_sync_path_books_one_call_for_its_tenant(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant, path: str
) -> None:
    with pytest.raises(MissingTenant):
        SYNC[path](model)
    for tenant in (acme, globex):
        with scope(tenant):
            assert SYNC[path](model) == "one two three"
    assert calls(tenancy) == {"acme": 1, "globex": 1}
    assert all(row.source == "provider" and row.cost_nano > 0 for row in tenancy.ledger.rows())


@pytest.mark.parametrize("path", ASYNC)
async def test_an_async_path_books_one_call_for_its_tenant(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant, path: str
) -> None:
    with pytest.raises(MissingTenant):
        await ASYNC[path](model)
    for tenant in (acme, globex):
        with scope(tenant):
            assert await ASYNC[path](model)
    assert calls(tenancy) == {"acme": 1, "globex": 1}


def test_a_stream_made_by_one_tenant_never_runs_for_another(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant
) -> None:
    with scope(acme):
        fresh, begun = model.stream("one two"), model.stream("one two")
        next(begun)
    for stream in (fresh, begun):
        with scope(globex), pytest.raises(TenantMismatch) as caught:
            next(stream)
        assert isinstance(caught.value, GraphBubbleUp)
    assert calls(tenancy) == {"acme": 1}


LATE = {
    "ainvoke": lambda m: m.ainvoke("one two"),
    "abatch": lambda m: m.abatch(["one two"]),
    "agenerate": lambda m: m.agenerate([m._convert_input("one two").to_messages()]),
    "agenerate_prompt": lambda m: m.agenerate_prompt([m._convert_input("one two")]),
}


@pytest.mark.parametrize("path", LATE)
async def test_a_call_awaited_by_another_tenant_is_refused_and_billed_to_nobody(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant, path: str
) -> None:
    with scope(acme):
        made = LATE[path](model)
    with scope(globex), pytest.raises(TenantMismatch) as caught:
        await made
    assert isinstance(caught.value, GraphBubbleUp)
    assert calls(tenancy) == {}
    with scope(acme):
        assert await LATE[path](model)
    assert calls(tenancy) == {"acme": 1}


async def test_a_call_awaited_outside_any_scope_still_runs_for_its_tenant(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant
) -> None:
    with scope(acme):
        made = model.ainvoke("one two")
    assert (await made).content == "one two"
    assert calls(tenancy) == {"acme": 1}


async def test_an_unwrapped_call_runs_for_whoever_awaits_it(acme: Tenant, globex: Tenant) -> None:
    """The mutation control of the late calls."""
    from tenant_middleware import current_tenant

    seen: list[str] = []

    class Bare(type(echo_chat_model())):  # type: ignore[misc]  # the class of a model made by a function
        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            seen.append(current_tenant().id)
            return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    with scope(acme):
        made = Bare().ainvoke("one two")
    with scope(globex):
        await made
    assert seen == ["globex"]


def test_an_unwrapped_stream_does_change_its_tenant(acme: Tenant, globex: Tenant) -> None:
    """The mutation control: without the pin the same schedule runs for whoever steps it."""
    from tenant_middleware import current_tenant

    seen: list[str] = []

    class Bare(type(echo_chat_model())):  # type: ignore[misc]  # the class of a model made by a function
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            seen.append(current_tenant().id)
            yield ChatGenerationChunk(message=AIMessageChunk("x"))

    with scope(acme):
        stream = Bare().stream("one two")
    with scope(globex):
        next(stream)
    assert seen == ["globex"]


async def test_a_stream_read_outside_any_scope_still_runs_for_its_tenant(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant
) -> None:
    with scope(acme):
        stream = model.astream("one two three")
    assert "".join([c.content for c in await collect(stream)]) == "one two three"
    assert calls(tenancy) == {"acme": 1}


async def test_an_abandoned_stream_is_settled(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant
) -> None:
    with scope(acme):
        stream = model.astream("one two three four")
        await anext(stream)
    with scope(globex):
        del stream
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
    [row] = tenancy.ledger.rows()
    assert (row.tenant_id, row.status) == ("acme", "cancelled")
    assert 1 <= row.completion_tokens <= 2


async def test_concurrent_tenants_keep_their_own(tenancy: Tenancy, model: TenantChatModel) -> None:
    async def one(name: str) -> str:
        with scope(Tenant(name, "enterprise")):
            pieces = [str(chunk.content) async for chunk in model.astream(f"{name} asks")]
        return "".join(pieces)

    names = ["acme", "globex", "Acme", "acme2"] * 5
    assert await asyncio.gather(*map(one, names)) == [f"{name} asks" for name in names]
    assert calls(tenancy) == {"acme": 5, "globex": 5, "Acme": 5, "acme2": 5}


def test_the_cap_of_the_tier_reaches_the_model(tenancy: Tenancy, model: TenantChatModel, acme: Tenant) -> None:
    with scope(acme):
        assert len(str(model.invoke("word " * 500).content).split()) == 64
        assert len(str(model.invoke("word " * 500, max_tokens=100_000).content).split()) == 64
        assert len(str(model.bind(max_tokens=5).invoke("word " * 500).content).split()) == 5


@pytest.mark.parametrize("name", ["model", "n", "model_name"])
def test_a_caller_cannot_name_another_model(model: TenantChatModel, acme: Tenant, name: str) -> None:
    with scope(acme), pytest.raises(InvalidInput, match=name):
        model.invoke("hello", **{name: "gpt-9"})


def test_a_forbidden_model_is_never_called(tenancy: Tenancy, acme: Tenant) -> None:
    called: list[Any] = []

    class Loud(type(echo_chat_model())):  # type: ignore[misc]  # the class of a model made by a function
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            called.append(args)
            return super()._generate(*args, **kwargs)

    model = TenantChatModel(model=Loud(), model_name="ft:other", gate=tenancy.gate)
    with scope(acme), pytest.raises(ModelForbidden) as caught:
        model.invoke("hello")
    assert isinstance(caught.value, GraphBubbleUp) and not called


def test_a_global_cache_never_crosses_tenants_and_hits_cost_nothing(
    tenancy: Tenancy, model: TenantChatModel, acme: Tenant, globex: Tenant
) -> None:
    set_llm_cache(InMemoryCache())
    try:
        for tenant in (acme, acme, globex):
            with scope(tenant):
                model.invoke("one two")
        with pytest.raises(MissingTenant):
            model.invoke("one two")
    finally:
        set_llm_cache(None)
    totals = tenancy.ledger.totals(by="tenant")
    assert (totals["acme"].calls, totals["acme"].cache_hits) == (1, 1)
    assert (totals["globex"].calls, totals["globex"].cache_hits) == (1, 0)


def test_bound_tools_stay_behind_the_gate(tenancy: Tenancy, acme: Tenant) -> None:
    @tool
    def invoices() -> str:
        """Open invoices."""
        return "none"

    model = TenantChatModel(model=scripted_tool_model(), model_name="openai/local", gate=tenancy.gate)
    with scope(acme):
        answer = model.bind_tools([invoices]).invoke("Which invoices are open?")
    assert isinstance(answer, AIMessage) and answer.tool_calls[0]["name"] == "invoices"
    assert calls(tenancy) == {"acme": 1}


def test_structured_output_stays_behind_the_gate(tenancy: Tenancy, acme: Tenant) -> None:
    class Answer(BaseModel):
        """An answer."""

        text: str = "none"

    model = TenantChatModel(model=scripted_tool_model(), model_name="openai/local", gate=tenancy.gate)
    with scope(acme):
        answer = model.with_structured_output(Answer).invoke("hello")
    assert isinstance(answer, Answer)
    assert calls(tenancy) == {"acme": 1}


def test_a_binding_is_not_a_model(tenancy: Tenancy) -> None:
    with pytest.raises(ConfigurationError, match="bind"):
        TenantChatModel(model=echo_chat_model().bind(stop=["x"]), model_name="openai/local", gate=tenancy.gate)  # type: ignore[arg-type]  # the mistake under test


def test_a_provider_that_reports_nothing_is_booked_as_estimated(tenancy: Tenancy, acme: Tenant) -> None:
    class Silent(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "silent"

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage("some words here"))])

        def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            for word in ("some", " words", " here"):
                yield ChatGenerationChunk(message=AIMessageChunk(word))

    model = TenantChatModel(model=Silent(), model_name="openai/local", gate=tenancy.gate)
    with scope(acme):
        model.invoke("hello")
        list(model.stream("hello"))
    streamed, whole = sorted(tenancy.ledger.rows(), key=lambda row: row.completion_tokens)
    assert (whole.source, whole.completion_tokens) == ("estimated", 64)
    assert (streamed.source, streamed.completion_tokens) == ("estimated", 4)


class _Provider(BaseChatModel):
    """Streams words and says what it used before the first and after the last; breaks off before word `fails_at`."""

    fails_at: int = 99
    told: list[dict[str, int]] = []
    service_tier: str | None = None

    @property
    def _llm_type(self) -> str:
        return "provider"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        answer = AIMessage("words", usage_metadata=self.told[0], response_metadata={"service_tier": "flex"})
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        told = [ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=one)) for one in self.told]
        yield from told[:1]
        for i in range(8):
            if i == self.fails_at:
                raise ConnectionError("broken off")
            yield ChatGenerationChunk(message=AIMessageChunk("word "))
        yield from told[1:]


def _tokens(prompt: int, output: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": output, "total_tokens": prompt + output}


def test_a_provider_that_fails_before_it_sends_anything_is_paid_nothing(tenancy: Tenancy, acme: Tenant) -> None:
    model = TenantChatModel(model=_Provider(fails_at=0), model_name="openai/local", gate=tenancy.gate)
    with scope(acme), pytest.raises(ConnectionError):
        list(model.stream("hello"))
    assert tenancy.ledger.rows() == [] and tenancy.balance(acme).reserved_nano == 0


def test_a_stream_that_breaks_off_pays_for_the_words_after_the_last_count(tenancy: Tenancy, acme: Tenant) -> None:
    """Anthropic tells the prompt and one token of output as it begins."""
    told = [_tokens(30, 1), _tokens(0, 8)]
    model = TenantChatModel(model=_Provider(told=told), model_name="openai/local", gate=tenancy.gate)
    with scope(acme):
        stream = model.stream("hello")
        for _ in range(6):
            next(stream)
        stream.close()
        list(model.stream("hello"))
    broken, whole = sorted(tenancy.ledger.rows(), key=lambda row: row.completion_tokens)
    assert (broken.status, broken.source, broken.prompt_tokens) == ("cancelled", "estimated", 30)
    assert 5 <= broken.completion_tokens <= 9
    assert (whole.status, whole.source, whole.prompt_tokens, whole.completion_tokens) == ("ok", "provider", 30, 9)


@pytest.mark.parametrize("told", [_tokens(-5, 3), _tokens(5, 10**13)], ids=["negative", "absurd"])
def test_counts_that_can_not_be_are_charged_by_estimate(tenancy: Tenancy, acme: Tenant, told: dict[str, int]) -> None:
    """The answer is paid for: it isn't withheld because its bill makes no sense."""
    model = TenantChatModel(model=_Provider(told=[told]), model_name="openai/local", gate=tenancy.gate)
    with scope(acme):
        assert model.invoke("hello").content == "words"
    (row,) = tenancy.ledger.rows()
    assert (row.source, row.completion_tokens) == ("estimated", 64)
    assert tenancy.balance(acme).reserved_nano == 0


def test_how_a_model_asks_to_be_served_is_reserved_for(tenancy: Tenancy, acme: Tenant) -> None:
    calls: list[Call] = []
    inner = _Provider(told=[_tokens(5, 5)], service_tier="priority")
    model = TenantChatModel(model=inner, model_name="openai/local", gate=tenancy.gate)
    before = tenancy.gate.admit
    with scope(acme), pytest.MonkeyPatch.context() as patched:
        patched.setattr(tenancy.gate, "admit", lambda call: (calls.append(call), before(call))[1])
        model.invoke([HumanMessage([{"type": "text", "text": "hear"}, {"type": "input_audio", "input_audio": {}}])])
        model.invoke("hello", service_tier="flex")
    assert [(call.service_tier, call.media) for call in calls] == [("priority", True), ("flex", False)]


def test_dumps_show_neither_gate_nor_inner_model(model: TenantChatModel) -> None:
    assert set(model.model_dump()) & {"gate", "model"} == set()
    assert "ModelGate" not in repr(model)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({}, Usage(9, 4)),
        ({"cache_read": 5}, Usage(9, 4, 5)),
        ({"cache_creation": 5}, Usage(9, 4, cache_write_tokens=5)),
        (
            {"cache_creation": 0, "ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
            Usage(9, 4, cache_write_tokens=5, cache_write_1h_tokens=3),
        ),
        ({"audio": 2, "image": 3}, Usage(9, 4, prompt_media=Media(2, 3))),
    ],
    ids=["plain", "read", "written", "written by age", "heard and seen"],
)
def test_reads_and_writes_of_a_providers_cache_are_reported(details: dict[str, int], expected: Usage) -> None:
    """Both have prices of their own, so a call's cost depends on them."""
    metadata = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "input_token_details": details}
    answer = AIMessage("words", usage_metadata=metadata)
    assert usage_of(ChatResult(generations=[ChatGeneration(message=answer)])) == expected
    if not details.get("ephemeral_5m_input_tokens"):
        names = {
            "cache_read": "cached_tokens",
            "cache_creation": "cache_creation_tokens",
            "audio": "audio_tokens",
            "image": "image_tokens",
        }
        openai = {"prompt_tokens_details": {names[name]: count for name, count in details.items()}}
        output = {"token_usage": {"prompt_tokens": 9, "completion_tokens": 4} | openai}
        assert usage_of(ChatResult(generations=[], llm_output=output)) == expected
