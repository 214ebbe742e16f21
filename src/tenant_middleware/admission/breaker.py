"""A circuit breaker: when a store has failed, calls stop waiting for it until a probe finds it well again."""

from __future__ import annotations

import threading


class Breaker:
    """Opens after `errors` failures in a row, or after a single slow one, for `pause` seconds; then one call probes.

    Time is a number handed in, of a clock that never goes back.
    """

    def __init__(self, *, errors: int = 3, pause: float = 1.0) -> None:
        self._errors, self._pause = errors, pause
        self._lock = threading.Lock()
        self._failed = 0
        self._opened: float | None = None
        self._probing: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are kept away from the store."""
        return self._opened is not None

    def allows(self, now: float) -> bool:
        """Whether this call may try the store; while it is open, one call in each `pause` may."""
        if self._opened is None:
            return True
        with self._lock:
            if self._opened is None:
                return True
            since = self._opened if self._probing is None else self._probing
            if now - since < self._pause:
                return False
            self._probing = now
            return True

    def worked(self) -> None:
        """A call came back, whatever it was told."""
        if self._failed or self._opened is not None:
            with self._lock:
                self._failed, self._opened, self._probing = 0, None, None

    def failed(self, now: float, *, slow: bool) -> bool:
        """Note a failure; True when it opened the breaker just now."""
        with self._lock:
            self._failed += 1
            opens = self._opened is None and (slow or self._failed >= self._errors)
            if opens or self._opened is not None:
                self._opened, self._probing = now, None
            return opens
