"""One flow, two drivers: the gate's steps are generators of operations, run by plain calls or by awaiting the twins.

The pattern of httpx's auth flows: decisions are written once, and neither twin can drift from the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Mapping
from typing import Any, NamedTuple, TypeVar

R = TypeVar("R")
_NONE: dict[str, Any] = {}


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
    """Drive a flow by plain calls."""
    try:
        op = next(flow)
        while True:
            try:
                result = getattr(op.target, op.name)(*op.args, **op.options)
            except BaseException as error:  # noqa: BLE001  the flow undoes what it had begun and raises it again
                op = flow.throw(error)
            else:
                op = flow.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # a generator's return value is untyped here


async def arun(flow: Flow[R]) -> R:
    """Drive a flow by awaiting; what only computes is called directly."""
    try:
        op = next(flow)
        while True:
            try:
                if not op.whole:
                    result = await getattr(op.target, "a" + op.name)(*op.args, **op.options)
                elif getattr(op.target, "in_process", False):
                    result = getattr(op.target, op.name)(*op.args, **op.options)
                else:
                    result = await to_its_end(getattr(op.target, "a" + op.name)(*op.args, **op.options))
            except BaseException as error:  # noqa: BLE001  the flow undoes what it had begun and raises it again
                op = flow.throw(error)
            else:
                op = flow.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # a generator's return value is untyped here


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
