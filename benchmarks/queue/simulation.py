"""A pool of slots in simulated time: the scheduler that ships, fed by a workload, without waiting."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from dataclasses import dataclass, field

from benchmarks.queue.workloads import LIGHT, Arrival, Workload
from tenant_middleware.admission.queueing.lane import Job, State
from tenant_middleware.admission.queueing.pool import Pool

PROMPT_S = 0.0002
OUTPUT_S = 0.012


@dataclass(slots=True)
class Outcome:
    """What one run of a workload gave."""

    light_waits: list[float]
    jain: float
    gap: float
    utilisation: float
    longest_run: float


@dataclass(slots=True)
class _Run:
    arrival: Arrival
    job: Job
    ends: float = 0.0

    def written(self, now: float) -> int:
        """Output tokens so far: the prompt is read first."""
        since = now - self.job.started_at - self.arrival.prompt * PROMPT_S
        return min(self.arrival.output, max(0, int(since / OUTPUT_S)))

    def cost(self, pool: Pool, now: float) -> float:
        read = min(1.0, (now - self.job.started_at) / max(self.arrival.prompt * PROMPT_S, 1e-9))
        return pool.terms.cost(self.arrival.prompt * read, self.written(now))


@dataclass(slots=True)
class Simulation:
    """Runs a workload through a pool; `heartbeat` seconds between reports of progress, `as_written` reports always."""

    workload: Workload
    pool: Pool
    heartbeat: float | None = 2.0
    as_written: bool = False
    now: float = 0.0
    _events: list[tuple[float, int, str, _Run]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=itertools.count)
    _running: dict[Job, _Run] = field(default_factory=dict)
    _runs: dict[Job, _Run] = field(default_factory=dict)
    _got: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _since: dict[str, float] = field(default_factory=dict)
    _gap: float = 0.0
    _busy: float = 0.0
    _backlogged: float = 0.0
    _longest: float = 0.0
    _jain: float | None = None
    _before: dict[str, float] = field(default_factory=dict)

    def run(self) -> Outcome:
        waits: list[float] = []
        for arrival in self.workload.arrivals:
            self._at(arrival.at, "come", _Run(arrival, self._job(arrival)))
        while self._events:
            when, _, what, run = heapq.heappop(self._events)
            self._pass(when)
            self._happen(what, run)
            if self._events and self._events[0][0] == when and what == "come":
                continue  # what comes at once is in line before anybody starts
            self._start(waits)
            self._measure()
        return Outcome(waits, self._jain or 0.0, self._gap, self._busy / max(self._backlogged, 1e-9), self._longest)

    def _job(self, arrival: Arrival) -> Job:
        return Job(arrival.tenant, "m", arrival.prompt, arrival.max_output, arrival.weight)

    def _at(self, when: float, what: str, run: _Run) -> None:
        heapq.heappush(self._events, (when, next(self._count), what, run))

    def _pass(self, when: float) -> None:
        if self.pool.queued:
            self._busy += (when - self.now) * self.pool.running / (self.pool.terms.slots or 1)
            self._backlogged += when - self.now
        self.now = when

    def _happen(self, what: str, run: _Run) -> None:
        tenant, job = run.arrival.tenant, run.job
        if what == "come":
            self.pool.push(job, self.now)
            self._runs[job] = run
            self._since.setdefault(tenant, self.now)
            if run.arrival.cancel_at is not None:
                self._at(max(run.arrival.cancel_at, self.now), "cancel", run)
        elif what == "cancel":
            self._cancel(run)
        elif what == "beat" and job.state is State.RUNNING:
            self.pool.progress(job, run.written(self.now), self.now)
            self._at(self.now + (self.heartbeat or 0.0), "beat", run)
        elif what == "end" and job.state is State.RUNNING:
            self._end(run)

    def _cancel(self, run: _Run) -> None:
        if run.job.state is State.RUNNING:
            self._end(run)
        elif self.pool.cancel(run.job, self.now):
            self._waits_on(run.arrival.tenant)

    def _end(self, run: _Run) -> None:
        self._got[run.arrival.tenant] += run.cost(self.pool, self.now)
        self._longest = max(self._longest, self.now - run.job.started_at)
        del self._running[run.job]
        self.pool.done(run.job, run.arrival.prompt, run.written(self.now), self.now)

    def _start(self, waits: list[float]) -> None:
        if self.as_written:
            for run in self._running.values():
                self.pool.progress(run.job, run.written(self.now), self.now)
        while (job := self.pool.pop(self.now)) is not None:
            run = self._runs.pop(job)
            arrival = run.arrival
            self._running[job] = run
            self._at(self.now + arrival.prompt * PROMPT_S + arrival.output * OUTPUT_S, "end", run)
            if self.heartbeat is not None and not self.as_written:
                self._at(self.now + self.heartbeat, "beat", run)
            if arrival.tenant in LIGHT:
                waits.append(self.now - arrival.at)
            self._gap = max(self._gap, self.now - self._since.pop(arrival.tenant))
            self._waits_on(arrival.tenant)

    def _waits_on(self, tenant: str) -> None:
        if self.pool.length(tenant):
            self._since.setdefault(tenant, self.now)
        else:
            self._since.pop(tenant, None)

    def _measure(self) -> None:
        """Jain's index over what the floods got while all of them had calls waiting."""
        floods = self.workload.floods
        if self._jain is not None or self.now < self.workload.measured_from:
            return
        got = dict.fromkeys(floods, 0.0)
        for tenant in floods:
            got[tenant] += self._got[tenant]
        for run in self._running.values():
            if run.arrival.tenant in got:
                got[run.arrival.tenant] += run.cost(self.pool, self.now)
        if not self._before:
            self._before = got
        if any(not self.pool.length(tenant) for tenant in floods):
            weights = {arrival.tenant: arrival.weight for arrival in self.workload.arrivals}
            self._jain = jain([(got[tenant] - self._before[tenant]) / weights[tenant] for tenant in floods])


def jain(shares: list[float]) -> float:
    """1 when all shares are equal, 1/n when one has everything."""
    squares = len(shares) * sum(share * share for share in shares)
    return sum(shares) ** 2 / squares if squares else 1.0


def quantile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
