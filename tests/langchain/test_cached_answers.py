"""cached(): a chain answered from the tenant's own earlier answers, in every way a chain can be called."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator, RunnableLambda, RunnablePassthrough

from tenant_middleware import ModelForbidden, Tenancy
from tenant_middleware.backends.in_memory.cache import InMemorySemanticCache
from tenant_middleware.context import current_tenant, scope
from tenant_middleware.errors import ConfigurationError, InvalidInput, IsolationBreach, MissingTenant, TenantMismatch
from tenant_middleware.langchain.semantic import Answered, cached
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.cache import RULES

ANGLES = {"what is the price": 0, "the price please": 15, "where is the office": 90}


class Angles(Embeddings):
    """Texts at chosen angles; counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def embed_query(self, text: str) -> list[float]:
        self.calls += 1
        angle = math.radians(ANGLES.get(text, 0))
        return [math.cos(angle), math.sin(angle)]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


class Counted:
    """A chain that says for whom it ran, and how often it did."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, input: Any, option: int = 0) -> str:
        self.runs += 1
        return f"{current_tenant().id} #{self.runs}"

    def runnable(self) -> RunnableLambda[Any, str]:
        return RunnableLambda(self)


@pytest.fixture
def cache() -> InMemorySemanticCache:
    return InMemorySemanticCache(rules=RULES)


Make = Callable[..., Any]


@pytest.fixture
def make(cache: InMemorySemanticCache) -> Make:
    def build(inner: Any, **options: Any) -> Any:
        return cached(inner, cache=options.pop("cache", cache), embedding=options.pop("embedding", Angles()), **options)

    return build


def test_a_paraphrase_hits_the_own_cache_and_misses_the_others(make: Make, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    counted = Counted()
    chain = make(counted.runnable())
    with scope(a):
        assert chain.answer("what is the price") == Answered(f"{a.id} #1", False)
        again = chain.answer("the price please")
        assert (again.value, again.hit) == (f"{a.id} #1", True) and again.distance == pytest.approx(0.034, abs=1e-3)
        assert chain.answer("where is the office").hit is False
    with scope(b):
        assert chain.answer("what is the price") == Answered(f"{b.id} #3", False)
    assert counted.runs == 3


def test_a_cache_without_tenants_would_answer_across(make: Make, pair: tuple[Tenant, Tenant]) -> None:
    """The control: with the guard off, the same chain hands over the other tenant's answer."""

    class Careless(InMemorySemanticCache):
        def _lookup(self, tenant: Tenant, question: Any, version: int) -> Any:
            return super()._lookup(everybody, replace(question, bucket="one"), version)

        def store(self, tenant: Tenant, question: Any, answer: str, *, version: int) -> None:
            super().store(everybody, replace(question, bucket="one"), answer, version=version)

    everybody = Tenant("everybody", "free")
    chain = make(Counted().runnable(), cache=Careless(rules=RULES))
    with scope(pair[0]):
        chain.invoke("what is the price")
    with scope(pair[1]):
        assert chain.invoke("what is the price") == f"{pair[0].id} #1"


def test_it_composes_with_pipes_and_embeds_once(make: Make, acme: Tenant) -> None:
    counted, angles = Counted(), Angles()
    chain = RunnablePassthrough() | make(counted.runnable(), embedding=angles) | str.upper
    with scope(acme):
        assert chain.invoke("what is the price") == "ACME #1" == chain.invoke("what is the price")
        assert angles.calls == 2, "once for each question, also when the answer is stored"
        assert list(chain.stream("what is the price")) == ["ACME #1"]
        assert chain.batch(["what is the price", "the price please", "where is the office"])[:2] == ["ACME #1"] * 2
    assert counted.runs == 2


