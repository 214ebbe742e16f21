"""Any schedule of a pool: slots are never exceeded and never leak, nobody is lost, nobody starves."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from tenant_middleware.admission.queueing.lane import Job, State
from tenant_middleware.admission.queueing.order import Order, VirtualTokens, WeightedRoundRobin
from tenant_middleware.admission.queueing.pool import Pool
from tenant_middleware.admission.queueing.terms import LaneCaps, PoolTerms

TENANTS = st.sampled_from(["Acme", "acme", "acme2", "d", "e"])
TOKENS = st.integers(0, 5000)
SLOTS, LANE, MAX_WAIT, MAX_RUNTIME, LONGEST = 3, 2, 20.0, 50.0, 5.0


class AnySchedule(RuleBasedStateMachine):
    """The pool against a plain count of what waits and what runs."""

    order: type[Order] = VirtualTokens
    queued = Bundle("queued")
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        terms = PoolTerms(SLOTS, max_wait=MAX_WAIT, max_runtime=MAX_RUNTIME, caps=LaneCaps(max_running=LANE))
        self.pool = Pool(terms, self.order())
        self.now = 0.0
        self.waiting: set[Job] = set()
        self.started: set[Job] = set()

    @rule(target=queued, tenant=TENANTS, prompt=TOKENS, output=TOKENS, weight=st.sampled_from([0.1, 1.0, 4.0]))
    def push(self, tenant: str, prompt: int, output: int, weight: float) -> Job:
        job = Job(tenant, "m", prompt, output, weight)
        self.pool.push(job, self.now)
        self.waiting.add(job)
        return job

    @rule(target=running)
    def pop(self) -> object:
        job = self.pool.pop(self.now)
        if job is None:
            return multiple()
        assert job in self.waiting and job.state is State.RUNNING
        self.waiting.remove(job)
        self.started.add(job)
        return job

    @rule(job=queued)
    def cancel(self, job: Job) -> None:
        assert self.pool.cancel(job, self.now) == (job in self.waiting)
        self.waiting.discard(job)

    @rule(target=queued, job=consumes(running), seconds=st.floats(0, 30))
    def park(self, job: Job, seconds: float) -> object:
        self.pool.park(job, self.now + seconds, self.now)
        if job not in self.started:
            return multiple()
        self.started.remove(job)
        self.waiting.add(job)
        return job

    @rule(job=running, tokens=TOKENS)
    def progress(self, job: Job, tokens: int) -> None:
        self.pool.progress(job, tokens, self.now)

    @rule(job=running, prompt=TOKENS, output=TOKENS)
    def done(self, job: Job, prompt: int, output: int) -> None:
        known = job.state in (State.RUNNING, State.OVERDUE)
        assert self.pool.done(job, prompt, output, self.now) == known
        self.started.discard(job)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for job in self.pool.overdue(self.now):
            assert self.now - job.started_at > MAX_RUNTIME
            self.started.remove(job)

    @invariant()
    def nothing_is_lost_and_nothing_is_exceeded(self) -> None:
        assert self.pool.running == len(self.started) <= SLOTS
        assert self.pool.queued == len(self.waiting)
        for tenant in ("Acme", "acme", "acme2", "d", "e"):
            assert self.pool.length(tenant) == sum(job.tenant_id == tenant for job in self.waiting)
            assert sum(job.tenant_id == tenant for job in self.started) <= LANE
        for lane in self.pool.lanes:
            held = [job.charged for job in self.started if job.tenant_id == lane.tenant_id]
            assert lane.running == len(held)
            assert abs(lane.tokens - sum(held)) < 1e-3

    @precondition(lambda self: not self.started)
    @rule()
    def everything_can_be_served(self) -> None:
        """With all slots free and all parks over, nobody stays behind."""
        self.now += 1000.0
        for _ in range(len(self.waiting)):
            job = self.pool.pop(self.now)
            assert job is not None
            self.waiting.remove(job)
            self.pool.progress(job, 0, self.now)
            self.pool.done(job, job.prompt_tokens, job.max_output, self.now)
        assert not self.waiting and self.pool.pop(self.now) is None


class NobodyStarves(RuleBasedStateMachine):
    """However floods, weights and sizes are mixed, a waiting tenant is served within the stated bound."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(PoolTerms(SLOTS, max_wait=MAX_WAIT, max_runtime=MAX_RUNTIME))
        self.now = 0.0
        self.ends: dict[Job, float] = {}
        self.tenants = 5

    @rule(
        tenant=TENANTS,
        many=st.integers(5, 60),
        prompt=st.sampled_from([0, 100, 50_000]),
        weight=st.sampled_from([1e-6, 0.01, 1.0, 100.0]),
    )
    def flood(self, tenant: str, many: int, prompt: int, weight: float) -> None:
        for _ in range(many):
            self.pool.push(Job(tenant, "m", prompt, 0, weight), self.now)
        self.serve()

    @rule(steps=st.integers(10, 60), runtime=st.floats(1.0, LONGEST))
    def time_passes(self, steps: int, runtime: float) -> None:
        for _ in range(steps):
            if not self.ends:
                return
            job = min(self.ends, key=lambda each: self.ends[each])
            self.now = max(self.now, self.ends.pop(job))
            self.pool.done(job, job.prompt_tokens, 0, self.now)
            self.serve(runtime)

    def serve(self, runtime: float = LONGEST) -> None:
        while (job := self.pool.pop(self.now)) is not None:
            self.ends[job] = self.now + runtime

    @invariant()
    def within_the_bound(self) -> None:
        bound = MAX_WAIT + LONGEST * (1 + 4 * self.tenants / SLOTS)
        for lane in self.pool.lanes:
            if lane.jobs:
                assert self.now - lane.waiting_since <= bound + 1e-6


class AnyRoundRobin(AnySchedule):
    order = WeightedRoundRobin


TestAnySchedule = AnySchedule.TestCase
TestAnyRoundRobin = AnyRoundRobin.TestCase
TestNobodyStarves = NobodyStarves.TestCase
for case in (TestAnySchedule, TestAnyRoundRobin, TestNobodyStarves):
    case.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
