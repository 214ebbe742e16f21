"""What an in-process pool looks like at one moment."""

from __future__ import annotations

from tenant_middleware.admission.queue import LaneState, PoolState
from tenant_middleware.admission.queueing.pool import Pool


def state_of(name: str, pool: Pool, now: float) -> PoolState:
    """The state of an in-process pool; tenants that wait or run come first."""
    present = {lane.tenant_id: lane for lane in pool.lanes}
    lanes = []
    for tenant_id in dict.fromkeys((*present, *pool.tallies.tenants())):
        lane, tally = present.get(tenant_id), pool.tallies.of(tenant_id)
        lanes.append(
            LaneState(
                tenant_id=tenant_id,
                waiting=len(lane.jobs) if lane else 0,
                running=lane.running if lane else 0,
                weight=lane.weight if lane else 0.0,
                served_tokens=tally.tokens,
                served_calls=tally.calls,
                mean_wait=tally.waited / tally.calls if tally.calls else 0.0,
                longest_wait=tally.longest,
                parked_for=max((lane.parked_until or now) - now, 0.0) if lane else 0.0,
            )
        )
    lanes.sort(key=lambda lane: (-(lane.waiting + lane.running), lane.tenant_id))
    return PoolState(name, pool.terms.slots, pool.running, pool.queued, tuple(lanes))
