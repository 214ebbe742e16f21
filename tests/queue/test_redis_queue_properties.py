"""Any schedule of a pool in Redis: the script decides as the in-process pool does, and starves nobody."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tenant_middleware.admission.queueing.lane import Job, State
from tenant_middleware.admission.queueing.pool import Pool
from tenant_middleware.admission.queueing.pools import ORDERS, OrderName, PoolRule
from tenant_middleware.admission.queueing.terms import LaneCaps, PoolTerms
from tenant_middleware.backends.redis.shared_pool import Lease

from .scripted import Scripted

TENANTS = st.sampled_from(["Acme", "acme", "acme2", "d", "e"])
TOKENS = st.integers(0, 5000)
SECONDS = st.sampled_from([0.25, 1.0, 7.0, 20.0])
WEIGHTS = st.sampled_from([0.5, 1.0, 4.0])  # exact in binary, so that both sides round alike
SLOTS, LANE, MAX_RUNTIME, LONGEST, MAX_WAIT = 3, 2, 50.1, 5.0, 20.0


class Both:
    """One call, in the reference and in Redis."""

    def __init__(self, job: Job, lease: Lease) -> None:
        self.job, self.lease = job, lease


class AsTheReference(RuleBasedStateMachine):
    """Each step is done in both; then the same calls run, and the same wait."""

    calls = Bundle("calls")

    def __init__(self, url: str, order: OrderName) -> None:
        super().__init__()
        caps = LaneCaps(max_running=LANE, max_tokens=12_000, max_length=8)
        terms = PoolTerms(SLOTS, max_wait=1e9, max_runtime=MAX_RUNTIME, prior_output=64, caps=caps)
        self.reference = Pool(terms, ORDERS[order]())
        self.shared = Scripted(url, PoolRule("p", ("m",), terms, order))
        self.both: list[Both] = []

    def dispatch(self) -> None:
        self.reference.overdue(self.shared.now)
        while self.reference.pop(self.shared.now) is not None:
            pass

    @rule(target=calls, tenant=TENANTS, prompt=TOKENS, output=TOKENS, weight=WEIGHTS)
    def push(self, tenant: str, prompt: int, output: int, weight: float) -> object:
        if self.reference.full(tenant):
            return multiple()
        job = Job(tenant, "m", prompt, output, weight)
        self.reference.push(job, self.shared.now)
        self.dispatch()
        self.both.append(Both(job, self.shared.push(tenant, prompt, output, weight)))
        return self.both[-1]

    @rule(call=calls, seconds=SECONDS)
    def park(self, call: Both, seconds: float) -> None:
        if call.job.state is State.RUNNING:
            self.reference.park(call.job, self.shared.now + seconds, self.shared.now)
            self.dispatch()
            self.shared.park(call.lease, seconds)

    @rule(call=calls, output=TOKENS)
    def progress(self, call: Both, output: int) -> None:
        if call.job.state is State.RUNNING:
            self.reference.progress(call.job, output, self.shared.now)
            self.dispatch()
            self.shared.progress(call.lease, output)

    @rule(call=consumes(calls), prompt=TOKENS, output=TOKENS)
    def end(self, call: Both, prompt: int, output: int) -> None:
        if self.reference.cancel(call.job, self.shared.now):
            prompt = output = 0
        else:
            self.reference.done(call.job, prompt, output, self.shared.now)
        self.dispatch()
        self.shared.leave(call.lease, prompt, output)
        self.both.remove(call)

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.shared.now += seconds
        self.dispatch()
        self.shared.tick()

    @invariant()
    def both_agree(self) -> None:
        self.shared.now += 2**-10
        running = [call for call in self.both if call.job.state is State.RUNNING]
        assert len(running) <= SLOTS
        for call in self.both:
            if call.job.state is not State.OVERDUE:
                assert call.lease.ready == (call.job.state is State.RUNNING)
                assert not call.lease.ready or call.lease.probe == call.job.probe
        state = self.shared.links.run(self.shared.pool.state())
        assert (state.running, state.waiting) == (len(running), self.reference.queued)
        there = {lane.tenant_id: lane for lane in state.lanes}
        for lane in self.reference.lanes:
            if not lane.idle:
                other = there[lane.tenant_id]
                assert (other.running, other.waiting, other.weight) == (lane.running, len(lane.jobs), lane.weight)

    def teardown(self) -> None:
        for call in list(self.both):
            self.end(call, 1, 1)
        state = self.shared.links.run(self.shared.pool.state())
        assert (state.running, state.waiting) == (0, 0)
        assert self.shared.client.hlen(f"{self.shared.pool.key}jobs") == 0
        self.shared.close()


@pytest.mark.parametrize("order", list(ORDERS))
def test_the_script_decides_as_the_reference_does(redis_url: str, order: OrderName) -> None:
    run_state_machine_as_test(
        lambda: AsTheReference(redis_url, order), settings=settings(max_examples=60, stateful_step_count=40)
    )


class NobodyStarves(RuleBasedStateMachine):
    """However floods, weights and sizes are mixed, a waiting tenant is served within the stated bound."""

    def __init__(self, url: str) -> None:
        super().__init__()
        terms = PoolTerms(SLOTS, max_wait=MAX_WAIT, max_runtime=MAX_RUNTIME)
        self.shared = Scripted(url, PoolRule("p", ("m",), terms))
        self.ends: dict[Lease, float] = {}
        self.waiting: dict[Lease, float] = {}
        self.served: dict[str, float] = {}

    @rule(
        tenant=TENANTS,
        many=st.integers(3, 12),
        prompt=st.sampled_from([0, 100, 50_000]),
        weight=st.sampled_from([1e-6, 0.01, 1.0, 100.0]),
    )
    def flood(self, tenant: str, many: int, prompt: int, weight: float) -> None:
        for _ in range(many):
            self.waiting[self.shared.push(tenant, prompt, 0, weight)] = self.shared.now
        self.note(LONGEST)

    @rule(steps=st.integers(5, 25), runtime=st.floats(1.0, LONGEST))
    def time_passes(self, steps: int, runtime: float) -> None:
        for _ in range(steps):
            if not self.ends:
                return
            lease = min(self.ends, key=lambda each: self.ends[each])
            self.shared.now = max(self.shared.now, self.ends.pop(lease))
            self.shared.leave(lease, lease.ticket.prompt_tokens, 0)
            self.note(runtime)

    def note(self, runtime: float) -> None:
        for lease in [each for each in self.waiting if each.ready]:
            del self.waiting[lease]
            self.ends[lease] = self.shared.now + runtime
            self.served[lease.ticket.tenant.id] = self.shared.now
        assert len(self.ends) <= SLOTS

    @invariant()
    def within_the_bound(self) -> None:
        bound = MAX_WAIT + LONGEST * (1 + 4 * 5 / SLOTS)
        for lease, since in self.waiting.items():
            last = max(since, self.served.get(lease.ticket.tenant.id, since))
            first = min(s for each, s in self.waiting.items() if each.ticket.tenant == lease.ticket.tenant)
            if since == first:
                assert self.shared.now - last <= bound + 1e-3

    def teardown(self) -> None:
        self.shared.close()


def test_no_schedule_starves_a_tenant(redis_url: str) -> None:
    run_state_machine_as_test(
        lambda: NobodyStarves(redis_url), settings=settings(max_examples=20, stateful_step_count=20)
    )
