"""No interleaving of tasks, threads, cancelled tasks and resumed streams changes the tenant an operation runs under."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tenant_middleware import context
from tenant_middleware.errors import MissingTenant, TenantMismatch
from tenant_middleware.tenant import Tenant
from tests.core.actors import Actor, TaskActor, ThreadActor

TENANTS = [Tenant("acme", "gold", "ann"), Tenant("Acme", "gold", "ann"), Tenant("acme2", "gold", "ann")]
TENANTS += [Tenant("acme", "gold", "bob"), Tenant("acme", "free", "ann")]

picks = st.integers(0, 1_000)
tenants = st.sampled_from(TENANTS)


class Operations:
    """What ran for whom: each operation notes the tenant it should have and the one it found."""

    ever_flipped: ClassVar[int] = 0

    def __init__(self) -> None:
        self.flips: list[tuple[str, Tenant, Tenant | None]] = []
        self.ran = 0

    def note(self, what: str, owner: Tenant) -> None:
        self.ran += 1
        try:
            found: Tenant | None = context.current_tenant()
        except MissingTenant:
            found = None
        if found != owner:
            self.flips.append((what, owner, found))
            Operations.ever_flipped += 1

    def stream(self, owner: Tenant, nested: bool) -> Iterator[int]:
        try:
            for step in range(4):
                self.note("step", owner)
                if nested:
                    with context.scope(owner):
                        yield step
                else:
                    yield step
        finally:
            self.note("end of a stream", owner)

    async def astream(self, owner: Tenant, nested: bool) -> AsyncIterator[int]:
        try:
            for step in range(4):
                self.note("async step", owner)
                await asyncio.sleep(0)
                self.note("async step, after a wait", owner)
                if nested:
                    async with context.scope(owner):
                        yield step
                else:
                    yield step
        finally:
            self.note("end of an async stream", owner)

    async def hanging(self, owner: Tenant) -> AsyncIterator[int]:
        try:
            while True:
                self.note("step of a slow stream", owner)
                await asyncio.sleep(3600)
                yield 0
        finally:
            self.note("end of a slow stream", owner)


class Line:
    """An actor and what the model says about it: the tenant it started with and its open scopes."""

    def __init__(self, actor: Actor, base: Tenant | None) -> None:
        self.actor, self.base, self.scopes = actor, base, list[tuple[context.scope, Tenant]]()

    @property
    def tenant(self) -> Tenant | None:
        return self.scopes[-1][1] if self.scopes else self.base


class Schedules(RuleBasedStateMachine):
    """Actors enter and leave scopes, make and step each other's streams, call each other's bound functions."""

    pin: staticmethod[[Any], Any] = staticmethod(context.pin)
    bind: staticmethod[[Callable[..., Any]], Callable[..., Any]] = staticmethod(context.bind)

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ops = Operations()
        self.lines = [Line(TaskActor(self.loop), None), Line(TaskActor(self.loop), None), Line(ThreadActor(), None)]
        self.streams: list[tuple[Any, Tenant]] = []
        self.bound: list[tuple[Callable[..., Any], Tenant]] = []

    def line(self, pick: int, *, task: bool = False) -> Line:
        chosen = [line for line in self.lines if isinstance(line.actor, TaskActor)] if task else self.lines
        return chosen[pick % len(chosen)]

    @rule(pick=picks, tenant=tenants)
    def enter(self, pick: int, tenant: Tenant) -> None:
        line, opened = self.line(pick), context.scope(tenant)
        if line.tenant in (None, tenant):
            line.actor.do(opened.__enter__)
            line.scopes.append((opened, tenant))
        else:
            with pytest.raises(TenantMismatch):
                line.actor.do(opened.__enter__)

    @rule(pick=picks)
    def leave(self, pick: int) -> None:
        line = self.line(pick)
        if line.scopes:
            opened, _ = line.scopes.pop()
            line.actor.do(lambda: opened.__exit__(None, None, None))

    @rule(pick=picks)
    def spawn(self, pick: int) -> None:
        """A child task starts with what its parent has, and keeps it when the parent leaves."""
        parent = self.line(pick, task=True)
        if len(self.lines) < 6:
            child = parent.actor.do(lambda: TaskActor(self.loop))
            self.lines.append(Line(child, parent.tenant))

    @rule(pick=picks, sync=st.booleans(), nested=st.booleans())
    def start_stream(self, pick: int, sync: bool, nested: bool) -> None:
        line = self.line(pick)
        owner = line.tenant
        if owner is None:
            with pytest.raises(MissingTenant):
                line.actor.do(lambda: self.pin(iter(())))
            return
        make = self.ops.stream if sync else self.ops.astream
        self.streams.append((line.actor.do(lambda: self.pin(make(owner, nested))), owner))

    @precondition(lambda self: self.streams)
    @rule(pick=picks, which=picks)
    def step(self, pick: int, which: int) -> None:
        stream, owner = self.streams[which % len(self.streams)]
        line = self.line(pick, task=hasattr(stream, "__anext__"))
        ended: type[BaseException]
        if hasattr(stream, "__anext__"):
            command, ended = (lambda: anext(stream)), StopAsyncIteration
        else:
            command, ended = (lambda: next(stream, None)), StopIteration
        if line.tenant in (None, owner):
            with contextlib.suppress(ended):
                line.actor.do(command)
        else:
            self.refused(line, command)
            self.streams.remove((stream, owner))

    @precondition(lambda self: self.streams)
    @rule(pick=picks, which=picks)
    def close(self, pick: int, which: int) -> None:
        stream, _ = self.streams.pop(which % len(self.streams))
        line = self.line(pick, task=hasattr(stream, "aclose"))
        line.actor.do(stream.aclose if hasattr(stream, "aclose") else stream.close)

    @precondition(lambda self: self.streams)
    @rule(pick=picks, which=picks)
    def abandon(self, pick: int, which: int) -> None:
        """The last reference goes inside somebody's context, and the collector closes what is left there."""
        dropped = [self.streams.pop(which % len(self.streams))]
        self.line(pick).actor.do(dropped.clear)
        self.settle()

    @rule(pick=picks, scoped=tenants)
    def drop_a_generator_that_holds_a_scope(self, pick: int, scoped: Tenant) -> None:
        """Nobody pinned it, and it is closed while another tenant's code runs."""

        def held() -> Iterator[int]:
            with context.scope(scoped):
                yield 1

        def start() -> Iterator[int]:
            with context.scope(scoped):
                generator = held()
                next(generator)
                return generator

        maker = ThreadActor()
        generator = [maker.do(start)]
        maker.stop()
        self.line(pick).actor.do(lambda: generator.pop().close())  # type: ignore[attr-defined]  # a generator

    @rule(maker=picks, pick=picks)
    def cancel_in_the_middle_of_a_step(self, maker: int, pick: int) -> None:
        line = self.line(maker, task=True)
        owner = line.tenant
        if owner is None:
            return
        stream = line.actor.do(lambda: self.pin(self.ops.hanging(owner)))
        victim = line.actor.do(lambda: TaskActor(self.loop))
        task = victim.task
        pending = self.loop.create_task(asyncio.sleep(0))
        victim._commands.put_nowait((lambda: anext(stream), self.loop.create_future()))
        self.loop.run_until_complete(pending)
        self.line(pick, task=True).actor.do(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            self.loop.run_until_complete(task)

    @rule(maker=picks, first=picks, second=picks)
    def two_tasks_step_one_iterator(self, maker: int, first: int, second: int) -> None:
        line = self.line(maker, task=True)
        owner = line.tenant
        if owner is None:
            return
        stream = line.actor.do(lambda: self.pin(self.ops.astream(owner, False)))

        async def both() -> list[Any]:
            steps = [asyncio.ensure_future(anext(stream)) for _ in range(2)]
            return await asyncio.gather(*steps, return_exceptions=True)

        got = [str(type(one).__name__) for one in line.actor.do(both)]
        assert sorted(got) == ["RuntimeError", "int"], got
        self.streams.append((stream, owner))

    @rule(pick=picks, kind=st.sampled_from(["sync", "async", "generator", "object"]))
    def make_bound(self, pick: int, kind: str) -> None:
        line = self.line(pick)
        owner = line.tenant
        if owner is None:
            with pytest.raises(MissingTenant):
                line.actor.do(lambda: self.bind(print))
            return
        self.bound.append((line.actor.do(lambda: self.bind(work(self.ops, owner, kind))), owner))

    @precondition(lambda self: self.bound)
    @rule(pick=picks, which=picks)
    def call_bound(self, pick: int, which: int) -> None:
        function, owner = self.bound[which % len(self.bound)]
        line = self.line(pick, task=True)
        if line.tenant in (None, owner):
            result = line.actor.do(function)
            if hasattr(result, "__next__"):
                self.streams.append((result, owner))
        else:
            self.refused(line, function)

    def refused(self, line: Line, command: Callable[[], Any]) -> None:
        with pytest.raises(TenantMismatch):
            line.actor.do(command)

    @invariant()
    def every_operation_ran_for_its_own_tenant(self) -> None:
        assert self.ops.flips == []

    @invariant()
    def every_line_has_the_tenant_it_should(self) -> None:
        for line in self.lines:
            assert line.actor.do(context.peek_tenant) == line.tenant

    def settle(self) -> None:
        gc.collect()
        for _ in range(4):  # the loop closes abandoned async generators in tasks of its own
            self.loop.run_until_complete(asyncio.sleep(0))

    def teardown(self) -> None:
        while self.streams:
            stream, _ = self.streams.pop()
            close = getattr(stream, "aclose", None)
            self.lines[0].actor.do(close or stream.close)
        for line in self.lines:
            line.actor.stop()
        self.settle()
        self.loop.close()
        assert self.ops.flips == []


def work(ops: Operations, owner: Tenant, kind: str) -> Callable[[], Any]:
    def plain() -> None:
        ops.note("bound call", owner)

    async def later() -> None:
        await asyncio.sleep(0)
        ops.note("bound coroutine", owner)

    class Callback:
        """A callable object: nothing tells beforehand that it returns a coroutine."""

        def __call__(self) -> Any:
            return later()

    kinds: dict[str, Callable[[], Any]] = {
        "sync": plain,
        "async": later,
        "generator": lambda: ops.stream(owner, False),
        "object": Callback(),
    }
    return kinds[kind]


Schedules.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestSchedules = Schedules.TestCase


class Unguarded(Schedules):
    """The control: nothing is refused, so that only what ran for whom can tell."""

    def refused(self, line: Line, command: Callable[[], Any]) -> None:
        with contextlib.suppress(StopAsyncIteration, StopIteration):
            line.actor.do(command)


class Unpinned(Unguarded):
    pin = staticmethod(lambda inner: context.current_tenant() and inner)


class Unbound(Unguarded):
    bind = staticmethod(lambda function: context.current_tenant() and function)


@pytest.mark.parametrize("mutant", [Unpinned, Unbound])
def test_without_the_pin_the_same_schedules_turn_red(mutant: type[Schedules], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and cancelled tasks don't go wrong the same way twice: what counts is that something ran for another."""
    monkeypatch.setattr(Operations, "ever_flipped", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a red machine leaves behind
        for attempt in range(5):  # a machine ends at its first error, which may be that of a thread without a tenant
            looking = settings(
                max_examples=300,
                stateful_step_count=30,
                derandomize=attempt == 0,
                database=None,
                phases=[Phase.generate],
            )
            with pytest.raises((Exception, asyncio.CancelledError)):
                run_state_machine_as_test(mutant, settings=looking)
            if Operations.ever_flipped:
                break
    assert Operations.ever_flipped
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
