"""Identity at the edge of an ASGI application: no request reaches it without a tenant, refusals leave it as JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

from tenant_middleware import context
from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.errors import AuthenticationError, ConfigurationError, Refusal, StoreUnavailable
from tenant_middleware.identity.bearer import OpenPaths, bearer_token
from tenant_middleware.tenant import Tenant

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Refused = Refusal | StoreUnavailable

POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013
_DETAILS = ("model", "limit", "used", "retry_after", "resets_at")


class Verifies(Protocol):
    """What the middleware needs: JwtIdentity and Tenancy both have it."""

    async def averify(self, token: str) -> Tenant: ...


class TenantMiddleware:
    """Opens the tenant's scope around the whole of each request: its streamed body and background tasks included.

    `open_paths` lists, character by character, the paths that run without a tenant. Refusals raised inside become 401,
    402, 403, 429 or 503 with Retry-After and `{"error": {...}}`; an answer that has begun is cut off instead, so that
    half an answer never looks whole. A websocket is closed with 1008 (1013 when a store is down).
    """

    def __init__(
        self, app: App, identity: Verifies, open_paths: Iterable[str] = (), *, clock: Clock | None = None
    ) -> None:
        if not callable(getattr(identity, "averify", None)):
            raise ConfigurationError(
                f"TenantMiddleware: expected identity to be a Tenancy or a JwtIdentity, got {type(identity).__name__}"
            )
        self.app = app
        self._identity, self._open, self._clock = identity, OpenPaths(open_paths), clock or SystemClock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise ConfigurationError(f"TenantMiddleware: no identity is known for ASGI scopes of type {kind!r}")

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope in self._open:
            await self.app(scope, receive, send)
            return
        tenant = await self._identity.averify(bearer_token(scope["headers"]))
        with context.scope(tenant):
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        try:
            await self._run(scope, receive, answer.send)
        except Exception as error:
            refused = refusal_in(error)
            if refused is None:
                await answer.release()
                raise
            if answer.begun:
                raise  # the server drops the connection: a clean end would pass half an answer off as a whole one
        else:
            await answer.release()
            return
        for message in refusal_messages(refused, self._clock.time()):
            await send(message)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = _Socket(receive, send)
        try:
            await self._run(scope, socket.receive, socket.send)
        except Exception as error:
            refused = refusal_in(error)
            if refused is None:
                raise
        else:
            return
        if not socket.closed:
            code = TRY_AGAIN_LATER if isinstance(refused, StoreUnavailable) else POLICY_VIOLATION
            await send({"type": "websocket.close", "code": code, "reason": _code(refused)})


class _Answer:
    """Watches an answer go out; a plain 500 waits for the application's end.

    Starlette's outermost layer answers every exception with a 500 and raises it again: when what it raises is a
    refusal, the 500 held here is dropped and the refusal's own answer goes out. A streamed 500 isn't held.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self.begun = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        starts = kind == "http.response.start" and message["status"] == 500
        ends = kind == "http.response.body" and not message.get("more_body", False)
        if not self.begun and (starts or (self._held and ends)):
            self._held.append(message)
            return
        await self.release()
        self.begun = self.begun or kind == "http.response.start"
        await self._send(message)

    async def release(self) -> None:
        """Send what was held."""
        held, self._held = self._held, []
        for message in held:
            self.begun = True
            await self._send(message)


class _Socket:
    """Watches a websocket, to know whether anybody is left to be told."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.closed = False

    async def receive(self) -> Message:
        message = await self._receive()
        self.closed = self.closed or message["type"] == "websocket.disconnect"
        return message

    async def send(self, message: Message) -> None:
        # a denial in plain HTTP ends a handshake as a close does
        self.closed = self.closed or message["type"] in ("websocket.close", "websocket.http.response.start")
        await self._send(message)


def refusal_in(error: BaseException) -> Refused | None:
    """The refusal that an exception is, or that a task group wrapped with nothing but others of its kind."""
    if isinstance(error, Refusal | StoreUnavailable):
        return error
    if isinstance(error, BaseExceptionGroup):
        inner = [refusal_in(each) for each in error.exceptions]
        return inner[0] if all(inner) else None
    return None


def refusal_status(refused: Refused) -> int:
    """401, 402, 403 or 429 by the refusal's kind; 503 for a store that is down."""
    return refused.http_status if isinstance(refused, Refusal) else 503


def refusal_body(refused: Refused) -> dict[str, Any]:
    """`{"error": {"code", "message", "rule", ...}}`, with what the refusal knows of model, limit, used and times."""
    rule = refused.rule if isinstance(refused, Refusal) else "store"
    details = {name: _plain(getattr(refused, name, None)) for name in _DETAILS}
    known = {name: value for name, value in details.items() if value is not None}
    return {"error": {"code": _code(refused), "message": str(refused), "rule": rule, **known}}


def refusal_headers(refused: Refused, now: float) -> dict[str, str]:
    """Retry-After in whole seconds, rounded up, where the refusal says when; WWW-Authenticate on a 401."""
    headers = {"content-type": "application/json", "cache-control": "no-store"}
    wait = refused.retry_after
    resets_at = getattr(refused, "resets_at", None)
    if wait is None and isinstance(resets_at, dt.datetime):
        wait = resets_at.timestamp() - now
    if wait is not None and math.isfinite(wait):
        headers["retry-after"] = str(max(1, math.ceil(wait)))
    if isinstance(refused, AuthenticationError):
        headers["www-authenticate"] = "Bearer" if refused.rule == "missing" else 'Bearer error="invalid_token"'
    return headers


def refusal_messages(refused: Refused, now: float) -> tuple[Message, Message]:
    """The refusal as the two messages of an ASGI response."""
    body = json.dumps(refusal_body(refused)).encode("utf-8")
    headers = {**refusal_headers(refused, now), "content-length": str(len(body))}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return (
        {"type": "http.response.start", "status": refusal_status(refused), "headers": raw},
        {"type": "http.response.body", "body": body, "more_body": False},
    )


def _code(refused: Refused) -> str:
    return refused.code if isinstance(refused, Refusal) else "store_unavailable"


def _plain(value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # money stays exact as text
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
