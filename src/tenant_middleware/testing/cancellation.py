"""Cancel a coroutine at its n-th await, for every n: what a disconnecting client does, without waiting for luck."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _CancelledAt(Generic[T]):
    """Awaits another awaitable and throws CancelledError into it where it suspends for the n-th time."""

    def __init__(self, inner: Awaitable[T], point: int) -> None:
        self._inner = inner
        self._point = point
        self.thrown = False

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._inner.__await__()
        passed = 0
        throw: BaseException | None = None
        try:
            while True:
                waited = steps.throw(throw) if throw is not None else next(steps)
                throw = None
                if passed == self._point:
                    throw = asyncio.CancelledError()
                    self.thrown = True
                    if hasattr(waited, "_asyncio_future_blocking"):
                        waited._asyncio_future_blocking = False  # we don't hand it to the task
                else:
                    try:
                        yield waited
                    except BaseException as error:  # noqa: BLE001  the task's own errors go in, as they would without us
                        throw = error
                passed += 1
        except StopIteration as stop:
            result: T = stop.value
            return result


async def cancel_everywhere(make: Callable[[], Awaitable[Any]], *, most: int = 200) -> AsyncIterator[int]:
    """Run `make()` once for each of its await points, cancelled there, and yield the point after each.

    Ends with the first run that has no such await any more. Raises AssertionError for a coroutine that goes on as if
    nothing had happened.
    """
    for point in range(most):
        run = _CancelledAt(make(), point)
        try:
            await run
        except asyncio.CancelledError:
            yield point
            continue
        if run.thrown:
            raise AssertionError(f"cancel_everywhere: the cancellation at await {point} was swallowed")
        return
    raise AssertionError(f"cancel_everywhere: more than {most} await points")
