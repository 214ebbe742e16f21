"""FastAPI's view of the tenant: a dependency over TenantMiddleware, streams, and what OpenAPI says of refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from pydantic import BaseModel

from tenant_middleware import context
from tenant_middleware.context import pin
from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.tenant import Tenant

try:
    from fastapi import Depends, FastAPI, Request, Security
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, StreamingResponse
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
except ImportError as error:
    raise missing_extra("asgi", __name__) from error

__all__ = ["REFUSALS", "CurrentTenant", "RefusalAnswer", "answer_mistakes", "current_tenant", "stream_answer"]

# auto_error is off because the middleware has checked the token by now; this object only puts the scheme into OpenAPI
_scheme = HTTPBearer(
    scheme_name="TenantToken", bearerFormat="JWT", description="A token that names the tenant.", auto_error=False
)


class RefusalDetail(BaseModel):
    """What a refusal tells a client."""

    code: str
    message: str
    rule: str
    model: str | None = None
    limit: int | float | str | None = None
    used: int | float | str | None = None
    retry_after: float | None = None
    resets_at: str | None = None


class RefusalAnswer(BaseModel):
    """The body of every 401, 402, 403, 429 and 503 that TenantMiddleware sends."""

    error: RefusalDetail


async def current_tenant(_: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)] = None) -> Tenant:
    """The request's tenant, set by TenantMiddleware; MissingTenant on an open path or without the middleware."""
    return context.current_tenant()


CurrentTenant = Annotated[Tenant, Depends(current_tenant)]
"""For signatures: `async def ask(question: str, tenant: CurrentTenant): ...`"""

REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": RefusalAnswer, "description": "No valid token."},
    402: {"model": RefusalAnswer, "description": "The budget is spent, or held by calls in flight."},
    403: {"model": RefusalAnswer, "description": "The model isn't this tenant's to call, or a guardrail blocked."},
    429: {"model": RefusalAnswer, "description": "A limit; come back after Retry-After seconds."},
    503: {"model": RefusalAnswer, "description": "A store is down; come back after Retry-After seconds."},
}
"""For `FastAPI(responses=REFUSALS)`: the answers that OpenAPI should know."""


async def stream_answer(tokens: AsyncIterator[str], media_type: str = "text/plain; charset=utf-8") -> StreamingResponse:
    """Send an answer as it is made, once its first piece is there: a refusal comes before it, and can have a status.

    The rest runs for the tenant in context now, and is closed when the client hangs up.
    """
    pinned = pin(tokens)
    first = await anext(pinned, "")

    async def whole() -> AsyncIterator[str]:
        async with aclosing(pinned):
            yield first
            async for token in pinned:
                yield token

    return StreamingResponse(whole(), media_type=media_type)


def answer_mistakes(app: FastAPI) -> None:
    """Answer what a request got wrong with a 422 that repeats nothing of it.

    FastAPI's own answer quotes the input, and fails on text that no UTF-8 holds.
    """

    async def wrong_shape(_: Request, error: Exception) -> JSONResponse:
        found = error.errors() if isinstance(error, RequestValidationError) else []
        return _unprocessable([{"loc": [str(part) for part in one["loc"]], "type": one["type"]} for one in found])

    async def wrong_value(_: Request, error: Exception) -> JSONResponse:
        return _unprocessable([{"loc": [], "type": "invalid_input"}])

    app.add_exception_handler(RequestValidationError, wrong_shape)
    app.add_exception_handler(InvalidInput, wrong_value)


def _unprocessable(mistakes: list[dict[str, Any]]) -> JSONResponse:
    plain = [{"loc": [_ascii(part) for part in one["loc"]], "type": one["type"]} for one in mistakes]
    return JSONResponse({"detail": [one | {"msg": "not accepted"} for one in plain]}, status_code=422)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
