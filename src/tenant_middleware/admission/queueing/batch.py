"""Many jobs of one tenant, a few at a time, with a progress bar."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tenant_middleware.admission.call import new_call_id
from tenant_middleware.admission.queue import Slot, Ticket
from tenant_middleware.clock import Clock
from tenant_middleware.context import scope
from tenant_middleware.errors import BudgetBusy, RateLimited
from tenant_middleware.flow import to_its_end
from tenant_middleware.tenant import Tenant

R = TypeVar("R")
# A batch has time: its jobs wait for a slot until they get one.
_PATIENCE_S = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class PoolUse:
    """For jobs whose model calls don't pass the gate: whose pool they draw from, and what each is expected to use.

    `used` tells prompt and completion tokens from a job's result; without it a job is charged as expected.
    """

    model: str
    prompt_tokens: int = 0
    max_output: int = 0
    weight: float = 1.0
    used: Callable[[Any], tuple[int, int]] | None = None

    def ticket(self, tenant: Tenant) -> Ticket:
        sizes = (self.prompt_tokens, self.max_output)
        return Ticket(tenant, new_call_id(), self.model, *sizes, self.weight, _PATIENCE_S)

    def cost(self, result: object) -> tuple[int, int]:
        return (self.prompt_tokens, self.max_output) if self.used is None else self.used(result)


class _Waits(Protocol):
    """What a batch needs of its queue."""

    _clock: Clock

    def enter(self, ticket: Ticket) -> Slot: ...
    def leave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None: ...
    async def aenter(self, ticket: Ticket) -> Slot: ...
    async def aleave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None: ...


class Batches:
    """`map` and `amap` of a queue.

    Jobs run under the tenant's scope, `at_once` of them at a time; results come in the order of the jobs. Jobs that
    call models wait at the gate; others take a slot of `pool`. A callable that is refused for now (RateLimited,
    BudgetBusy) runs again when its `retry_after` has passed; any other error stops the batch and is raised.
    """

    def map(
        self: _Waits,
        tenant: Tenant,
        jobs: Iterable[Callable[[], R]],
        *,
        at_once: int = 16,
        pool: PoolUse | None = None,
        progress: bool = True,
    ) -> list[R]:
        """Run callables in threads, and block until the last has ended."""

        def once(job: Callable[[], R]) -> R:
            if pool is None:
                return job()
            slot, cost = self.enter(pool.ticket(tenant)), (0, 0)
            try:
                result = job()
                cost = pool.cost(result)
                return result
            finally:
                self.leave(slot, *cost)

        def patiently(job: Callable[[], R]) -> R:
            while True:
                try:
                    with scope(tenant):
                        return once(job)
                except (RateLimited, BudgetBusy) as refusal:
                    self._clock.sleep(_worth_a_wait(refusal))

        todo = tuple(jobs)
        with ThreadPoolExecutor(at_once, "tenant-batch") as threads, _bar(tenant, len(todo), shown=progress) as advance:
            running = [threads.submit(patiently, job) for job in todo]
            try:
                for each in as_completed(running):
                    each.result()
                    advance()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
            return [each.result() for each in running]

    async def amap(
        self: _Waits,
        tenant: Tenant,
        jobs: Iterable[Callable[[], Awaitable[R]] | Awaitable[R]],
        *,
        at_once: int = 16,
        pool: PoolUse | None = None,
        progress: bool = True,
    ) -> list[R]:
        """Run awaitables, or callables that give one; a bare awaitable can't run again when it is refused."""
        turns = asyncio.Semaphore(at_once)

        async def once(job: Callable[[], Awaitable[R]] | Awaitable[R]) -> R:
            if pool is None:
                return await (job() if callable(job) else job)
            slot, cost = await self.aenter(pool.ticket(tenant)), (0, 0)
            try:
                result = await (job() if callable(job) else job)
                cost = pool.cost(result)
                return result
            finally:
                await to_its_end(self.aleave(slot, *cost))

        async def patiently(job: Callable[[], Awaitable[R]] | Awaitable[R]) -> R:
            async with turns:
                while True:
                    try:
                        with scope(tenant):
                            result = await once(job)
                        advance()
                        return result
                    except (RateLimited, BudgetBusy) as refusal:
                        if not callable(job):
                            raise
                        await self._clock.asleep(_worth_a_wait(refusal))

        todo = tuple(jobs)
        with _bar(tenant, len(todo), shown=progress) as advance:
            try:
                async with asyncio.TaskGroup() as group:
                    running = [group.create_task(patiently(job)) for job in todo]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                _close(todo)
        return [each.result() for each in running]


def _worth_a_wait(refusal: RateLimited | BudgetBusy) -> float:
    """How long to wait before a job runs again; raises when no wait helps."""
    never = isinstance(refusal, RateLimited) and refusal.never_admissible
    if never or refusal.retry_after is None:
        raise refusal
    return refusal.retry_after


def _close(jobs: Sequence[object]) -> None:
    """Coroutines that never ran would complain when they are collected."""
    for job in jobs:
        if inspect.iscoroutine(job):
            job.close()


@contextmanager
def _bar(tenant: Tenant, jobs: int, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, where there is a terminal to draw it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bars:
        task = bars.add_task(escape(tenant.id), total=jobs)
        yield lambda: bars.advance(task)
