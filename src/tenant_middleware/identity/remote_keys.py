"""Keys from the issuer's URL: fetched off the event loop, once per interval at most, kept for a while on failure."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from tenant_middleware.clock import Clock
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.identity.jwks import KeySet, UnusableKeys, parse, unknown_key

_log = logging.getLogger(__name__)
MAX_DOCUMENT_BYTES = 512 * 1024


class FetchFailed(Exception):
    """The key document could not be had; the text names the kind of failure and nothing of the answer."""


class Fetch(Protocol):
    """Get the bytes behind a URL within so many seconds, or raise FetchFailed. Runs in a thread of its own."""

    def __call__(self, url: str, timeout: float) -> bytes: ...


class RemoteKeys:
    """A key set behind a URL.

    A known key is answered at once, also while a refresh runs. An unknown key id, or keys older than `max_age`, ask for
    a refresh; refreshes start at most once per `every` seconds, however many ask. When refreshing fails, the last good
    keys serve until they are `stale_for` seconds old; after that every token is refused with StoreUnavailable.
    """

    def __init__(
        self,
        url: str,
        algorithms: tuple[str, ...],
        *,
        clock: Clock,
        max_age: float = 600.0,
        every: float = 30.0,
        stale_for: float = 3600.0,
        timeout: float = 5.0,
        fetch: Fetch | None = None,
    ) -> None:
        self._url, self._algorithms, self._clock = url, algorithms, clock
        self._max_age, self._every, self._stale_for, self._timeout = max_age, every, stale_for, timeout
        self._fetch = fetch or fetch_document
        self._lock = threading.Lock()
        self._held: tuple[KeySet, float] | None = None  # with the time of the fetch; replaced as one
        self._tried_at: float | None = None
        self._running: Future[None] | None = None

    def version(self) -> str | None:
        """The version of the keys in use, None when there are none; asks for a refresh when one is due."""
        now = self._clock.time()
        keys = self._usable(now)
        if keys is None or self._aged(now):
            self._refresh(now)
        return keys.version if keys is not None else None

    def key(self, kid: str | None, algorithm: str) -> Any:
        """Waits for a refresh where it must; on an event loop's thread it never waits and says to use `averify`."""
        found, refresh = self._look_up(kid, algorithm)
        if refresh is None:
            return found
        if _on_event_loop():
            raise StoreUnavailable(
                "the issuer's keys are being fetched and this thread runs an event loop: use averify or "
                "aauthenticate there, or try again",
                store="jwks",
                retry_after=1.0,
            )
        refresh.result()
        return self._answer(kid, algorithm)

    async def akey(self, kid: str | None, algorithm: str) -> Any:
        found, refresh = self._look_up(kid, algorithm)
        if refresh is None:
            return found
        await asyncio.shield(asyncio.wrap_future(refresh))
        return self._answer(kid, algorithm)

    def _look_up(self, kid: str | None, algorithm: str) -> tuple[Any, Future[None] | None]:
        now = self._clock.time()
        keys = self._usable(now)
        found = keys.find(kid, algorithm) if keys is not None else None
        if found is not None:
            if self._aged(now):
                self._refresh(now)
            return found, None
        refresh = self._refresh(now)
        if refresh is None:
            return self._answer(kid, algorithm), None
        return None, refresh

    def _answer(self, kid: str | None, algorithm: str) -> Any:
        now = self._clock.time()
        keys = self._usable(now)
        if keys is None:
            wait = self._every if self._tried_at is None else max(1.0, self._tried_at + self._every - now)
            raise StoreUnavailable(
                "the issuer's keys can't be fetched and none are recent enough to go on with",
                store="jwks",
                retry_after=min(wait, self._every),
            )
        found = keys.find(kid, algorithm)
        if found is None:
            raise unknown_key()
        return found

    def _usable(self, now: float) -> KeySet | None:
        held = self._held
        return held[0] if held is not None and now - held[1] <= self._stale_for else None

    def _aged(self, now: float) -> bool:
        held = self._held
        return held is None or now - held[1] > self._max_age

    def _refresh(self, now: float) -> Future[None] | None:
        """The refresh under way, a new one, or None when the last one began less than `every` seconds ago."""
        with self._lock:
            if self._running is not None:
                return self._running
            if self._tried_at is not None and 0 <= now - self._tried_at < self._every:
                return None
            self._tried_at = now
            future: Future[None] = Future()
            future.set_running_or_notify_cancel()
            self._running = future
        # a daemon: a hanging issuer must not keep the process from ending
        threading.Thread(target=self._run, args=(future, now), name="tenant-jwks", daemon=True).start()
        return future

    def _run(self, future: Future[None], began: float) -> None:
        try:
            self._load(began)
        finally:
            with self._lock:
                self._running = None
            future.set_result(None)

    def _load(self, began: float) -> None:
        try:
            keys = parse(json.loads(self._fetch(self._url, self._timeout)), self._algorithms)
        except (FetchFailed, UnusableKeys) as error:
            _log.warning("refreshing the issuer's keys failed: %s", error)
        except (ValueError, RecursionError):
            _log.warning("refreshing the issuer's keys failed: the answer is not JSON")
        else:
            self._held = (keys, began)


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would leave the host that the settings name, and could leave https."""

    def redirect_request(self, *_: Any) -> None:
        return None


def fetch_document(url: str, timeout: float, *, now: Callable[[], float] = time.monotonic) -> bytes:
    """GET without redirects, bounded in size and in total time, however slowly the answer drips."""
    deadline = now() + timeout
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout) as answer:
            return _read(answer, deadline, now)
    except urllib.error.HTTPError as error:
        with error:
            raise FetchFailed(f"HTTP status {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise FetchFailed(type(error).__name__) from None


def _read(answer: http.client.HTTPResponse, deadline: float, now: Callable[[], float]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := answer.read1(64 * 1024):
        parts.append(part)
        size += len(part)
        if size > MAX_DOCUMENT_BYTES:
            raise FetchFailed(f"the answer is longer than {MAX_DOCUMENT_BYTES} bytes")
        if now() > deadline:
            raise FetchFailed("the answer took too long")
    return b"".join(parts)
