"""The thread that moves settled rows into the ledger, and on to billing, while the application runs."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.forks import heed_forks

_log = logging.getLogger(__name__)
_SLOWEST = 30.0


class Drainer:
    """Calls `drain` every `interval` seconds, a little apart from other workers; after a failure it waits longer.

    A failure delays rows and loses none: they stay where they are. `failure` is why the last round failed.
    """

    def __init__(self, drain: Callable[[], object], interval: float) -> None:
        self.failure: StoreUnavailable | None = None
        self._drain = drain
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        heed_forks(self)

    def start(self) -> None:
        """Begin; the thread ends with `stop` or with the process."""
        self._thread = threading.Thread(target=self._run, name="tenant-middleware-drainer", daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """End soon, without waiting for it."""
        self._stop.set()

    def stop(self) -> None:
        """End after the round that is under way."""
        self.halt()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        wait = self._interval
        while not self._stop.wait(wait * random.uniform(0.8, 1.2)):
            wait = self._interval if self.round() else min(2 * wait, _SLOWEST)

    def round(self) -> bool:
        """Drain once; whether it worked."""
        try:
            self._drain()
        except StoreUnavailable as error:
            if self.failure is None:
                _log.error("settled calls wait where they are, the ledger is behind: %s", error)
            self.failure = error
            return False
        if self.failure is not None:
            _log.warning("the ledger catches up again")
            self.failure = None
        return True

    def forked(self) -> None:
        """In a forked child, where the parent's thread isn't."""
        if self._thread is not None and not self._stop.is_set():
            self._stop = threading.Event()
            self.start()
