"""By which rule the next tenant is chosen: virtual token counters, and the two rules they are compared with."""

from __future__ import annotations

from typing import Protocol

from tenant_middleware.admission.queueing.lane import Job, Lane

Key = tuple[float, int, int]


class Order(Protocol):
    """Ranks the tenants that could be served now, lowest key first, and keeps account of what they got."""

    def key(self, lane: Lane) -> Key: ...

    def lift(self, lane: Lane) -> None:
        """The lane can be served again after a time in which it couldn't."""
        ...

    def charge(self, lane: Lane, job: Job, cost: float, *, in_turn: bool) -> None:
        """The job starts and is expected to cost this many weighted tokens."""
        ...

    def correct(self, lane: Lane, job: Job, difference: float) -> None:
        """The job costs this much more, or less when negative, than was charged."""
        ...

    def rest(self) -> None:
        """Nobody waits and nothing runs."""
        ...

    def forgettable(self, lane: Lane) -> bool:
        """Whether an idle lane would come back as if it were new."""
        ...


class VirtualTokens:
    """Weighted virtual token counters with lift ("Fairness in Serving Large Language Models", OSDI 2024).

    A counter holds the weighted tokens a tenant was charged, divided by its weight; the lowest goes first, of equal
    ones the tenant with the fewest calls running, then the oldest call. A tenant that comes back is lifted to the
    virtual time, the counter served last: idling earns nothing. A refund doesn't take a counter below it either.
    """

    def __init__(self) -> None:
        self._virtual = 0.0
        self._highest = 0.0

    def key(self, lane: Lane) -> Key:
        return (lane.counter, lane.running, lane.head.seq)

    def lift(self, lane: Lane) -> None:
        lane.counter = max(lane.counter, self._virtual)

    def charge(self, lane: Lane, job: Job, cost: float, *, in_turn: bool) -> None:
        if in_turn:
            self._virtual = max(self._virtual, lane.counter)
        self._move(lane, cost / lane.weight)

    def correct(self, lane: Lane, job: Job, difference: float) -> None:
        self._move(lane, difference / job.share)

    def rest(self) -> None:
        self._virtual = self._highest

    def forgettable(self, lane: Lane) -> bool:
        return lane.counter <= self._virtual

    def _move(self, lane: Lane, by: float) -> None:
        floor = min(lane.counter, self._virtual)
        lane.counter = max(lane.counter + by, floor)
        self._highest = max(self._highest, lane.counter)


class WeightedRoundRobin(VirtualTokens):
    """Turns by weight, one per job whatever its size; what a gateway's round robin does."""

    def charge(self, lane: Lane, job: Job, cost: float, *, in_turn: bool) -> None:
        super().charge(lane, job, 1.0, in_turn=in_turn)

    def correct(self, lane: Lane, job: Job, difference: float) -> None:
        """Size doesn't count."""


class FirstInFirstOut:
    """The oldest call of all goes first: no fairness between tenants."""

    def key(self, lane: Lane) -> Key:
        return (lane.head.seq, 0, 0)

    def lift(self, lane: Lane) -> None:
        """No accounts are kept."""

    def charge(self, lane: Lane, job: Job, cost: float, *, in_turn: bool) -> None:
        """No accounts are kept."""

    def correct(self, lane: Lane, job: Job, difference: float) -> None:
        """No accounts are kept."""

    def rest(self) -> None:
        """No accounts are kept."""

    def forgettable(self, lane: Lane) -> bool:
        return True
