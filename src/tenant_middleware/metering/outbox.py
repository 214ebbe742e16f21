"""Rows on their way into a ledger: taken cheaply on the path of a call, written in batches by a thread behind it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import overload

from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.forks import heed_forks
from tenant_middleware.metering.ledger import By, Ledger, LedgerRow, Totals, TotalsBy

_log = logging.getLogger(__name__)


class WriteBehind:
    """A Ledger whose `append` only queues; what is read from it has been written first.

    Rows are written when `batch` of them wait or `interval` seconds have passed. When the ledger fails, rows stay
    queued and are tried again; `failure` says why, and past `max_pending` rows `append` raises StoreUnavailable.
    The thread calls `also` after each round: for what should be written now and then, too.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        batch: int = 500,
        interval: float = 0.2,
        max_pending: int = 100_000,
        also: Callable[[], object] | None = None,
    ) -> None:
        self.ledger = ledger
        self._queue = queue = _Queue(ledger, batch, interval, max_pending, also)
        # Also runs at interpreter exit, and when the last reference goes.
        self._finalizer = weakref.finalize(self, _give_up_late, queue)
        self.append = queue.append

    @property
    def pending(self) -> int:
        """Rows that are not in the ledger yet."""
        return len(self._queue.rows)

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why the last write failed; None after one that worked."""
        return self._queue.failure

    def flush(self) -> int:
        """Write what is queued now; raises StoreUnavailable and keeps the rows when the ledger fails."""
        return self._queue.flush()

    def write(self, rows: Iterable[LedgerRow]) -> int:
        """Straight into the ledger: whoever deletes a row elsewhere has to know that it is there."""
        return self.ledger.write(rows)

    @overload
    def totals(
        self, by: None = None, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> Totals: ...
    @overload
    def totals(
        self, by: By, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> TotalsBy: ...
    def totals(
        self,
        by: By | None = None,
        *,
        tenant_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Totals | TotalsBy:
        self.flush()
        return self.ledger.totals(by, tenant_id=tenant_id, since=since, until=until)

    def rows(
        self, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> Sequence[LedgerRow]:
        self.flush()
        return self.ledger.rows(tenant_id=tenant_id, since=since, until=until)

    def spent_nano(self, tenant_id: str, *, since: float) -> int:
        self.flush()
        return self.ledger.spent_nano(tenant_id, since=since)

    def close(self) -> None:
        """Write what is queued, stop the thread, close the ledger; raises StoreUnavailable when rows are left."""
        if self._finalizer.detach() is None:
            return
        try:
            self._queue.stop()
        finally:
            self.ledger.close()


class _Queue:
    """What the thread works on; it knows nothing of WriteBehind, so that an abandoned one can be collected."""

    def __init__(
        self, ledger: Ledger, batch: int, interval: float, max_pending: int, also: Callable[[], object] | None
    ) -> None:
        self.rows: deque[LedgerRow] = deque()
        self.failure: StoreUnavailable | None = None
        self.ledger = ledger
        self._batch, self._interval, self._max_pending = batch, interval, max_pending
        self._also = also
        self._writing = threading.Lock()
        self._some, self._many = threading.Event(), threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        heed_forks(self)

    def append(self, row: LedgerRow) -> None:
        """Queue a row; cheap, and safe from any thread."""
        rows = self.rows
        if self._stopped or len(rows) >= self._max_pending:
            raise self._refused()
        rows.append(row)
        if self._stopped:  # between the check above and here: better a false alarm than a lost row
            raise self._refused()
        if not self._some.is_set():
            self._some.set()
            if self._thread is None:
                self._start()
        if len(rows) >= self._batch and not self._many.is_set():
            self._many.set()

    def _refused(self) -> StoreUnavailable:
        if self._stopped:
            return StoreUnavailable("the ledger is closed: no call can be booked any more", store="ledger")
        return StoreUnavailable(
            f"{len(self.rows)} rows wait for the ledger, which takes none: calls are refused until it writes again",
            store="ledger",
            retry_after=1.0,
        )

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tenant-middleware-ledger", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            self._some.wait()
            self._many.wait(self._interval)
            self._some.clear()
            self._many.clear()
            try:
                self.flush()
            except StoreUnavailable:
                self._some.set()  # kept in `failure`; tried again after `interval`
            if self._also is not None:
                self._also()

    def flush(self) -> int:
        new = 0
        with self._writing:
            for _ in range(len(self.rows) // self._batch + 1):
                chunk = list(islice(self.rows, self._batch))
                if not chunk:
                    break
                new += self._write(chunk)
                for _ in chunk:
                    self.rows.popleft()
        return new

    def _write(self, chunk: list[LedgerRow]) -> int:
        try:
            new = self.ledger.write(chunk)
        except StoreUnavailable as error:
            if self.failure is None:
                _log.error("the ledger takes no rows, %d wait: %s", len(self.rows), error)
            self.failure = error
            raise
        if self.failure is not None:
            _log.warning("the ledger takes rows again")
            self.failure = None
        return new

    def stop(self) -> None:
        self._stopped = True
        self._some.set()
        self._many.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        try:
            self.flush()
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{len(self.rows)} settled calls could not be written to the ledger: {error}", store="ledger"
            ) from error

    def forked(self) -> None:
        """In a forked child: the parent's thread isn't here, and its rows are the parent's to write."""
        self.rows.clear()
        self._writing, self._starting = threading.Lock(), threading.Lock()
        self._some, self._many, self._thread = threading.Event(), threading.Event(), None


def _give_up_late(queue: _Queue) -> None:
    try:
        queue.stop()
    except StoreUnavailable as error:
        _log.critical("%s", error)
    queue.ledger.close()
