"""Streams and coroutines that belong to the tenant of the call, whoever steps or awaits them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, closing
from typing import Any, NoReturn, ParamSpec, TypeVar

from tenant_middleware.context import PinnedAsyncIterator, PinnedIterator, frame_of_call, run_in
from tenant_middleware.errors import ConfigurationError, missing_extra

try:
    from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

P = ParamSpec("P")
T = TypeVar("T")


def called_now(fn: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """The coroutine tied to the tenant in context now; awaited inside another's scope it raises TenantMismatch."""
    return run_in(frame_of_call(), fn, args, kwargs)


def steps(pinned: PinnedIterator[T]) -> Generator[T, None, None]:
    """The pinned steps as a generator, which is what LlamaIndex checks for."""
    with closing(pinned):
        yield from pinned


async def asteps(pinned: PinnedAsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The async twin of `steps`."""
    async with aclosing(pinned):
        async for step in pinned:
            yield step


def unspanned(fn: Callable[P, T]) -> Callable[P, T]:
    """Keep LlamaIndex from putting a span of its own around a method that only hands on to one that has a span."""
    setattr(fn, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return fn


class Unpickled:
    """Mix in before a LlamaIndex component that holds connections: worker processes would get it without them."""

    def __getstate__(self) -> NoReturn:
        raise ConfigurationError(
            f"a {type(self).__name__} can't go to another process, where it would have neither gate nor tenant: leave "
            "out num_workers, or send the work with a passport and build the component there"
        )
