"""How a waiting caller is woken, from whatever thread or event loop: by a thread's event or a loop's future."""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

from tenant_middleware.clock import Clock, SystemClock


class Signal(Protocol):
    """Set from anywhere, as often as one likes; the waiter clears it by waiting again."""

    def set(self) -> None: ...


class ThreadSignal:
    """Wakes a thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait(self, clock: Clock, seconds: float) -> None:
        """Until it is set or the time has passed; on a clock that isn't the machine's, until the time has passed."""
        if isinstance(clock, SystemClock):
            self._event.wait(seconds)
        elif not self._event.is_set():
            clock.sleep(seconds)
        self._event.clear()


class LoopSignal:
    """Wakes a coroutine on the loop it was made on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, clock: Clock, seconds: float) -> None:
        """Until it is set or the time has passed."""
        sleeper = asyncio.ensure_future(clock.asleep(seconds))
        sleeper.add_done_callback(self._slept)
        try:
            await self._event.wait()
        finally:
            sleeper.remove_done_callback(self._slept)
            sleeper.cancel()
            self._event.clear()

    def _slept(self, sleeper: asyncio.Future[None]) -> None:
        self._event.set()
