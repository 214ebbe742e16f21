"""Calendar periods in UTC: when a budget began and when it resets."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

from tenant_middleware.clock import utc
from tenant_middleware.policy import Period


class Span(NamedTuple):
    """A calendar period, from `start` to just before `end`, in seconds since the epoch."""

    kind: Period
    start: float
    end: float


def span_at(now: float, kind: Period) -> Span:
    """The period that `now` lies in; weeks begin on Monday."""
    moment = utc(now)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if kind == "hour":
        start = moment.replace(minute=0, second=0, microsecond=0)
        end = start + dt.timedelta(hours=1)
    elif kind == "day":
        start, end = day, day + dt.timedelta(days=1)
    elif kind == "week":
        start = day - dt.timedelta(days=day.weekday())
        end = start + dt.timedelta(days=7)
    else:
        start = day.replace(day=1)
        end = (start + dt.timedelta(days=32)).replace(day=1)
    return Span(kind, start.timestamp(), end.timestamp())
