"""Real servers for benchmarks: one of each for the whole run, gone when it ends."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from functools import cache

from tenant_middleware.local import local_redis

_RUNNING = ExitStack()
atexit.register(_RUNNING.close)


@cache
def redis_url() -> str:
    """A Redis 8 with the search module, alone with an empty database."""
    return _RUNNING.enter_context(local_redis())
