"""What the queue is compared with: other orders, other ways to charge, and the ideal that sees each token written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tenant_middleware.admission.queueing.lane import Job, Lane
from tenant_middleware.admission.queueing.means import OutputMeans
from tenant_middleware.admission.queueing.order import (
    FirstInFirstOut,
    Key,
    Order,
    VirtualTokens,
    WeightedRoundRobin,
)
from tenant_middleware.admission.queueing.pool import Pool
from tenant_middleware.admission.queueing.terms import PoolTerms

NEVER = 1e9  # no ageing: it would hide what an order does by itself


class DeficitRoundRobin:
    """Rounds in which each tenant may spend a quantum of weighted tokens, by the caller's max_tokens."""

    def __init__(self, quantum: float = 1000.0, *, corrected: bool = False) -> None:
        self._quantum = quantum
        self._corrected = corrected
        self._round = 0.0
        self._round_of: dict[str, float] = {}
        self._left: dict[str, float] = {}

    def key(self, lane: Lane) -> Key:
        missing = self._expected(lane.head) - self._left.get(lane.tenant_id, 0.0)
        rounds = max(0, math.ceil(missing / (self._quantum * lane.weight)))
        return (max(self._round_of.get(lane.tenant_id, self._round), self._round) + rounds, lane.running, lane.head.seq)

    def lift(self, lane: Lane) -> None:
        if self._round_of.get(lane.tenant_id, 0.0) < self._round:
            self._round_of[lane.tenant_id] = self._round
            self._left[lane.tenant_id] = min(self._left.get(lane.tenant_id, 0.0), 0.0)

    def charge(self, lane: Lane, job: Job, cost: float, *, in_turn: bool) -> None:
        tenant = lane.tenant_id
        start = max(self._round_of.get(tenant, self._round), self._round)
        expected = self._expected(job)
        rounds = max(0, math.ceil((expected - self._left.get(tenant, 0.0)) / (self._quantum * lane.weight)))
        self._left[tenant] = self._left.get(tenant, 0.0) + rounds * self._quantum * lane.weight - expected
        self._round = self._round_of[tenant] = start + rounds

    def correct(self, lane: Lane, job: Job, difference: float) -> None:
        """Only a corrected one learns what a call cost in the end."""
        if self._corrected and job.charged + difference > 0:
            self._left[lane.tenant_id] = self._left.get(lane.tenant_id, 0.0) - difference

    def rest(self) -> None:
        self._left.clear()

    def forgettable(self, lane: Lane) -> bool:
        return True

    def _expected(self, job: Job) -> float:
        return job.prompt_tokens + 2.0 * job.max_output


class MaxTokens(OutputMeans):
    """Charges what the caller asked for at most."""

    def __init__(self) -> None:
        super().__init__(0)

    def expect(self, tenant_id: str, model: str, max_output: int) -> float:
        return max_output


class Nothing(OutputMeans):
    """Charges no output before it is written."""

    def __init__(self) -> None:
        super().__init__(0)

    def expect(self, tenant_id: str, model: str, max_output: int) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One row of the table."""

    name: str
    order: Callable[[], Order]
    means: Callable[[], OutputMeans] = MaxTokens
    heartbeat: float | None = None
    as_written: bool = False
    max_wait: float = NEVER
    reserve: int = 0

    def pool(self, slots: int) -> Pool:
        terms = PoolTerms(slots, reserve_slots=self.reserve, max_wait=self.max_wait, max_runtime=NEVER)
        return Pool(terms, self.order(), self.means())


def _learnt() -> OutputMeans:
    return OutputMeans(256)


class WithoutLift(VirtualTokens):
    """A tenant that comes back claims everything it didn't use."""

    def lift(self, lane: Lane) -> None:
        """Nobody is lifted."""

    def rest(self) -> None:
        """Nobody is lifted."""

    def forgettable(self, lane: Lane) -> bool:
        return False


OURS = Scheduler("VTC as shipped", VirtualTokens, _learnt, heartbeat=2.0, max_wait=30.0)
IDEAL = Scheduler("VTC, charged as written (ideal)", VirtualTokens, Nothing, as_written=True)
ALL = (
    Scheduler("first in, first out", FirstInFirstOut),
    Scheduler("weighted round robin, by calls", WeightedRoundRobin),
    Scheduler("deficit round robin, max_tokens", DeficitRoundRobin),
    Scheduler("deficit round robin, corrected", lambda: DeficitRoundRobin(corrected=True)),
    Scheduler("VTC, max_tokens until the end", VirtualTokens),
    Scheduler("VTC, learnt, no heartbeat", VirtualTokens, _learnt),
    Scheduler("VTC as shipped, no lift", WithoutLift, _learnt, heartbeat=2.0),
    Scheduler("VTC as shipped, 1/8 reserved", VirtualTokens, _learnt, heartbeat=2.0, max_wait=30.0, reserve=2),
    OURS,
    IDEAL,
)
