"""A runnable answered from the tenant's semantic cache: placed before retrieval, so that a hit costs neither."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.context import bind, current_tenant, pin
from tenant_middleware.errors import ConfigurationError, InvalidInput, missing_extra
from tenant_middleware.isolation.cache import Lookup, Question, SemanticCache, question
from tenant_middleware.langchain.asked import Asked, Context, Picker, identity, read
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.langchain.values import as_chunk, dumps, loads
from tenant_middleware.telemetry import stage
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import Runnable, RunnableConfig, run_in_executor
    from langchain_core.runnables.base import RunnableLike, coerce_to_runnable
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

Embed = Callable[[str], list[float]]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and whether it came from the cache; `distance` of a hit is that of the two questions (cosine)."""

    value: Any
    hit: bool
    distance: float | None = None


def cached(
    runnable: RunnableLike[Any, Any],
    *,
    cache: SemanticCache,
    embedding: Embeddings | Embed,
    question: str | Picker | None = None,
    context: Context | None = None,
    personal: bool = False,
    name: str | None = None,
    gate: ModelGate | None = None,
    model_name: str | None = None,
) -> CachedRunnable:
    """The runnable behind the tenant's semantic cache.

    The key is the last user message: the text itself, the last message of a list, or `question` (a key of a dictionary
    input, or a function of the input). All else in the input, the call's options and what `context(input, config)`
    returns (ids and versions of documents, the history of a thread) must be exactly equal. `personal=True` says that
    memory, tools or a subject-bound filter shape the answer. `name` lets workers and restarts share the answers of one
    chain; without it they belong to this very object. With `gate` and `model_name` each hit is booked as one of that
    model, at no cost, for those who may call it. A run that raises, is cancelled or isn't read to its end is never
    stored.
    """
    if (gate is None) != (model_name is None):
        raise ConfigurationError("cached: gate and model_name book hits together; give both or none")
    reading = _Reading(question, context, personal)
    return CachedRunnable(
        coerce_to_runnable(runnable), cache, embedding, reading, name=name, gate=gate, model_name=model_name or ""
    )


@dataclass(frozen=True, slots=True)
class _Reading:
    question: str | Picker | None
    context: Context | None
    personal: bool


@dataclass(frozen=True, slots=True)
class _Looked:
    tenant: Tenant
    question: Question
    lookup: Lookup

    def answered(self) -> Answered:
        return Answered(loads(self.lookup.answer or "null"), True, self.lookup.distance)


