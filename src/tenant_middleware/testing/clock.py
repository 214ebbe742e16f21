"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading

from tenant_middleware.errors import InvalidInput


class ManualClock:
    """A Clock for tests: `advance` moves it and wakes whoever sleeps on it, also from another thread.

    Sleepers measure time that passes, as `asyncio.sleep` does: `set` turns the wall clock, also backwards, and
    wakes nobody.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._wall = float(start)
        self._passed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def time(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let time pass; everyone whose sleep is over wakes in the order in which the sleeps end."""
        if not seconds >= 0:
            raise InvalidInput(f"advance: expected seconds >= 0, got {seconds}; set(t) turns the clock back")
        with self._lock:
            self._wall += seconds
            self._passed += seconds
            due = []
            while self._sleepers and self._sleepers[0][0] <= self._passed:
                due.append(heapq.heappop(self._sleepers))
        for _, _, loop, future in due:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, future)

    def set(self, wall: float) -> None:
        """Turn the wall clock to `wall`, as an administrator or NTP does."""
        with self._lock:
            self._wall = float(wall)

    def sleep(self, seconds: float) -> None:
        """Return at once and let that much time pass for everybody."""
        self.advance(max(0.0, seconds))

    async def asleep(self, seconds: float) -> None:
        """Wait until `advance` has moved the clock that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), loop, future))
        try:
            await future
        finally:
            self._forget(future)

    @property
    def sleepers(self) -> int:
        """How many coroutines wait on this clock now."""
        return len(self._sleepers)

    def _forget(self, future: asyncio.Future[None]) -> None:
        with self._lock:
            kept = [sleeper for sleeper in self._sleepers if sleeper[3] is not future]
            if len(kept) != len(self._sleepers):
                heapq.heapify(kept)
                self._sleepers = kept


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
