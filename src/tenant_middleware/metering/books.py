"""From settled calls to the ledger and on to billing: on demand, and in the background while the application runs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.metering.billing import Billing
from tenant_middleware.metering.drainer import Drainer
from tenant_middleware.metering.ledger import Ledger
from tenant_middleware.metering.outbox import WriteBehind

_log = logging.getLogger(__name__)


class Stream(Protocol):
    """A shared store that keeps settled rows until a ledger has them."""

    def drain(self, ledger: Ledger) -> int:
        """Write every row that settled before this call; how many were new."""
        ...

    def drain_in_turn(self, ledger: Ledger, *, every: float) -> int:
        """The same, unless another worker has done it in the last `every` seconds."""
        ...


class Books:
    """What moves rows: from `streams` into the ledger, and from there to `billing`."""

    def __init__(
        self, ledger: WriteBehind, streams: Sequence[Stream], billing: Billing | None, *, every: float
    ) -> None:
        self._ledger, self._streams, self._billing = ledger, streams, billing
        self._drainer: Drainer | None = None
        if streams or billing is not None:
            # It doesn't know these books: when they are dropped without close(), its thread ends.
            self._drainer = Drainer(partial(_round, ledger, streams, billing, every), every)
            weakref.finalize(self, self._drainer.halt)
            self._drainer.start()

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why rows wait, by the last round in the background."""
        return None if self._drainer is None else self._drainer.failure

    def drain(self) -> int:
        """Everything that has settled so far; a store that is down keeps back only its own rows, and is raised last.

        A billing sink that is down is logged: its rows are safe in the ledger.
        """
        moved, failures = 0, []
        for stream in self._streams:
            try:
                moved += stream.drain(self._ledger)
            except StoreUnavailable as error:
                failures.append(error)
        moved += self._ledger.flush()
        _bill(self._billing)
        if failures:
            raise failures[0]
        return moved

    def close(self) -> None:
        """End the background, and drain once more; what can't be moved now waits for the next worker."""
        if self._drainer is not None:
            self._drainer.stop()
        try:
            self.drain()
        except StoreUnavailable as error:
            _log.error("settled rows wait where they are for the next worker: %s", error)


def _round(ledger: WriteBehind, streams: Sequence[Stream], billing: Billing | None, every: float) -> None:
    failures = []
    for stream in streams:
        try:
            stream.drain_in_turn(ledger, every=every)
        except StoreUnavailable as error:
            failures.append(error)
    _bill(billing)
    if failures:
        raise failures[0]


def _bill(billing: Billing | None) -> None:
    if billing is None:
        return
    try:
        billing.feed()
    except StoreUnavailable as error:
        _log.error("%s", error)
