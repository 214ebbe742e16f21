"""TenantChatModel sends only ids, users and salts of the tenant in context."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from tenant_middleware import ForeignReference, Tenancy
from tenant_middleware.context import scope
from tenant_middleware.errors import SealError
from tenant_middleware.isolation import seal
from tenant_middleware.langchain import TenantAgentMiddleware, TenantChatModel
from tenant_middleware.tenant import Tenant


class Responses(BaseChatModel):
    """Answers as ChatOpenAI does over the Responses API: with an id that the next call may continue."""

    use_previous_response_id: bool = False
    seen: list[dict[str, Any]] = []

    @property
    def _llm_type(self) -> str:
        return "openai-chat"

    def _message(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        self.seen.append(kwargs)
        return {"id": f"resp_{len(self.seen)}", "model_name": "local"}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        message = AIMessage("hi", response_metadata=self._message(kwargs))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk("hi", response_metadata=self._message(kwargs)))

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk("hi", response_metadata=self._message(kwargs)))


def wrapped(tenancy: Tenancy, **options: Any) -> tuple[TenantChatModel, list[dict[str, Any]]]:
    inner = Responses(seen=[], **options)
    return TenantChatModel(model=inner, model_name="openai/local", gate=tenancy.gate), inner.seen


async def every_way(model: TenantChatModel, said: Any, **options: Any) -> AsyncIterator[Any]:
    """The id that each way in gave out, or the refusal it raised."""

    async def astream() -> Any:
        chunks = [chunk async for chunk in model.astream(said, **options)]
        return chunks[0]

    for call in (
        lambda: model.invoke(said, **options),
        lambda: next(iter(model.stream(said, **options))),
        lambda: model.ainvoke(said, **options),
        astream,
    ):
        try:
            answer: Any = call()
            yield (answer if isinstance(answer, AIMessage) else await answer).response_metadata["id"]
        except ForeignReference as refusal:
            yield refusal


async def test_a_response_is_continued_by_its_own_tenant_alone(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    model, seen = wrapped(tenancy)
    with scope(a):
        given = [name async for name in every_way(model, "hi")]
        for name in given:
            own = [got async for got in every_way(model, "and?", previous_response_id=name)]
            assert all(isinstance(got, str) for got in own) and seen[-1]["previous_response_id"] == name
    calls = len(seen)
    with scope(b):
        for name in (*given, "resp_unknown"):
            refused = [got async for got in every_way(model, "and?", previous_response_id=name)]
            assert all(isinstance(got, ForeignReference) for got in refused)
    assert len(seen) == calls, "nothing was sent"
    totals = tenancy.ledger.totals(by="tenant")
    assert totals[a.id].calls == calls and b.id not in totals, "a refusal costs nothing"


def test_an_id_inside_a_message_is_no_way_round(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    """ChatOpenAI(use_previous_response_id=True) reads the id out of the conversation itself."""
    a, b = pair
    model, seen = wrapped(tenancy, use_previous_response_id=True)
    with scope(a):
        first = model.invoke("hi")
        model.invoke([HumanMessage("hi"), first, HumanMessage("and?")])
    with scope(b), pytest.raises(ForeignReference):
        model.invoke([HumanMessage("hi"), first, HumanMessage("and?")])
    assert len(seen) == 2


def test_users_and_salts_are_the_tenants(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    model, seen = wrapped(tenancy)
    for tenant in pair:
        with scope(tenant):
            model.invoke("hi", user="ann", prompt_cache_key="guessed")
    assert seen[0]["user"] != seen[1]["user"] != "ann"
    assert len({call["prompt_cache_key"] for call in seen} | {"guessed"}) == 3
    vllm = model.model_copy(update={"prefix_salt": "cache_salt"})
    with scope(pair[0]):
        vllm.invoke("hi")
    assert seen[2]["extra_body"]["cache_salt"] == seen[0]["prompt_cache_key"]


def test_a_gate_that_knows_no_ids_refuses_them(tenancy: Tenancy, acme: Tenant) -> None:
    model, seen = wrapped(tenancy)
    model.gate._provider_state = None
    with scope(acme):
        model.invoke("hi")
        for sent in ({"user": "ann"}, {"extra_body": {"cache_salt": "x"}}, {"previous_response_id": "resp_1"}):
            with pytest.raises(ForeignReference, match=r"tenancy\.gate"):
                model.invoke("hi", **sent)
    assert len(seen) == 1


async def test_an_agent_over_a_bare_model_is_held_to_the_same(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair

    class Chosen(AgentMiddleware[Any, Any, Any]):
        """Application code that passes on what its caller sent."""

        settings: ClassVar[dict[str, Any]] = {}

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(model_settings=dict(self.settings)))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(request.override(model_settings=dict(self.settings)))

    class Named(Responses):
        model_name: str = "openai/local"

    inner = Named(seen=[])
    chosen = Chosen()
    agent = create_agent(inner, middleware=[chosen, TenantAgentMiddleware(tenancy)])
    asked: Any = {"messages": [HumanMessage("hi")]}
    with scope(a):
        given = agent.invoke(asked)["messages"][-1].response_metadata["id"]
        chosen.settings.update(previous_response_id=given, user="ann")
        agent.invoke(asked)
        assert inner.seen[-1]["previous_response_id"] == given and inner.seen[-1]["user"].startswith("tm-user-")
    calls = len(inner.seen)
    with scope(b):
        with pytest.raises(ForeignReference):
            agent.invoke(asked)
        with pytest.raises(ForeignReference):
            await agent.ainvoke(asked)
    assert len(inner.seen) == calls


def test_a_model_notices_that_a_sealed_cache_was_replaced(
    tenancy: Tenancy, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "ADAPTERS", {name: seal.ADAPTERS[name] for name in ("langchain_core", "langgraph")})
    model, seen = wrapped(tenancy)
    set_llm_cache(InMemoryCache())
    try:
        tenancy.seal()
        with scope(acme):
            model.invoke("one")
            set_llm_cache(InMemoryCache())
            with pytest.raises(SealError):
                model.invoke("two")
    finally:
        seal.unseal_all()
        set_llm_cache(None)
    assert len(seen) == 1
