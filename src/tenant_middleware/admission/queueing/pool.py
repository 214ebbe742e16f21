"""The scheduler of one pool of slots: pure, given the time, without waiting. All operations are O(log tenants)."""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict

from tenant_middleware.admission.queueing.lane import Job, Lane, State
from tenant_middleware.admission.queueing.means import OutputMeans
from tenant_middleware.admission.queueing.order import Key, Order, VirtualTokens
from tenant_middleware.admission.queueing.tally import Tallies
from tenant_middleware.admission.queueing.terms import PoolTerms

_SLACK = 64  # stale heap entries that are not worth a clean-up
_SWEPT = 2  # idle lanes looked at per operation, so that forgetting them never takes long
# Of so many starts in a row, one may go to a tenant that waited too long. When there are too many tenants to serve
# each within `max_wait`, all of them have; then the other starts keep to the order, with its weights and sizes.
_AGED_ONE_IN = 4


class Pool:
    """Who runs, who waits, who is next. A job goes push -> pop -> (progress, park)* -> done, or push -> cancel.

    A tenant with weight above 0 whose caps let it run is served at least every
    `max_wait + R * (1 + 4 * tenants / slots)` seconds, R being the longest time a call holds its slot.
    """

    def __init__(self, terms: PoolTerms, order: Order | None = None, means: OutputMeans | None = None) -> None:
        self.terms = terms
        self.tallies = Tallies()
        self._order = order if order is not None else VirtualTokens()
        self._means = means if means is not None else OutputMeans(terms.prior_output)
        self._lanes: dict[str, Lane] = {}
        self._ready = 0
        self._turns: list[tuple[Key, int, Lane]] = []
        self._ages: list[tuple[float, int, int, Lane]] = []
        self._parked: list[tuple[float, int, Lane]] = []
        self._running: OrderedDict[int, Job] = OrderedDict()
        self._idle: OrderedDict[str, Lane] = OrderedDict()
        self._count = itertools.count(1)
        self._in_turn = _AGED_ONE_IN
        self.queued = 0

    @property
    def running(self) -> int:
        return len(self._running)

    def knows(self, tenant_id: str) -> bool:
        """Whether a tenant has calls waiting or running here, or had lately."""
        return tenant_id in self._lanes

    def oldest_wait(self, tenant_id: str, now: float) -> float:
        """How long a tenant's first call has waited."""
        lane = self._lanes.get(tenant_id)
        return now - lane.head.queued_at if lane and lane.jobs else 0.0

    def parked_until(self, tenant_id: str) -> float | None:
        """Until when a tenant stands aside."""
        lane = self._lanes.get(tenant_id)
        return lane.parked_until if lane else None

    @property
    def lanes(self) -> tuple[Lane, ...]:
        return tuple(self._lanes.values())

    def length(self, tenant_id: str) -> int:
        """How many jobs of a tenant wait."""
        lane = self._lanes.get(tenant_id)
        return len(lane.jobs) if lane else 0

    def full(self, tenant_id: str) -> bool:
        """Whether a tenant's line has reached its cap; then `push` would exceed it."""
        most = self.terms.caps.max_length
        return most is not None and self.length(tenant_id) >= most

    def forget(self, tenant_id: str) -> bool:
        """Drop what is known of a tenant that left; its lane stays while it has calls. Says whether there was any."""
        known = [self.tallies.forget(tenant_id), self._means.forget(tenant_id)]
        lane = self._lanes.get(tenant_id)
        if lane is not None and lane.idle:
            lane.parked_until = None  # its entries in the heaps are stale now
            self._idle.pop(tenant_id, None)
            del self._lanes[tenant_id]
        return any(known) or lane is not None

    def push(self, job: Job, now: float) -> None:
        """Put a job at the end of its tenant's line; its weight becomes the tenant's from now on."""
        lane = self._lane(job.tenant_id, job.weight)
        job.seq, job.queued_at, job.state = next(self._count), now, State.QUEUED
        lane.weight = job.weight
        lane.jobs[job.seq] = job
        self.queued += 1
        self._refresh(lane, now)

    def pop(self, now: float) -> Job | None:
        """Start the next job, if a slot is free and somebody may run."""
        self._unpark(now)
        if self.terms.slots is not None and len(self._running) >= self.terms.slots:
            return None
        lane, in_turn = self._next(now)
        if lane is None:
            return None
        job = lane.jobs.popitem(last=False)[1]
        self.queued -= 1
        self._start(lane, job, now, in_turn=in_turn)
        self._refresh(lane, now)
        self._sweep()
        return job

    def cancel(self, job: Job, now: float) -> bool:
        """Take a waiting job out, in constant time and at no charge; False when it isn't waiting."""
        if job.state is not State.QUEUED:
            return False
        lane = self._lanes[job.tenant_id]
        was_head = lane.head is job
        del lane.jobs[job.seq]
        job.state = State.ENDED
        self.queued -= 1
        if was_head:
            self._refresh(lane, now)
        return True

    def park(self, job: Job, until: float, now: float) -> None:
        """A limit denied this running job: back to its place in line, uncharged, and its tenant stands aside."""
        if job.state is not State.RUNNING:
            return
        lane = self._lanes[job.tenant_id]
        self._stop(lane, job, 0.0)
        job.state = State.QUEUED
        lane.put_back(job)
        self.queued += 1
        self._set_aside(lane, until, now)

    def set_aside(self, tenant_id: str, until: float, now: float) -> None:
        """Nothing of this waiting tenant starts before `until`, or before one of its running calls ends."""
        lane = self._lanes.get(tenant_id)
        if lane is not None:
            self._set_aside(lane, until, now)

    def progress(self, job: Job, completion_tokens: int, now: float) -> None:
        """The job has written this much so far: raise its charge once it outgrows the estimate."""
        if job.state is not State.RUNNING:
            return
        lane = self._lanes[job.tenant_id]
        cost = self.terms.cost(job.prompt_tokens, completion_tokens)
        more = cost > job.charged
        if more:
            self._correct(lane, job, cost)
        if lane.probe is job:
            self._admitted(lane)
        elif not more:
            return
        self._refresh(lane, now)

    def done(self, job: Job, prompt_tokens: int, completion_tokens: int, now: float) -> bool:
        """The job ended and used this much; False when that was known before."""
        if job.state not in (State.RUNNING, State.OVERDUE):
            return False
        lane = self._lane(job.tenant_id, job.weight)
        cost = self.terms.cost(prompt_tokens, completion_tokens)
        if job.state is State.RUNNING:
            self._stop(lane, job, cost)
            if lane.parked_until is not None:
                self._retry(lane)  # what this call held may be what the tenant's next one waits for
        else:
            self._order.correct(lane, job, cost - job.charged)  # its tokens left the lane with its slot
            job.charged = cost
        job.state = State.ENDED
        if prompt_tokens or completion_tokens:
            self._means.observe(job.tenant_id, job.model, completion_tokens)
            self.tallies.served(job.tenant_id, cost)
        self._refresh(lane, now)
        if not self.queued and not self._running:
            self._order.rest()
        self._sweep()
        return True

    def overdue(self, now: float) -> list[Job]:
        """Take the slots of jobs that ran longer than `max_runtime`; what they were charged stays charged."""
        late = []
        while self._running and now - (job := next(iter(self._running.values()))).started_at > self.terms.max_runtime:
            lane = self._lanes[job.tenant_id]
            self._stop(lane, job, job.charged)
            job.state = State.OVERDUE
            self._refresh(lane, now)
            late.append(job)
        return late

    def next_event(self) -> float | None:
        """When `pop` or `overdue` may have something new to say although nobody did anything."""
        times = []
        while self._parked and self._parked[0][2].parked_until != self._parked[0][0]:
            heapq.heappop(self._parked)
        if self._parked:
            times.append(self._parked[0][0])
        if self._running and self.queued:
            times.append(next(iter(self._running.values())).started_at + self.terms.max_runtime)
        return min(times, default=None)

    # Starting and stopping.

    def _start(self, lane: Lane, job: Job, now: float, *, in_turn: bool) -> None:
        cost = self._expected(job)
        job.state, job.started_at, job.share, job.charged = State.RUNNING, now, lane.weight, cost
        self._order.charge(lane, job, cost, in_turn=in_turn)
        lane.running += 1
        lane.tokens += cost
        lane.served_at = now
        job.probe = lane.probing
        if lane.probing:
            lane.probe = job
        self._running[job.seq] = job
        self.tallies.started(job.tenant_id, now - job.queued_at)

    def _stop(self, lane: Lane, job: Job, cost: float) -> None:
        self._correct(lane, job, cost)
        lane.running -= 1
        lane.tokens = max(lane.tokens - job.charged, 0.0) if lane.running else 0.0
        if lane.probe is job:
            self._admitted(lane)
        del self._running[job.seq]

    def _correct(self, lane: Lane, job: Job, cost: float) -> None:
        difference = cost - job.charged
        if difference:
            self._order.correct(lane, job, difference)
            job.charged = cost
            lane.tokens = max(lane.tokens + difference, 0.0)

    def _expected(self, job: Job) -> float:
        output = self._means.expect(job.tenant_id, job.model, job.max_output)
        return self.terms.cost(job.prompt_tokens, output)

    def _admitted(self, lane: Lane) -> None:
        lane.probing, lane.probe = False, None

    # Who may run, and who is next.

    def _lane(self, tenant_id: str, weight: float) -> Lane:
        self._idle.pop(tenant_id, None)
        lane = self._lanes.get(tenant_id)
        if lane is None:
            lane = self._lanes[tenant_id] = Lane(tenant_id, weight)
        return lane

    def _may_run(self, lane: Lane) -> bool:
        if not lane.jobs or lane.parked_until is not None or lane.probe is not None:
            return False
        if lane.running >= self.terms.lane_slots:
            return False
        most = self.terms.caps.max_tokens
        return most is None or not lane.running or lane.tokens + self._expected(lane.head) <= most

    def _refresh(self, lane: Lane, now: float) -> None:
        """Rank the lane anew after any change; its older entries in the heaps go stale."""
        lane.version = next(self._count)
        was_ready, lane.ready = lane.ready, self._may_run(lane)
        self._ready += lane.ready - was_ready
        if lane.ready:
            if not was_ready:
                self._order.lift(lane)
                lane.ready_since = now
            heapq.heappush(self._turns, (self._order.key(lane), lane.version, lane))
            heapq.heappush(self._ages, (lane.waiting_since, lane.head.seq, lane.version, lane))
            if len(self._turns) > 2 * self._ready + _SLACK:
                self._turns = [entry for entry in self._turns if entry[1] == entry[2].version]
                heapq.heapify(self._turns)
            if len(self._ages) > 2 * self._ready + _SLACK:
                self._ages = [entry for entry in self._ages if entry[2] == entry[3].version]
                heapq.heapify(self._ages)
        elif lane.idle and lane.parked_until is None:
            self._admitted(lane)  # whoever comes next has nothing to try for others
            self._idle[lane.tenant_id] = lane

    def _next(self, now: float) -> tuple[Lane | None, bool]:
        """The tenant whose turn it is; now and then one that has waited too long for any call."""
        while self._ages and (self._ages[0][2] != self._ages[0][3].version):
            heapq.heappop(self._ages)
        if not self._ages:
            return None, True
        self._in_turn += 1
        if now - self._ages[0][0] > self.terms.max_wait and self._in_turn >= _AGED_ONE_IN:
            self._in_turn = 0
            return self._ages[0][3], False
        while self._turns[0][1] != self._turns[0][2].version:  # whoever has an age has a turn
            heapq.heappop(self._turns)
        return self._turns[0][2], True

    def _set_aside(self, lane: Lane, until: float, now: float) -> None:
        lane.parked_until = max(until, lane.parked_until or until)
        self._refresh(lane, now)
        heapq.heappush(self._parked, (lane.parked_until, lane.version, lane))
        if len(self._parked) > 2 * len(self._lanes) + _SLACK:
            self._parked = [entry for entry in self._parked if entry[2].parked_until == entry[0]]
            heapq.heapify(self._parked)

    def _unpark(self, now: float) -> None:
        while self._parked and self._parked[0][0] <= now:
            until, _, lane = heapq.heappop(self._parked)
            if lane.parked_until == until:
                self._retry(lane)
                self._refresh(lane, now)

    def _retry(self, lane: Lane) -> None:
        """Let one call of a parked tenant try again; the others follow when it is admitted."""
        lane.parked_until = None
        lane.probing = True

    def _sweep(self) -> None:
        for _ in range(min(_SWEPT, len(self._idle))):
            tenant_id, lane = self._idle.popitem(last=False)
            if not lane.idle:
                continue
            if self._order.forgettable(lane):
                del self._lanes[tenant_id]
            else:
                self._idle[tenant_id] = lane