async def test_the_async_ways_in_share_the_answers(make: Make, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    counted = Counted()
    chain = make(counted.runnable())
    async with scope(a):
        assert await chain.ainvoke("what is the price") == f"{a.id} #1"
        assert (await chain.aanswer("the price please")).hit
        assert [c async for c in chain.astream("what is the price")] == [f"{a.id} #1"]
        assert await chain.abatch(["what is the price"] * 2) == [f"{a.id} #1"] * 2
        pending = chain.ainvoke("what is the price")
    assert await pending == f"{a.id} #1", "the tenant was taken at the call"
    async with scope(b):
        assert await chain.ainvoke("what is the price") == f"{b.id} #2"


def test_a_stream_is_stored_when_it_was_read_to_its_end(make: Make, acme: Tenant) -> None:
    runs = []

    def words(input: Iterator[str]) -> Iterator[str]:
        runs.append(1)
        yield from ("one ", "two ", "three")

    chain = make(RunnableGenerator(words))
    with scope(acme):
        broken = chain.stream("what is the price")
        assert next(broken) == "one "
        broken.close()
        assert not chain.answer("what is the price").hit and len(runs) == 2
        assert "".join(chain.stream("where is the office")) == "one two three"
        assert chain.answer("where is the office") == Answered("one two three", True, 0.0)


async def test_a_stream_belongs_to_the_tenant_that_started_it(make: Make, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    chain = make(Counted().runnable())
    async with scope(a):
        mine, lazy = chain.astream("what is the price"), chain.stream("where is the office")
    async with scope(b):
        with pytest.raises(TenantMismatch):
            await anext(mine)
        with pytest.raises(TenantMismatch):
            next(lazy)
        assert not (await chain.aanswer("what is the price")).hit
    async with scope(a):
        assert not (await chain.aanswer("what is the price")).hit


def test_a_failed_run_is_never_stored(make: Make, acme: Tenant) -> None:
    outcomes: list[Any] = [ValueError("down"), "fine"]

    def run(input: str) -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    chain = make(RunnableLambda(run))
    with scope(acme):
        with pytest.raises(ValueError, match="down"):
            chain.invoke("what is the price")
        assert chain.answer("what is the price") == Answered("fine", False)


def test_a_near_miss_misses(make: Make, acme: Tenant) -> None:
    chain = make(Counted().runnable())
    with scope(acme):
        chain.invoke("revenue in 2023")
        assert not chain.answer("revenue in 2024").hit
        assert chain.answer("revenue in 2023").hit


def test_the_rest_of_the_input_must_be_equal(make: Make, acme: Tenant) -> None:
    chain = make(Counted().runnable())
    with scope(acme):
        first = {"question": "what is the price", "language": "en", "docs": [Document("d", id="1", metadata={"v": 1})]}
        assert not chain.answer(first).hit and chain.answer({**first, "question": "the price please"}).hit
        assert not chain.answer({**first, "language": "de"}).hit
        assert not chain.answer({**first, "docs": [Document("d", id="1", metadata={"v": 2})]}).hit
        assert not chain.answer(first, {"configurable": {"temperature": 1}}).hit
        assert not chain.answer(first, option=1).hit


def test_the_history_of_a_conversation_must_be_equal(make: Make, acme: Tenant) -> None:
    chain = make(Counted().runnable(), cache=InMemorySemanticCache(rules=replace(RULES, share="tenant")))
    system, price = SystemMessage("be brief"), HumanMessage("what is the price")
    turns = [system, HumanMessage("hi"), AIMessage("hello"), price]
    other = replace(acme, subject="another")
    with scope(acme):
        assert not chain.answer([system, price]).hit
        assert not chain.answer(turns).hit and chain.answer(turns).hit
        assert not chain.answer([SystemMessage("be long"), price]).hit
        assert not chain.answer([*turns[:-2], AIMessage("good day"), price]).hit
        assert chain.answer({"messages": [system, price]}).hit is False, "another shape is another chain input"
    with scope(other):
        assert chain.answer([system, price]).hit, "the policy shares, and nothing personal took part"
        assert not chain.answer(turns).hit, "memory took part: the subject's own"


def test_personal_answers_stay_with_their_subject(make: Make, acme: Tenant) -> None:
    shared = InMemorySemanticCache(rules=replace(RULES, share="tenant"))
    chain = make(Counted().runnable(), cache=shared, personal=True)
    with scope(acme):
        chain.invoke("what is the price")
    with scope(replace(acme, subject="another")):
        assert not chain.answer("what is the price").hit


def test_memory_that_the_cache_cannot_see_is_an_error(make: Make, acme: Tenant) -> None:
    config: Any = {"configurable": {"thread_id": "t"}}
    turns = ["hi"]
    with scope(acme):
        with pytest.raises(ConfigurationError, match="thread_id"):
            make(Counted().runnable()).invoke("what is the price", config)
        chain = make(Counted().runnable(), context=lambda input, config: {"turns": turns})
        assert not chain.answer("what is the price", config).hit and chain.answer("what is the price", config).hit
        turns.append("more")
        assert not chain.answer("what is the price", config).hit


def test_a_function_may_pick_the_question(make: Make, acme: Tenant) -> None:
    with scope(acme):
        with pytest.raises(ConfigurationError, match="context="):
            make(Counted().runnable(), question=lambda i: i["q"]).invoke({"q": "what is the price"})
        chain = make(Counted().runnable(), question=lambda i: i["q"], context=lambda i, config: {"lang": i["lang"]})
        chain.invoke({"q": "what is the price", "lang": "en", "trace": 1})
        assert chain.answer({"q": "the price please", "lang": "en", "trace": 2}).hit
        assert not chain.answer({"q": "the price please", "lang": "de", "trace": 2}).hit


def test_two_chains_behind_one_cache_do_not_meet(make: Make, acme: Tenant) -> None:
    def chain(prompt: str, name: str | None) -> Any:
        llm = GenericFakeChatModel(messages=iter(AIMessage(prompt) for _ in range(9)))
        return make(ChatPromptTemplate.from_template(prompt) | llm | StrOutputParser(), name=name)

    with scope(acme):
        for name in (None, "qa"):
            formal, casual = chain("Formally: {question}", name), chain("Casually: {question}", name)
            assert formal.invoke({"question": "what is the price"}).startswith("Formally")
            assert casual.invoke({"question": "what is the price"}).startswith("Casually")
        assert chain("Formally: {question}", "qa").answer({"question": "the price please"}).hit, "as after a restart"
        assert not chain("Formally: {question}", "other").answer({"question": "the price please"}).hit
        for _ in range(50):  # whatever address it gets
            assert not chain("Formally: {question}", None).answer({"question": "the price please"}).hit


def test_messages_and_dictionaries_come_back_as_they_were(make: Make, acme: Tenant) -> None:
    call = {"name": "f", "args": {"x": 1}, "id": "c", "type": "tool_call"}
    answers = {
        "what is the price": AIMessage("89", id="run-1", tool_calls=[call]),
        "where is the office": {"answer": "Berlin", "sources": [Document("d", id="7", metadata={"p": 1})], "n": None},
    }
    chain = make(RunnableLambda(lambda q: answers[q]))
    with scope(acme):
        for asked in answers:
            chain.invoke(asked)
        message = chain.invoke("what is the price")
        assert message == AIMessage("89", id=None, tool_calls=[call]), (
            "an id would replace the first in a graph's state"
        )
        assert chain.invoke("where is the office") == answers["where is the office"]
        (chunk,) = chain.stream("what is the price")
        assert (
            isinstance(chunk, AIMessageChunk)
            and chunk.tool_calls == [call]
            and (chunk + AIMessageChunk("")).content == "89"
        )
        (piece,) = chain.stream("where is the office")
        assert (piece + piece)["answer"] == "BerlinBerlin"


def test_streamed_messages_are_stored_whole(make: Make, acme: Tenant) -> None:
    llm = GenericFakeChatModel(messages=iter([AIMessage("one two three")]))
    chain = make(llm)
    with scope(acme):
        assert len(list(chain.stream("what is the price"))) > 2
        again = chain.answer("the price please")
        assert again.hit and type(again.value) is AIMessage and again.value.content == "one two three"


def test_what_only_pickle_could_carry_is_refused(make: Make, acme: Tenant) -> None:
    with scope(acme), pytest.raises(InvalidInput, match="can't be cached"):
        make(RunnableLambda(lambda q: object())).invoke("what is the price")


@pytest.mark.parametrize("bad", ["", "  ", [], [AIMessage("x")], {"other": 1}, 7, {"question": 7}])
def test_a_call_without_a_question_is_refused(make: Make, acme: Tenant, bad: Any) -> None:
    with scope(acme), pytest.raises(InvalidInput):
        make(Counted().runnable()).invoke(bad)


async def test_no_tenant_no_answer(make: Make) -> None:
    chain = make(Counted().runnable())
    for call in (chain.invoke, chain.answer, chain.stream, chain.ainvoke, chain.aanswer, chain.astream):
        with pytest.raises(MissingTenant):
            call("what is the price")


async def test_a_cancelled_run_is_never_stored(make: Make, acme: Tenant) -> None:
    started = asyncio.Event()

    async def slow(input: str) -> str:
        started.set()
        await asyncio.Event().wait()
        return "never"

    async def slow_words(input: AsyncIterator[str]) -> AsyncIterator[str]:
        yield "one"
        started.set()
        await asyncio.Event().wait()
        yield "two"

    async def consume(chain: Any) -> None:
        async for _ in chain.astream("what is the price"):
            pass

    for inner, call in ((RunnableLambda(slow), None), (RunnableGenerator(slow_words), consume)):
        chain = make(inner, name="same")
        async with scope(acme):
            started.clear()
            task = asyncio.ensure_future(call(chain) if call else chain.ainvoke("what is the price"))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert chain._cache.count(acme).entries == 0


async def test_hits_are_booked_at_no_cost_for_those_who_may_call_the_model(
    make: Make, tenancy: Tenancy, pair: tuple[Tenant, Tenant]
) -> None:
    a = pair[0]
    chain = make(Counted().runnable(), gate=tenancy.gate, model_name="openai/local", name="c")
    async with scope(a):
        assert not chain.answer("what is the price").hit
        assert chain.answer("the price please").hit
        assert (await chain.aanswer("the price please")).hit
        assert list(chain.stream("the price please")) == [f"{a.id} #1"]
        with pytest.raises(ModelForbidden):
            make(Counted().runnable(), gate=tenancy.gate, model_name="another/model", name="c").invoke(
                "the price please"
            )
    totals = tenancy.ledger.totals(by="tenant")
    assert set(totals) == {a.id} and totals[a.id].cost_usd == 0
    assert [row.status for row in tenancy.ledger.rows()] == ["cache_hit"] * 3
    with pytest.raises(ConfigurationError, match="both"):
        make(Counted().runnable(), gate=tenancy.gate)


def test_a_foreign_answer_is_counted_as_an_incident(
    make: Make, cache: InMemorySemanticCache, acme: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    chain = make(Counted().runnable())
    with scope(acme):
        chain.invoke("what is the price")
        for name, entry in cache._tenants[acme.id].items():
            forged = replace(entry, owner="globex")
            cache._tenants[acme.id][name] = cache._buckets[acme.id, entry.bucket][entry.text] = forged
        with pytest.raises(IsolationBreach):
            chain.invoke("the price please")
    assert "isolation incident in cache" in caplog.text and "globex" not in caplog.text
