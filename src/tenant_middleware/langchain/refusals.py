"""How our errors leave LangChain code: in a form that its retry, fallback and tool wrappers let through.

LangGraph re-raises `GraphBubbleUp` everywhere (tool nodes, ToolRetryMiddleware, ModelRetryMiddleware,
ModelFallbackMiddleware), so a refusal that also derives from it reaches the caller. `except RateLimited` still works.
`Runnable.with_fallbacks` and `with_retry` catch every Exception: pass them `exceptions_to_handle` and
`retry_if_exception_type` without ours, and gate the fallback model too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing
from typing import Any, ParamSpec, TypeVar, cast

try:
    from langgraph.errors import GraphBubbleUp
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware.errors import TenancyError, in_form

P = ParamSpec("P")
T = TypeVar("T")


def passing(fn: Callable[P, T]) -> Callable[P, T]:
    """Let the errors of a function, coroutine, generator or async generator leave it as GraphBubbleUp too."""
    if inspect.isasyncgenfunction(fn):
        return cast("Callable[P, T]", _async_generator(fn))
    if inspect.isgeneratorfunction(fn):
        return cast("Callable[P, T]", _generator(fn))
    if inspect.iscoroutinefunction(fn):
        return cast("Callable[P, T]", _coroutine(fn))

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return fn(*args, **kwargs)
        except TenancyError as error:
            refusal = in_form(error, GraphBubbleUp)
        raise refusal  # outside the handler, so that the original isn't printed as its context

    return call


def _coroutine(fn: Callable[P, Awaitable[T]]) -> Callable[P, Any]:
    @functools.wraps(fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await fn(*args, **kwargs)
        except TenancyError as error:
            refusal = in_form(error, GraphBubbleUp)
        raise refusal

    return call


def _generator(fn: Callable[P, Any]) -> Callable[P, Any]:
    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        try:
            with closing(fn(*args, **kwargs)) as steps:
                yield from steps
            return
        except TenancyError as error:
            refusal = in_form(error, GraphBubbleUp)
        raise refusal

    return call


def _async_generator(fn: Callable[P, Any]) -> Callable[P, Any]:
    @functools.wraps(fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        try:
            async with aclosing(fn(*args, **kwargs)) as steps:
                async for step in steps:
                    yield step
            return
        except TenancyError as error:
            refusal = in_form(error, GraphBubbleUp)
        raise refusal

    return call
