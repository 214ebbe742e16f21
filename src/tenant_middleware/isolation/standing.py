"""How a tenant stands with the service, and how each worker learns of it: a mark in a shared store, read every second.

A worker refuses by the marks it last read. A store that can't be read takes no new marks either, so what was read last
stays true for as long as it is down for everybody; a worker that alone can't reach it learns of a suspension late.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.forks import heed_forks

State = Literal["active", "guest", "suspended", "erasing", "erased"]
REFRESH = 1.0
"""Seconds after which every worker that reaches the store has read a mark."""

_log = logging.getLogger(__name__)


class Standing(NamedTuple):
    """`since` is when the state began, `exporting` when an export last gave a sign of life, in seconds since the epoch.

    `detail` is JSON of whoever set the state: how far an erasure has come.
    """

    state: State
    since: float
    exporting: float | None = None
    detail: str = "{}"


class StandingStore(Protocol):
    """Marks by tenant id; `barred` are the ids that aren't served, `guests` the names under which audits run.

    `put` sets all but `exporting`, `beat` sets that alone: an export and an erasure must not undo each other's marks.
    """

    def put(self, tenant_id: str, standing: Standing) -> None: ...
    def beat(self, tenant_id: str, at: float | None) -> None: ...
    def get(self, tenant_id: str) -> Standing | None: ...
    def barred(self) -> frozenset[str]: ...
    def guests(self) -> dict[str, Standing]: ...
    def remove(self, tenant_id: str) -> None: ...
    def close(self) -> None: ...


class Watch:
    """Reads the marks at once, then every REFRESH seconds in a thread, and hands the barred ids on."""

    def __init__(self, store: StandingStore, bar: Callable[[frozenset[str]], None], *, alone: bool) -> None:
        self._store, self._bar = store, bar
        self._stopped = threading.Event()
        self._down = False
        bar(store.barred())
        self._thread: threading.Thread | None = None
        if not alone:  # a store of this process alone changes by `refresh` alone
            self._start()
            heed_forks(self)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tenant-middleware-standing", daemon=True)
        self._thread.start()

    def forked(self) -> None:
        """In a forked child, where the parent's thread isn't: a worker that reads no marks would serve everybody."""
        if not self._stopped.is_set():
            self._stopped = threading.Event()
            self._start()

    def refresh(self) -> None:
        """Read the marks now."""
        self._bar(self._store.barred())

    def stop(self) -> None:
        """End the thread and close the store; a second stop does nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._store.close()

    def _run(self) -> None:
        while not self._stopped.wait(REFRESH):
            try:
                self.refresh()
            except StoreUnavailable as error:
                if not self._down:
                    _log.error("marks of suspended tenants can't be read, those read last stay in force: %s", error)
                self._down = True
            else:
                self._down = False
