"""One flow, two drivers: steps are written once, as a generator, and run by plain calls or by awaiting.

The pattern of httpx's auth flows: decisions are written once, and neither twin can drift from the other. A flow yields
what it needs done and gets the result; whoever drives it knows how: by a method of a store, a command, an SDK's call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

S = TypeVar("S")
R = TypeVar("R")
_NONE: dict[str, Any] = {}


def drive(flow: Generator[S, Any, R], do: Callable[[S], Any]) -> R:
    """Run a flow by plain calls; what `do` raises is raised in the flow, where the step stands."""
    failed: BaseException | None = None
    try:
        step = next(flow)
        while True:
            try:
                result, failed = do(step), None
            except BaseException as error:  # noqa: BLE001  the flow undoes what it had begun and raises it again
                failed = error
            # Outside the handler: an error may quote content, and would be chained to what the flow raises instead.
            step = flow.send(result) if failed is None else flow.throw(failed)
    except StopIteration as end:
        return cast("R", end.value)
    finally:
        failed = None  # its traceback holds this frame


async def adrive(flow: Generator[S, Any, R], do: Callable[[S], Awaitable[Any]]) -> R:
    """`drive`, by awaiting; a cancellation is raised in the flow too."""
    failed: BaseException | None = None
    try:
        step = next(flow)
        while True:
            try:
                result, failed = await do(step), None
            except BaseException as error:  # noqa: BLE001  as above
                failed = error
            step = flow.send(result) if failed is None else flow.throw(failed)
    except StopIteration as end:
        return cast("R", end.value)
    finally:
        failed = None


class Op(NamedTuple):
    """A method to call on a store or queue; its async twin has the prefix `a`.

    A `whole` operation runs to its end even when the caller is cancelled meanwhile, so that its effect is known;
    one that isn't may wait, and undoes itself when it is cancelled.
    """

    target: Any
    name: str
    args: tuple[Any, ...]
    whole: bool = True
    options: Mapping[str, Any] = _NONE


Flow = Generator[Op, Any, R]


def run(flow: Flow[R]) -> R:
    """Drive a flow of methods by plain calls."""
    return drive(flow, _call)


async def arun(flow: Flow[R]) -> R:
    """Drive a flow of methods by awaiting; what only computes is called directly."""
    return await adrive(flow, _acall)


def _call(op: Op) -> Any:
    return getattr(op.target, op.name)(*op.args, **op.options)


async def _acall(op: Op) -> Any:
    if not op.whole:
        return await getattr(op.target, "a" + op.name)(*op.args, **op.options)
    if getattr(op.target, "in_process", False):
        return _call(op)
    return await to_its_end(getattr(op.target, "a" + op.name)(*op.args, **op.options))


async def to_its_end(work: Coroutine[Any, Any, R]) -> R:
    """Await `work` whole: a cancellation that comes meanwhile is raised when it has ended."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except BaseException:  # noqa: BLE001  the task's own error, raised by result() below
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio doesn't report it as lost
        raise cancelled
    return task.result()
