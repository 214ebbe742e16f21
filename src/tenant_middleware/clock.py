"""Time as an argument: everything that waits, expires or resets asks a Clock, and tests bring their own."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import time
from typing import Protocol

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


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


def seconds_of(value: object) -> float:
    """Seconds from a number or a text like 90s, 15m, 1h or 7d; raises ValueError for anything else."""
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", value.strip())):
        return float(found[1]) * _UNITS[found[2]]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError('expected seconds or a duration such as "90s", "15m", "1h" or "7d"')
