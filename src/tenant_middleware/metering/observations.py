"""What a request took, stage by stage, and who was refused: counts per tenant and window, for reports.

Times go into buckets that grow by a quarter of a doubling, so that windows and workers add up, and medians and ranks
can be taken afterwards. It is an observation, not the books: what a failing store doesn't take is dropped in the end.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tenant_middleware.clock import Clock
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.forks import heed_forks
from tenant_middleware.tenant import Tenant

_log = logging.getLogger(__name__)
REFUSAL = "refusal:"
STAGE = "stage:"
_STEPS = 4
_LOWEST, _HIGHEST = -80, 80  # about a microsecond and about eleven days
_MOST_EVENTS = 50_000
_MOST_KEYS = 200_000


def bucket(seconds: float) -> int:
    """The bucket of a time: four to a doubling, so that its middle is at most 9 % away."""
    if seconds <= 0:
        return _LOWEST
    return min(max(round(math.log2(seconds) * _STEPS), _LOWEST), _HIGHEST)


def middle(index: int) -> float:
    """The time that stands for a bucket, in seconds."""
    return 0.0 if index <= _LOWEST else float(2.0 ** (index / _STEPS))


class Observed(NamedTuple):
    """How often one thing was seen for a tenant in a window. `window` is its start in seconds since the epoch."""

    window: int
    tenant_id: str
    name: str
    bucket: int
    times: int


class ObservationStore(Protocol):
    """Adds counts to those it has; raises StoreUnavailable and takes none when it can't."""

    def add(self, rows: Sequence[Observed]) -> None: ...
    def read(
        self, *, since: float | None = None, until: float | None = None, tenant_id: str | None = None
    ) -> list[Observed]: ...
    def prune(self, before: float) -> int: ...
    def forget(self, tenant_id: str) -> int: ...
    def close(self) -> None: ...


class Observations:
    """An observer that counts in memory and writes to a store now and then; see `tenant_middleware.telemetry`.

    `knows` says whose observations are kept: a process may hold more than one policy. `window` and `keep` in seconds.
    """

    def __init__(
        self,
        store: ObservationStore,
        clock: Clock,
        *,
        knows: Callable[[Tenant], bool] = lambda tenant: True,
        window: float = 900.0,
        keep: float = 14 * 86_400.0,
        flush_every: float = 10.0,
    ) -> None:
        self._store, self._clock, self._knows = store, clock, knows
        self._window, self._keep, self._flush_every = max(round(window), 1), keep, flush_every
        # Appending to a deque needs no lock; what it costs to count is paid by whoever flushes.
        self._events: deque[tuple[float, str, str, Mapping[str, float]]] = deque(maxlen=_MOST_EVENTS)
        self._known: dict[str, bool] = {}
        self._counts: Counter[tuple[int, str, str, int]] = Counter()
        self._flushing = threading.Lock()
        self._flushed = clock.time()
        self._pruned = 0.0
        self._failing = False
        heed_forks(self)

    def forked(self) -> None:
        """In a forked child: what was seen before is the parent's to write."""
        self._flushing = threading.Lock()
        self._events.clear()
        self._counts.clear()

    def stages(self, tenant: Tenant, seconds: Mapping[str, float]) -> None:
        self._note(tenant, STAGE, seconds)

    def refusal(self, tenant: Tenant, rule: str) -> None:
        self._note(tenant, REFUSAL, {rule: 0.0})

    def _note(self, tenant: Tenant, prefix: str, seconds: Mapping[str, float]) -> None:
        known = self._known.get(tenant.id)
        if known is None:
            if len(self._known) >= _MOST_EVENTS:
                self._known.clear()
            known = self._known[tenant.id] = self._knows(tenant)
        if known:
            self._events.append((self._clock.time(), tenant.id, prefix, seconds))

    def forget(self, tenant: Tenant) -> int:
        """Delete a tenant's counts and keep none from now on; returns how many rows that were."""
        self._known[tenant.id] = False
        self.flush()
        return self._store.forget(tenant.id)

    def flush_if_due(self) -> None:
        """Write, if it was long ago: for a thread that has other reasons to wake."""
        if self._clock.time() - self._flushed >= self._flush_every:
            self.flush()

    def flush(self) -> None:
        """Write what was observed; a store that fails keeps it waiting, up to a bound, and is told of in the log."""
        with self._flushing:
            self._count()
            self._flushed = self._clock.time()
            rows = [Observed(*key, count) for key, count in self._counts.items()]
            if not rows:
                return
            try:
                self._store.add(rows)
                if self._flushed - self._pruned > self._window:
                    self._store.prune(self._flushed - self._keep)
                    self._pruned = self._flushed
            except StoreUnavailable as error:
                self._failed(error)
                return
            self._failing = False
            self._counts.clear()

    def _count(self) -> None:
        for _ in range(len(self._events)):
            at, tenant_id, prefix, seconds = self._events.popleft()
            start = int(at) // self._window * self._window
            for name, took in seconds.items():
                self._counts[start, tenant_id, prefix + name, bucket(took) if prefix is STAGE else 0] += 1

    def _failed(self, error: StoreUnavailable) -> None:
        if not self._failing:
            _log.error("stage times can't be written, they wait: %s", error)
        self._failing = True
        if len(self._counts) > _MOST_KEYS:
            _log.error("%d counts of stage times were dropped: their store takes none", len(self._counts))
            self._counts.clear()

    def read(
        self, *, since: float | None = None, until: float | None = None, tenant_id: str | None = None
    ) -> list[Observed]:
        """What was observed, here and by other workers that have flushed."""
        self.flush()
        return self._store.read(since=since, until=until, tenant_id=tenant_id)

    def close(self) -> None:
        """Write what waits and close the store."""
        self.flush()
        self._store.close()


def counts_of(rows: Iterable[Observed]) -> Counter[int]:
    """The buckets of some rows, added up."""
    summed: Counter[int] = Counter()
    for row in rows:
        summed[row.bucket] += row.times
    return summed


def quantile(counts: Mapping[int, float], share: float) -> float:
    """The time that `share` of the counted ones stay within, in seconds, by place inside its bucket; NaN for none."""
    total = sum(counts.values())
    if not total:
        return math.nan
    wanted, seen = share * total, 0.0
    for index in sorted(counts):
        inside = counts[index]
        if seen + inside >= wanted:
            if index <= _LOWEST:
                return 0.0
            return float(2.0 ** ((index - 0.5 + (wanted - seen) / inside) / _STEPS))
        seen += inside
    return middle(max(counts))
