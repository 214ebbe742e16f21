"""A wall around the proxy's application: LiteLLM serves pages and lists that custom_auth is never asked about.

Answers leave through it, so that each route's carry what is left: LiteLLM asks no plugin for the headers of some.
"""

from __future__ import annotations

import hmac
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

from tenant_middleware.errors import AuthenticationError, Refusal
from tenant_middleware.identity.asgi import refusal_messages
from tenant_middleware.identity.bearer import bearer_token
from tenant_middleware.litellm.answers import headers
from tenant_middleware.litellm.calls import OpenCall
from tenant_middleware.litellm.routes import OPEN, OPERATOR, SERVED

# What the request that is served now has opened; the wall's own list, since what a later task sets isn't seen here.
_opened: ContextVar[list[OpenCall] | None] = ContextVar("tenant_middleware_litellm_opened", default=None)


def answer_tells(open_call: OpenCall) -> None:
    """Have the answer to the request that is served now say what this call leaves."""
    opened = _opened.get()
    if opened is not None:
        opened.append(open_call)


class _NotServed(Refusal):
    code = "route_not_served"


class Wall:
    """Lets served routes through to `custom_auth`, signs of life to anybody, metrics to who has the master key."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "not served"})
        elif (wanted := (scope["method"], scope["path"])) in SERVED:
            await self._serve(scope, receive, send)
        elif wanted in OPEN or _is_operator(wanted, scope):
            await self.app(scope, receive, send)
        else:
            for message in refusal_messages(_NotServed("this route is not served here", rule="route"), 0.0):
                await send(message)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        opened: list[OpenCall] = []

        async def answer(message: MutableMapping[str, Any]) -> None:
            if opened and message["type"] == "http.response.start":
                left = [(name.encode(), value.encode()) for name, value in headers(opened[-1]).items()]
                message["headers"] = [*message.get("headers", ()), *left]
            await send(message)

        token = _opened.set(opened)
        try:
            await self.app(scope, receive, answer)
        finally:
            _opened.reset(token)


def _is_operator(wanted: tuple[str, str], scope: Any) -> bool:
    if wanted not in OPERATOR:
        return False
    try:
        return is_master_key(bearer_token(scope["headers"]))
    except AuthenticationError:
        return False


def is_master_key(token: str) -> bool:
    """Whether a token is the proxy's own key."""
    from litellm.proxy.proxy_server import master_key

    return bool(master_key) and hmac.compare_digest(token.encode(), str(master_key).encode())


def build_wall(app: Any) -> None:
    """Put the wall around an application, also one that runs its start-up: LiteLLM loads plugins then."""
    if app.middleware_stack is None:
        app.add_middleware(Wall)
    elif not isinstance(app.middleware_stack, Wall):
        app.middleware_stack = Wall(app.middleware_stack)
