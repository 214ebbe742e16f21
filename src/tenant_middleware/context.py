"""The tenant in context: `scope` sets it, `current_tenant` reads it, `pin` and `bind` carry it to where code resumes.

One ContextVar holds a frame: the tenant, and the model call that is open under it (so that a nested call joins
instead of being booked twice). Both travel together: what pins the tenant also keeps a consumer of a half-read stream
from seeing the stream's open call.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, cast, overload

from tenant_middleware.errors import InvalidInput, MissingTenant, TenantMismatch
from tenant_middleware.garbage import keep_context
from tenant_middleware.tenant import Tenant

P = ParamSpec("P")
T = TypeVar("T")


class Frame(NamedTuple):
    """What a context knows: its tenant, the model call open in it if any, and which scope put it over which frame."""

    tenant: Tenant
    open_call: object | None = None
    entry: object | None = None
    outer: Frame | None = None


_frame: ContextVar[Frame | None] = ContextVar("tenant_middleware_frame", default=None)
keep_context()


def _forget_tenant() -> None:
    """A forked worker is a copy of whoever forked it, and would do everybody's jobs as that tenant."""
    _frame.set(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_tenant)


def current_tenant() -> Tenant:
    """The tenant of the innermost scope or pin; raises MissingTenant outside one."""
    frame = _frame.get()
    if frame is None:
        raise MissingTenant(
            "no tenant in context: open one with `with tenancy.authenticate(token):`, carry it into a thread with "
            "bind(fn) and into a stream that is read later with pin(iterator)"
        )
    return frame.tenant


def peek_tenant() -> Tenant | None:
    """The tenant in context or None, for code that only observes (telemetry, logs)."""
    frame = _frame.get()
    return frame.tenant if frame is not None else None


def open_call() -> object | None:
    """The model call that is open in this context, which a nested call joins."""
    frame = _frame.get()
    return frame.open_call if frame is not None else None


def enter_call(call: object) -> object | None:
    """Note an open model call and return the one around it; only the gate does this."""
    frame = _frame.get()
    if frame is None:
        return None
    _frame.set(Frame(frame.tenant, call, frame.entry, frame.outer))
    return frame.open_call


def leave_call(call: object, outer: object | None) -> None:
    """Forget an open model call, if this context still has it.

    No token: an abandoned stream is closed by whoever collects it, whose own open call must not be touched.
    """
    frame = _frame.get()
    if frame is not None and frame.open_call is call:
        _frame.set(Frame(frame.tenant, outer, frame.entry, frame.outer))


def refuse_other(tenant: Tenant) -> None:
    """Raise TenantMismatch when another tenant's scope is open around this code."""
    frame = _frame.get()
    if frame is not None and frame.tenant is not tenant and frame.tenant != tenant:
        raise TenantMismatch(
            "this runs for one tenant (id, tier and subject) and was entered or resumed inside the scope of another: "
            "leave that scope first; there is no silent switch"
        )


class scope:
    """`with scope(tenant):` or `async with`: everything inside runs for that tenant.

    Entering the same (id, tier, subject) again is fine; another one raises TenantMismatch. One object is one entry:
    a scope can't be shared by two tasks.
    """

    def __init__(self, tenant: Tenant) -> None:
        if not isinstance(tenant, Tenant):
            raise InvalidInput(f"scope: expected a Tenant, got {type(tenant).__name__}; verify a token to get one")
        self.tenant = tenant
        self._entered = False

    def __enter__(self) -> Tenant:
        if self._entered:
            raise TenantMismatch("this scope is already open: make a new one for each entry")
        refuse_other(self.tenant)
        outer = _frame.get()
        _frame.set(Frame(self.tenant, outer.open_call if outer is not None else None, self, outer))
        self._entered = True
        return self.tenant

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _frame.set(_without(_frame.get(), self))
        self._entered = False

    async def __aenter__(self) -> Tenant:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def _without(frame: Frame | None, entry: object) -> Frame | None:
    """The frames less the one that this scope put there.

    A generator with a scope in it may be closed by a collector, in anybody's context: that one stays as it is.
    """
    if frame is None:
        return None
    if frame.entry is entry:
        return frame.outer
    outer = _without(frame.outer, entry)
    return frame if outer is frame.outer else Frame(frame.tenant, frame.open_call, frame.entry, outer)


def _put_back(token: Token[Frame | None]) -> bool:
    """Undo a swap; False when a collector closes the step in another context, which keeps its own frame."""
    try:
        _frame.reset(token)
    except ValueError:  # "was created in a different Context"
        return False
    return True


