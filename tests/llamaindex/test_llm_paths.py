"""Every way LlamaIndex asks a model goes through the gate, for the tenant of the call, once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, ImageBlock, TextBlock
from llama_index.core.llms.mock import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, PrivateAttr

from tenant_middleware import (
    ConfigurationError,
    ForeignReference,
    InvalidInput,
    MissingTenant,
    ModelForbidden,
    RateLimited,
    Tenancy,
    Tenant,
    TenantMismatch,
    scope,
)
from tenant_middleware.admission.call import Call
from tenant_middleware.llamaindex import TenantLLM
from tenant_middleware.llamaindex.usage import prompt_tokens, usage_of
from tenant_middleware.metering.usage import Media, Usage
from tests.llamaindex.conftest import VALUES, EchoLLM, calls

ASKED = [ChatMessage("one two three")]
PROMPT: Any = PromptTemplate("one two {number}")


def sayings(text: str) -> str:
    """What a tool would say."""
    return f"{text} three"


TOOL = FunctionTool.from_defaults(sayings)


def text(answer: Any) -> str:
    return answer.message.content if isinstance(answer, ChatResponse) else str(answer.text)


async def last(stream: Any) -> str:
    return text([step async for step in await stream][-1])


SYNC: dict[str, Callable[[TenantLLM], str]] = {
    "chat": lambda m: text(m.chat(ASKED)),
    "complete": lambda m: text(m.complete("one two three")),
    "stream_chat": lambda m: text(list(m.stream_chat(ASKED))[-1]),
    "stream_complete": lambda m: text(list(m.stream_complete("one two three"))[-1]),
    "predict": lambda m: m.predict(PROMPT, number="three"),
    "stream": lambda m: "".join(m.stream(PROMPT, number="three")),
    "predict_and_call": lambda m: str(m.predict_and_call([TOOL], "x", say={"text": "one two"})),
}


async def _astream_tokens(m: TenantLLM) -> str:
    return "".join([token async for token in await m.astream(PROMPT, number="three")])


async def _atext(answer: Any) -> str:
    return text(await answer)


async def _called(m: TenantLLM) -> str:
    return str(await m.apredict_and_call([TOOL], "x", say={"text": "one two"}))


ASYNC: dict[str, Callable[[TenantLLM], Any]] = {
    "achat": lambda m: _atext(m.achat(ASKED)),
    "acomplete": lambda m: _atext(m.acomplete("one two three")),
    "astream_chat": lambda m: last(m.astream_chat(ASKED)),
    "astream_complete": lambda m: last(m.astream_complete("one two three")),
    "apredict": lambda m: m.apredict(PROMPT, number="three"),
    "astream": _astream_tokens,
    "apredict_and_call": _called,
}


@pytest.mark.parametrize("path", SYNC)
def test_a_sync_path_books_one_call_for_its_tenant(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant, path: str
) -> None:
    with pytest.raises(MissingTenant):
        SYNC[path](llm)
    for tenant in (acme, globex):
        with scope(tenant):
            assert SYNC[path](llm) == "one two three"
    assert calls(tenancy) == {"acme": 1, "globex": 1}
    assert all(row.source == "provider" and row.cost_nano > 0 for row in tenancy.ledger.rows())


@pytest.mark.parametrize("path", ASYNC)
async def test_an_async_path_books_one_call_for_its_tenant(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant, path: str
) -> None:
    with pytest.raises(MissingTenant):
        await ASYNC[path](llm)
    for tenant in (acme, globex):
        async with scope(tenant):
            assert await ASYNC[path](llm) == "one two three"
    assert calls(tenancy) == {"acme": 1, "globex": 1}
    assert all(row.source == "provider" and row.cost_nano > 0 for row in tenancy.ledger.rows())


class Said(BaseModel):
    """Structured output that the model fills in."""

    text: str


def test_structured_output_goes_through_the_gate(tenancy: Tenancy, llm: TenantLLM, acme: Tenant) -> None:
    with scope(acme):
        said = llm.structured_predict(Said, PROMPT, llm_kwargs={"say": {"text": "one"}}, number="three")
    assert said == Said(text="one")
    assert calls(tenancy) == {"acme": 1}


def test_the_output_cap_is_the_gates_and_the_callers_wish_is_one_bound(
    llm: TenantLLM, echo: EchoLLM, acme: Tenant
) -> None:
    with scope(acme):
        llm.chat(ASKED)
        llm.chat(ASKED, max_tokens=2)
        llm.chat(ASKED, max_completion_tokens=1, max_tokens=9_999)
    assert [options["max_tokens"] for _, options in echo.asked] == [64, 2, 1]
    assert all("max_completion_tokens" not in options for _, options in echo.asked)


@pytest.mark.parametrize("name", ["model", "model_name", "n"])
def test_a_caller_cannot_change_what_is_entitled_and_priced(llm: TenantLLM, acme: Tenant, name: str) -> None:
    with scope(acme), pytest.raises(InvalidInput, match=name):
        llm.chat(ASKED, **{name: "gpt-5"})


def test_an_unentitled_model_is_refused_before_it_is_asked(tenancy: Tenancy, echo: EchoLLM, acme: Tenant) -> None:
    llm = TenantLLM(echo, model_name="gpt-5", gate=tenancy.gate)
    with scope(acme):
        with pytest.raises(ModelForbidden):
            llm.chat(ASKED)
        with pytest.raises(ModelForbidden):
            next(llm.stream_chat(ASKED))
    assert echo.asked == [] and calls(tenancy) == {}


def test_one_tenants_limit_leaves_the_other_alone(echo: EchoLLM, acme: Tenant, globex: Tenant) -> None:
    tier = VALUES["tiers"]["enterprise"] | {"rpm": 2, "burst": 1.0}
    with Tenancy.from_mapping(VALUES | {"tiers": {"enterprise": tier}}) as tenancy:
        llm = TenantLLM(echo, model_name="openai/local", gate=tenancy.gate)
        with scope(acme):
            llm.chat(ASKED)
            list(llm.stream_chat(ASKED))
            with pytest.raises(RateLimited):
                llm.chat(ASKED)
        with scope(globex):
            assert text(llm.chat(ASKED)) == "one two three"


def test_a_stream_keeps_its_tenant_and_is_refused_inside_anothers_scope(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant
) -> None:
    with scope(acme):
        mine, other = llm.stream_chat(ASKED), llm.stream_chat(ASKED)
    assert [step.delta for step in mine] == ["one", " two", " three"]
    with scope(globex), pytest.raises(TenantMismatch):
        next(other)
    assert calls(tenancy) == {"acme": 1}


def test_a_stream_taken_over_halfway_is_refused_and_settled_for_its_own_tenant(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant
) -> None:
    with scope(acme):
        stream = llm.stream_chat(ASKED)
        next(stream)
    with scope(globex), pytest.raises(TenantMismatch):
        next(stream)
    (row,) = tenancy.ledger.rows()
    assert (row.tenant_id, row.status, row.completion_tokens) == ("acme", "cancelled", 1)


async def test_coroutines_and_async_streams_keep_their_tenant(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant
) -> None:
    with scope(acme):
        answer, opening, foreign = llm.achat(ASKED), llm.astream_chat(ASKED), llm.achat(ASKED)
    assert text(await answer) == "one two three"
    stream = await opening
    await anext(stream)
    with scope(globex):
        with pytest.raises(TenantMismatch):
            await foreign
        with pytest.raises(TenantMismatch):
            await anext(stream)
    assert calls(tenancy) == {"acme": 2}


async def test_concurrent_tenants_are_booked_apart(
    tenancy: Tenancy, llm: TenantLLM, acme: Tenant, globex: Tenant
) -> None:
    async def ask(tenant: Tenant) -> str:
        async with scope(tenant):
            return await last(llm.astream_chat([ChatMessage(f"canary of {tenant.id}")]))

    said = await asyncio.gather(*(ask(tenant) for tenant in (acme, globex) * 20))
    assert said == ["canary of acme", "canary of globex"] * 20
    assert calls(tenancy) == {"acme": 20, "globex": 20}


def test_an_abandoned_stream_is_settled_with_what_was_said(tenancy: Tenancy, llm: TenantLLM, acme: Tenant) -> None:
    with scope(acme):
        stream = llm.stream_complete("one two three")
        next(stream)
    del stream
    gc.collect()
    (row,) = tenancy.ledger.rows()
    assert (row.status, row.completion_tokens, row.source) == ("cancelled", 1, "estimated")


class Hanging(EchoLLM):
    """Says when it was reached, and never answers."""

    _reached: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        self._reached.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def test_a_cancelled_call_is_settled(tenancy: Tenancy, acme: Tenant) -> None:
    hanging = Hanging()
    llm = TenantLLM(hanging, model_name="openai/local", gate=tenancy.gate)
    async with scope(acme):
        task = asyncio.ensure_future(llm.achat(ASKED))
        await hanging._reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (row,) = tenancy.ledger.rows()
    assert row.status == "cancelled"


@pytest.mark.parametrize(("said", "booked"), [(0, 0), (2, 1)])
def test_a_provider_that_fails_is_paid_for_what_it_sent(
    tenancy: Tenancy, llm: TenantLLM, echo: EchoLLM, acme: Tenant, said: int, booked: int
) -> None:
    echo.fails_after = said
    with scope(acme), pytest.raises(ConnectionError):
        list(llm.stream_chat(ASKED))
    assert len(list(tenancy.ledger.rows())) == booked
    with scope(acme):
        echo.fails_after = None
        assert text(llm.chat(ASKED)) == "one two three"


def test_prompts_are_the_inner_models(tenancy: Tenancy, acme: Tenant) -> None:
    inner = EchoLLM(asked=[], system_prompt="Be brief.")
    llm = TenantLLM(inner, model_name="openai/local", gate=tenancy.gate)
    with scope(acme):
        llm.predict(PROMPT, number="three")
    (messages, _), *_ = inner.asked
    assert messages[0].content == "Be brief."


def test_a_model_that_cannot_call_functions_says_so(tenancy: Tenancy, acme: Tenant) -> None:
    llm = TenantLLM(MockLLM(), model_name="openai/local", gate=tenancy.gate)
    assert not llm.metadata.is_function_calling_model
    with scope(acme):
        assert text(llm.chat(ASKED))
        with pytest.raises(ConfigurationError, match="ReActAgent"):
            llm.chat_with_tools([TOOL], "hello")


class Several(EchoLLM):
    """As OpenAI's with `additional_kwargs`, which it sends with each request."""

    additional_kwargs: dict[str, Any] = {"n": 4, "service_tier": "flex"}
    _caps: list[Any] = PrivateAttr(default_factory=list)

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        self._caps.append(kwargs["max_tokens"])
        return super().chat(messages, **kwargs)


