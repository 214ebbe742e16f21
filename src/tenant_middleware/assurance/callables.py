"""A user's own way in, whatever it is: a function, a coroutine function, an engine, a graph, a stream, a URL."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenant_middleware.context import scope
from tenant_middleware.errors import (
    AuthenticationError,
    BudgetExceeded,
    ConfigurationError,
    RateLimited,
    StoreUnavailable,
)
from tenant_middleware.tenant import Tenant

T = TypeVar("T")
THREAD = "tm-audit"
# What an object is asked with, the first that it has; LangChain's, LlamaIndex's engines, agents and retrievers.
_METHODS = ("invoke", "query", "chat", "retrieve", "run")
_WAIT = 60.0
# Not an answer to the question whether something leaks: nobody was refused for who it is.
NOT_ASKED = (StoreUnavailable, RateLimited, BudgetExceeded)
_REFUSALS = (401, 403, 404)


class Loop:
    """One event loop in a thread of its own, so that a test in a loop, or in none, can wait for coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tm-audit-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end and wait for it."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def close(self) -> None:
        """End what still runs, then the loop and its thread."""
        self.run(_finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _finish() -> None:
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


class WayIn:
    """`ingest` or `ask` of one chain as one kind of thing: called for a tenant, in its scope, its streams read out."""

    def __init__(self, given: object, what: str, loop: Loop, tokens: Mapping[str, str] | None = None) -> None:
        self.what = what
        self.shown = _shown(given)
        self._loop = loop
        self._call = _callable(given, what, tokens)
        self.is_async = inspect.iscoroutinefunction(self._call)

    def __call__(self, tenant: Tenant, text: str) -> object:
        """The whole answer."""
        if self.is_async:
            return self._loop.run(self.acall(tenant, text))
        with scope(tenant):
            answer = self._call(text)
            if not (inspect.isawaitable(answer) or isinstance(answer, AsyncIterator)):
                return _read(answer)
        return self._loop.run(_awaited(tenant, answer))

    async def acall(self, tenant: Tenant, text: str) -> object:
        """The whole answer, by awaiting."""
        with scope(tenant):
            return await _aread(self._call(text))

    def begin(self, tenant: Tenant, text: str) -> object:
        """What the call returns, unread: maybe a stream."""
        with scope(tenant):
            return self._call(text)

    def waits(self, answer: object) -> bool:
        """Whether an answer has to be awaited."""
        return self.is_async or inspect.isawaitable(answer) or isinstance(answer, AsyncIterator)


async def _awaited(tenant: Tenant, answer: object) -> object:
    with scope(tenant):
        return await _aread(answer)


@dataclass(frozen=True, slots=True)
class Streamed:
    """What a stream gave; `text` is its pieces put together, since a stream may cut a code in two."""

    text: str
    items: list[object]

    @classmethod
    def of(cls, items: list[object]) -> Streamed:
        pieces = (item if isinstance(item, str) else str(getattr(item, "content", item)) for item in items)
        return cls("".join(pieces), items)


def _read(answer: object) -> object:
    return Streamed.of(list(answer)) if isinstance(answer, Iterator) else answer


async def _aread(answer: Any) -> object:
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, AsyncIterator):
        return Streamed.of([item async for item in answer])
    return _read(answer)


def _callable(given: Any, what: str, tokens: Mapping[str, str] | None) -> Callable[[str], Any]:
    if isinstance(given, str):
        return _post(given, what, tokens or {})
    if hasattr(given, "get_graph") and hasattr(given, "invoke") and _takes_messages(given):
        config = {"configurable": {"thread_id": THREAD}}  # the same for every tenant, as a caller could guess it
        return lambda text: given.invoke({"messages": [("user", text)]}, config)
    for name in _METHODS:
        method = getattr(given, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]  # whatever the user gave
    if callable(given):
        return given  # type: ignore[no-any-return]  # whatever the user gave
    raise ConfigurationError(
        f"{what}: expected a function of one text, an object with one of {', '.join(_METHODS)}, or a URL, "
        f"got {type(given).__name__}"
    )


def _takes_messages(given: Any) -> bool:
    return "messages" in getattr(given, "channels", ())


def _shown(given: object) -> str:
    code = getattr(given, "__code__", None)
    if code is not None:
        return f"{getattr(given, '__qualname__', '')} ({code.co_filename.rpartition('/')[2]}:{code.co_firstlineno})"
    return given if isinstance(given, str) else type(given).__name__


def _post(url: str, what: str, tokens: Mapping[str, str]) -> Callable[[str], str]:
    """POST {"text": ...} with the bearer token of the tenant in context."""
    from tenant_middleware.context import current_tenant

    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigurationError(f"{what}: expected an http or https URL")

    def post(text: str) -> str:
        token = tokens.get(current_tenant().id)
        if token is None:
            raise ConfigurationError(f"{what}: a URL needs tokens={{tenant id: token}} for every tenant of the audit")
        return send(url, text, token)

    return post


def send(url: str, text: str, token: str) -> str:
    """The body of the answer; AuthenticationError when the edge refuses (401, 403, 404), else StoreUnavailable."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps({"text": text}).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=_WAIT) as answer:
            return str(answer.read().decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        with error:
            body = error.read().decode("utf-8", "replace")
        if error.code in _REFUSALS:
            raise AuthenticationError(f"the endpoint refused with {error.code}: {body[:200]}") from None
        raise StoreUnavailable(f"the endpoint answered {error.code}: {body[:200]}", store="endpoint") from None
