"""Runnables whose every way in reads the tenant when it is called, not when its result is awaited or first stepped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, closing
from typing import Any, ParamSpec, TypeVar

from tenant_middleware.context import PinnedAsyncIterator, PinnedIterator, frame_of_call, pin, run_in
from tenant_middleware.errors import missing_extra
from tenant_middleware.langchain.refusals import passing

try:
    from langchain_core.runnables import Runnable
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

P = ParamSpec("P")
T = TypeVar("T")


def called_now(fn: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """The coroutine tied to the tenant in context now; awaited inside another's scope it raises TenantMismatch."""
    return _run(frame_of_call(), fn, args, kwargs)  # type: ignore[no-any-return]  # passing gives Any


_run: Any = passing(run_in)


@passing
def steps(pinned: PinnedIterator[T]) -> Iterator[T]:
    """The pinned steps as a generator, for callers that check for one."""
    with closing(pinned):
        yield from pinned


@passing
async def asteps(pinned: PinnedAsyncIterator[T]) -> AsyncIterator[T]:
    """The async twin of `steps`."""
    async with aclosing(pinned):
        async for step in pinned:
            yield step


class PinnedRunnable(Runnable[Any, Any]):
    """Mix in before a Runnable whose `invoke` and `ainvoke` do the work; put `invoke` under `passing` yourself."""

    @passing
    def ainvoke(self, *args: Any, **kwargs: Any) -> Any:
        return called_now(super().ainvoke, *args, **kwargs)

    @passing
    def abatch(self, *args: Any, **kwargs: Any) -> Any:
        return called_now(super().abatch, *args, **kwargs)

    @passing
    def stream(self, *args: Any, **kwargs: Any) -> Any:
        return steps(pin(super().stream(*args, **kwargs)))

    @passing
    def astream(self, *args: Any, **kwargs: Any) -> Any:
        return asteps(pin(super().astream(*args, **kwargs)))

    @passing
    def transform(self, *args: Any, **kwargs: Any) -> Any:
        return steps(pin(super().transform(*args, **kwargs)))

    @passing
    def atransform(self, *args: Any, **kwargs: Any) -> Any:
        return asteps(pin(super().atransform(*args, **kwargs)))

    @passing
    def batch_as_completed(self, *args: Any, **kwargs: Any) -> Any:
        return steps(pin(super().batch_as_completed(*args, **kwargs)))

    @passing
    def abatch_as_completed(self, *args: Any, **kwargs: Any) -> Any:
        return asteps(pin(super().abatch_as_completed(*args, **kwargs)))

    @passing
    def astream_events(self, *args: Any, **kwargs: Any) -> Any:
        events = super().astream_events(*args, **kwargs)
        return asteps(pin(events)) if hasattr(events, "__aiter__") else events  # version v3 is for models and graphs

    @passing
    def astream_log(self, *args: Any, **kwargs: Any) -> Any:
        return asteps(pin(super().astream_log(*args, **kwargs)))