def test_what_a_model_always_asks_for_is_reserved_for(tenancy: Tenancy, acme: Tenant) -> None:
    """Several answers at once share the cap; media and ways of serving have prices of their own."""
    admitted: list[Call] = []
    inner = Several()
    llm = TenantLLM(inner, model_name="openai/local", gate=tenancy.gate)
    admit = tenancy.gate.admit
    with scope(acme), pytest.MonkeyPatch.context() as patched:
        patched.setattr(tenancy.gate, "admit", lambda call: (admitted.append(call), admit(call))[1])
        llm.chat(ASKED)
        llm.chat([ChatMessage(blocks=[TextBlock(text="see"), ImageBlock(url="http://127.0.0.1/x.png")])])
    assert [(call.n, call.service_tier, call.media) for call in admitted] == [(4, "flex", False), (4, "flex", True)]
    assert inner._caps == [64, 64]


class Tracking(EchoLLM):
    """As OpenAIResponses: the object remembers its last response."""

    track_previous_responses: bool = True


def test_what_tenants_would_share_in_the_model_object_is_refused(tenancy: Tenancy, llm: TenantLLM) -> None:
    for inner, why in ((Tracking(), "whoever called last"), (llm, "already"), ("gpt-5", "expected a LlamaIndex LLM")):
        with pytest.raises(ConfigurationError, match=why):
            TenantLLM(inner, model_name="openai/local", gate=tenancy.gate)  # type: ignore[arg-type]