class CachedRunnable(Runnable[Any, Any]):
    """What `cached` makes; `answer` and `aanswer` also say hit or miss."""

    def __init__(
        self,
        inner: Runnable[Any, Any],
        cache: SemanticCache,
        embedding: Embeddings | Embed,
        reading: _Reading,
        *,
        name: str | None = None,
        gate: ModelGate | None = None,
        model_name: str = "",
    ) -> None:
        self.inner = inner
        self.name = name
        self._cache = cache
        self._embedding = embedding
        self._reading = reading
        self._gate, self._model_name = gate, model_name

    @property
    def InputType(self) -> Any:
        return self.inner.InputType

    @property
    def OutputType(self) -> Any:
        return self.inner.OutputType

    @cached_property
    def _identity(self) -> str:
        return identity(self.inner, self.name)

    def answer(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Answered:
        """The answer with its origin; otherwise like `invoke`."""
        looked = self._look(input, config, kwargs)
        if looked.lookup.hit:
            return looked.answered()
        value = self.inner.invoke(input, config, **kwargs)
        self._keep(looked, value)
        return Answered(value, False)

    def aanswer(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Coroutine[Any, Any, Answered]:
        """The async twin of `answer`; the tenant is taken now, not when the coroutine is awaited."""
        return passing(bind)(self._aanswer)(input, config, **kwargs)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self.answer(input, config, **kwargs).value

    def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return passing(bind)(self._ainvoke)(input, config, **kwargs)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        return passing(pin)(self._stream(input, config, kwargs))

    def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        return passing(pin)(self._astream(input, config, kwargs))

    async def _aanswer(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Answered:
        looked = await self._alook(input, config, kwargs)
        if looked.lookup.hit:
            return looked.answered()
        value = await self.inner.ainvoke(input, config, **kwargs)
        await self._akeep(looked, value)
        return Answered(value, False)

    async def _ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return (await self._aanswer(input, config, **kwargs)).value

    def _stream(self, input: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Iterator[Any]:
        looked = self._look(input, config, kwargs)
        if looked.lookup.hit:
            yield as_chunk(looked.answered().value)
            return
        whole = _Whole()
        inner = self.inner.stream(input, config, **kwargs)
        with closing(inner) as chunks:  # type: ignore[type-var]  # streams are generators or pinned iterators
            for chunk in chunks:
                whole.add(chunk)
                yield chunk
        self._keep(looked, whole.value())

    async def _astream(self, input: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        looked = await self._alook(input, config, kwargs)
        if looked.lookup.hit:
            yield as_chunk(looked.answered().value)
            return
        whole = _Whole()
        inner = self.inner.astream(input, config, **kwargs)
        async with aclosing(inner) as chunks:  # type: ignore[type-var]  # as in the sync twin
            async for chunk in chunks:
                whole.add(chunk)
                yield chunk
        await self._akeep(looked, whole.value())

    @passing
    def _look(self, input: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> _Looked:
        tenant = current_tenant()
        asked = self._asked(input, config, kwargs)
        wanted = self._question(tenant, asked, self._embed(asked.text))
        with stage("cache", tenant):
            found = self._cache.lookup(tenant, wanted)
        return self._booked(_Looked(tenant, wanted, found))

    @passing
    async def _alook(self, input: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> _Looked:
        tenant = current_tenant()
        asked = self._asked(input, config, kwargs)
        wanted = self._question(tenant, asked, await self._aembed(asked.text))
        with stage("cache", tenant):
            found = await self._cache.alookup(tenant, wanted)
        return self._booked(_Looked(tenant, wanted, found))

    def _booked(self, looked: _Looked) -> _Looked:
        if looked.lookup.hit and self._gate is not None:
            self._gate.hit(self._gate.new_call(self._model_name))
        return looked

    @passing
    def _keep(self, looked: _Looked, value: Any) -> None:
        self._cache.store(looked.tenant, looked.question, dumps(value), version=looked.lookup.version)

    @passing
    async def _akeep(self, looked: _Looked, value: Any) -> None:
        await self._cache.astore(looked.tenant, looked.question, dumps(value), version=looked.lookup.version)

    def _asked(self, input: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Asked:
        how = self._reading
        return read(input, config, kwargs, question=how.question, context=how.context, chain=self._identity)

    def _question(self, tenant: Tenant, asked: Asked, embedding: list[float]) -> Question:
        return question(
            tenant,
            self._cache.rules_for(tenant),
            asked.text,
            embedding,
            context=asked.context,
            personal=self._reading.personal or asked.remembers,
        )

    def _embed(self, text: str) -> list[float]:
        if isinstance(self._embedding, Embeddings):
            return self._embedding.embed_query(text)
        return self._embedding(text)

    async def _aembed(self, text: str) -> list[float]:
        if isinstance(self._embedding, Embeddings):
            return await self._embedding.aembed_query(text)
        return await run_in_executor(None, self._embedding, text)


class _Whole:
    """The chunks of a stream added up."""

    def __init__(self) -> None:
        self._sum: Any = None
        self._empty = True

    def add(self, chunk: Any) -> None:
        try:
            self._sum = chunk if self._empty else self._sum + chunk
        except TypeError:
            raise InvalidInput(
                f"cached: chunks of type {type(chunk).__name__} can't be added up to an answer to store; use "
                "invoke, or end the cached part of the chain before them"
            ) from None
        self._empty = False

    def value(self) -> Any:
        return self._sum