class _Pinned:
    """A frame that goes in for one step and comes back as the step left it; the outer frame returns after.

    The way back is the step's local, not the object's: two tasks may try to step one iterator at once.
    """

    _inner: Any = None

    def __init__(self) -> None:
        self.tenant = current_tenant()
        self._frame = Frame(self.tenant, open_call())

    def _enter(self) -> Token[Frame | None]:
        return _frame.set(self._frame)

    def _leave(self, token: Token[Frame | None]) -> None:
        left = _frame.get()
        if _put_back(token) and left is not None and left.tenant == self.tenant:
            self._frame = left

    def __del__(self) -> None:
        # An abandoned generator is closed where it is dropped: its finally blocks run for its own tenant too.
        if self._inner is not None:
            token = self._enter()
            self._inner = None
            _put_back(token)


class PinnedIterator(_Pinned, Generic[T]):
    """An iterator each step of which runs for the tenant it was made under, whoever steps it."""

    def __init__(self, inner: Iterator[T]) -> None:
        super().__init__()
        self._inner: Iterator[T] = inner

    def __iter__(self) -> PinnedIterator[T]:
        return self

    def __next__(self) -> T:
        try:
            refuse_other(self.tenant)
        except TenantMismatch:
            self.close()
            raise
        token = self._enter()
        try:
            return next(self._inner)
        finally:
            self._leave(token)

    def close(self) -> None:
        """Close the inner iterator under its own tenant, so that it settles what it had begun."""
        close = getattr(self._inner, "close", None)
        if close is not None:
            token = self._enter()
            try:
                close()
            finally:
                self._leave(token)

    def __enter__(self) -> PinnedIterator[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PinnedAsyncIterator(_Pinned, Generic[T]):
    """The async twin of PinnedIterator: any task may resume it, none can change its tenant."""

    def __init__(self, inner: AsyncIterator[T]) -> None:
        super().__init__()
        self._inner: AsyncIterator[T] = inner

    def __aiter__(self) -> PinnedAsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            refuse_other(self.tenant)
        except TenantMismatch:
            await self.aclose()
            raise
        token = self._enter()
        try:
            return await anext(self._inner)
        finally:
            self._leave(token)

    async def aclose(self) -> None:
        """Close the inner iterator under its own tenant, so that it settles what it had begun."""
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            token = self._enter()
            try:
                await close()
            finally:
                self._leave(token)

    async def __aenter__(self) -> PinnedAsyncIterator[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@overload
def pin(inner: AsyncIterator[T]) -> PinnedAsyncIterator[T]: ...
@overload
def pin(inner: Iterator[T]) -> PinnedIterator[T]: ...
def pin(inner: Any) -> Any:
    """Tie an iterator or async iterator to the tenant in context now: a graph's stream, a StreamingResponse's body.

    A step taken without any scope runs for the pinned tenant; a step inside another tenant's scope closes the inner
    iterator, so that it settles, and raises TenantMismatch.
    """
    if hasattr(inner, "__anext__"):
        return PinnedAsyncIterator(inner)
    if hasattr(inner, "__next__"):
        return PinnedIterator(inner)
    if hasattr(inner, "__aiter__"):
        return PinnedAsyncIterator(aiter(inner))
    if hasattr(inner, "__iter__"):
        return PinnedIterator(iter(inner))
    raise InvalidInput(
        f"pin: expected an iterator or async iterator, got {type(inner).__name__}; for a function use bind"
    )


def bind(fn: Callable[P, T]) -> Callable[P, T]:
    """The function tied to the tenant in context now: for threads, pools, callbacks and jobs, sync or async.

    Called inside another tenant's scope it raises TenantMismatch. A generator function gives pinned iterators.
    """
    frame = Frame(current_tenant())

    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def arun(*args: P.args, **kwargs: P.kwargs) -> Any:
            token = _swap_in(frame)
            try:
                return await cast("Callable[P, Awaitable[Any]]", fn)(*args, **kwargs)
            finally:
                _put_back(token)

        return cast("Callable[P, T]", arun)

    @functools.wraps(fn)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        token = _swap_in(frame)
        try:
            result = fn(*args, **kwargs)
            if inspect.isgenerator(result) or inspect.isasyncgen(result):
                return cast("T", pin(cast("Iterator[object]", result)))
            if inspect.iscoroutine(result):
                return cast("T", _awaited(frame, result))
            return result
        finally:
            _put_back(token)

    return run


def frame_of_call() -> Frame:
    """What a call made now is part of, however late its coroutine is awaited: the tenant, and the open model call."""
    return Frame(current_tenant(), open_call())


async def run_in(frame: Frame, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """Await a call in its frame; raises TenantMismatch inside another tenant's scope."""
    token = _swap_in(frame)
    try:
        return await fn(*args, **kwargs)
    finally:
        _put_back(token)


async def _awaited(frame: Frame, work: Awaitable[T]) -> T:
    token = _swap_in(frame)
    try:
        return await work
    finally:
        _put_back(token)


def _swap_in(frame: Frame) -> Token[Frame | None]:
    refuse_other(frame.tenant)
    return _frame.set(frame)
