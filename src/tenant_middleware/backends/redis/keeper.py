"""The threads of a shared queue: one that keeps leases alive and time moving, and a listener for each pool."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from redis import RedisError

from tenant_middleware.backends.redis.shared_pool import SharedPool
from tenant_middleware.backends.redis.steps import Flow
from tenant_middleware.errors import StoreUnavailable

_log = logging.getLogger(__name__)
_RETRY_S = 0.1
_BLOCK_S = 1  # how long a listener asks the server to hold the line; whole seconds, for old servers


class Keeper:
    """Speaks for the pools of one worker when they are due, at least three times a lease."""

    def __init__(self, run: Callable[[Flow[None]], None], client: Callable[[], Any], lease: float) -> None:
        self._run, self._client, self._every = run, client, lease / 3
        self._pools: list[SharedPool] = []
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._wake = threading.Event()

    def wake(self) -> None:
        """Look again at what is due."""
        self._wake.set()

    def keep(self, pool: SharedPool) -> None:
        """Take a pool into care; the first one starts the thread."""
        self._pools.append(pool)
        pool.due = time.monotonic() + self._every
        if not self._threads:
            self._start(self._keep, "tenant-queue-keeper")
        self._start(lambda: self._listen(pool), f"tenant-queue-{pool.rule.name}")
        self.wake()

    def _start(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _keep(self) -> None:
        while not self._closed.is_set():
            for pool in tuple(self._pools):
                if pool.due <= time.monotonic():
                    self._tick(pool)
            soonest = min(pool.due for pool in tuple(self._pools))
            self._wake.wait(max(soonest - time.monotonic(), 0.0))
            self._wake.clear()

    def _tick(self, pool: SharedPool) -> None:
        pool.due = time.monotonic() + self._every
        try:
            self._run(pool.tick())
        except StoreUnavailable:  # the breaker has said so
            pool.due = time.monotonic() + min(_RETRY_S, self._every)
        except Exception:  # noqa: BLE001  the thread has to go on, or this worker loses every slot it holds
            _log.exception("the keeper of pool %s failed, and tries again", pool.rule.name)

    def _listen(self, pool: SharedPool) -> None:
        """Fetch the pool's grants one by one; while the server is down there are none."""
        while not self._closed.is_set():
            try:
                found = self._client().blpop([pool.box], timeout=_BLOCK_S)
            except (RedisError, OSError):
                pool.due = 0.0  # whatever happened to the server, it may have forgotten what we have
                self.wake()
                self._closed.wait(_RETRY_S)
                continue
            word = found[1].decode() if found else ""
            if word:
                pool.told(word)

    def close(self, ring: Callable[[SharedPool], None]) -> None:
        """End the threads; `ring` makes a listener look up."""
        self._closed.set()
        self._wake.set()
        for pool in self._pools:
            ring(pool)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_BLOCK_S + 1)
