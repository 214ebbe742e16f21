"""Time as an argument: everything that waits, expires or resets asks a Clock, and tests bring their own."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time in seconds since the epoch, and ways to wait for it."""

    def time(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...
    async def asleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock."""

    time = staticmethod(time.time)  # no frame of its own: it is read several times per call

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def utc(seconds: float) -> dt.datetime:
    """An aware UTC time from seconds since the epoch."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