def test_a_response_id_is_continued_by_the_tenant_it_was_given_to_alone(
    tenancy: Tenancy, acme: Tenant, globex: Tenant
) -> None:
    class Responses(EchoLLM):
        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            answer = super().chat(messages, **kwargs)
            return answer.model_copy(update={"raw": answer.raw | {"id": "resp_acme_1"}})

    inner = Responses(asked=[])
    llm = TenantLLM(inner, model_name="openai/local", gate=tenancy.gate, prefix_salt="prompt_cache_key")
    with scope(acme):
        llm.chat(ASKED)
        llm.chat(ASKED, previous_response_id="resp_acme_1", user="ann")
    with scope(globex), pytest.raises(ForeignReference):
        llm.chat(ASKED, previous_response_id="resp_acme_1")
    (_, first), (_, second) = inner.asked
    assert second["previous_response_id"] == "resp_acme_1"
    assert second["user"] != "ann" and first["prompt_cache_key"] == second["prompt_cache_key"]


@pytest.mark.parametrize(
    ("raw", "more", "expected"),
    [
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 4}}, {}, Usage(9, 4)),
        (
            {"usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}},
            {},
            Usage(9, 4, 5),
        ),
        ({"usage": {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 5}}, {}, Usage(14, 4, 5)),
        (
            {"usage": {"input_tokens": 9, "output_tokens": 4, "cache_creation_input_tokens": 5}},
            {},
            Usage(14, 4, cache_write_tokens=5),
        ),
        (
            {
                "usage": {
                    "input_tokens": 9,
                    "output_tokens": 4,
                    "cache_creation_input_tokens": 5,
                    "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
                    "service_tier": "priority",
                }
            },
            {},
            Usage(14, 4, cache_write_tokens=5, cache_write_1h_tokens=3, service_tier="priority"),
        ),
        ({"usage_metadata": {"prompt_token_count": 9, "candidates_token_count": 4}}, {}, Usage(9, 4)),
        (
            {
                "usage_metadata": {
                    "prompt_token_count": 9,
                    "candidates_token_count": 4,
                    "thoughts_token_count": 7,
                    "tool_use_prompt_token_count": 2,
                    "cached_content_token_count": 3,
                    "prompt_tokens_details": [{"modality": "AUDIO", "token_count": 5}],
                }
            },
            {},
            Usage(11, 11, 3, 7, prompt_media=Media(audio=5)),
        ),
        ({"prompt_eval_count": 9, "eval_count": 4}, {}, Usage(9, 4)),
        ({}, {"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4)),
        (None, {}, None),
    ],
    ids=[
        "openai",
        "openai cached",
        "anthropic",
        "anthropic write",
        "anthropic hour",
        "gemini",
        "gemini thinks",
        "ollama",
        "counts",
        "nothing",
    ],
)
def test_usage_is_read_under_each_providers_names(raw: Any, more: dict[str, Any], expected: Usage | None) -> None:
    assert usage_of(CompletionResponse(text="", raw=raw, additional_kwargs=more)) == expected


def test_a_prompts_bound_covers_text_tools_and_media() -> None:
    plain = prompt_tokens([ChatMessage("word " * 50)], {})
    assert plain >= 50
    assert prompt_tokens("word " * 50, {}) == plain
    assert prompt_tokens([ChatMessage("word " * 50)], {"tools": [TOOL.metadata.to_openai_tool()]}) > plain + 20
    picture = ChatMessage(blocks=[TextBlock(text="word " * 50), ImageBlock(image=b"png")])
    assert prompt_tokens([picture], {}) >= plain + 1_000


def test_a_wrapper_cannot_be_sent_to_another_process(llm: TenantLLM) -> None:
    import pickle

    with pytest.raises(ConfigurationError, match="another process"):
        pickle.dumps(llm)
