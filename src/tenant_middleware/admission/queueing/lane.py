"""One tenant's line in a pool, and the calls in it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum, auto


class State(Enum):
    """Where a job is; a job that lost its slot to `max_runtime` is overdue until its caller reports back."""

    QUEUED = auto()
    RUNNING = auto()
    OVERDUE = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Job:
    """A call in the queue. `charged` is what its tenant's counter holds for it, at the weight `share`."""

    tenant_id: str
    model: str
    prompt_tokens: int
    max_output: int
    weight: float
    seq: int = 0
    queued_at: float = 0.0
    started_at: float = 0.0
    state: State = State.QUEUED
    charged: float = 0.0
    share: float = 1.0
    probe: bool = False


@dataclass(slots=True, eq=False)
class Lane:
    """A tenant in a pool: its waiting jobs in order, what it has running, and its virtual counter."""

    tenant_id: str
    weight: float
    counter: float = 0.0
    running: int = 0
    tokens: float = 0.0
    served_at: float = float("-inf")
    ready_since: float = 0.0
    ready: bool = False
    parked_until: float | None = None
    probing: bool = False
    probe: Job | None = None
    version: int = 0
    jobs: OrderedDict[int, Job] = field(default_factory=OrderedDict)

    @property
    def head(self) -> Job:
        return self.jobs[next(iter(self.jobs))]

    @property
    def idle(self) -> bool:
        return not self.jobs and not self.running

    @property
    def waiting_since(self) -> float:
        """Since when this tenant could have been served and wasn't."""
        return max(self.head.queued_at, self.served_at, self.ready_since)

    def put_back(self, job: Job) -> None:
        """Into its old place: before everything that came later."""
        earlier = []
        while self.jobs and self.head.seq < job.seq:
            earlier.append(self.jobs.popitem(last=False)[1])
        for each in (job, *reversed(earlier)):
            self.jobs[each.seq] = each
            self.jobs.move_to_end(each.seq, last=False)
