"""What a proxy's client sees: refusals as OpenAI errors with our code and rule, and what is left in headers."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from tenant_middleware.errors import (
    IsolationBreach,
    Refusal,
    StoreUnavailable,
    TenancyError,
    UnpricedModel,
    missing_extra,
)
from tenant_middleware.identity.asgi import refusal_body, refusal_headers, refusal_status
from tenant_middleware.litellm.calls import OpenCall
from tenant_middleware.litellm.routes import NotServed
from tenant_middleware.metering.pricing import to_usd

try:
    from litellm.proxy._types import ProxyException
except ImportError as error:
    raise missing_extra("proxy", __name__) from error

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refused(ProxyException):
    """LiteLLM's own carrier of a status; its body would hold the status as `code`, ours holds what happened."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.body = {"type": _TYPES.get(status, "tenant_error"), "param": None, **body}
        super().__init__(
            message=str(body["message"]),
            type=str(self.body["type"]),
            param=body.get("param"),
            code=status,
            headers=dict(headers),
            openai_code=str(body["code"]),
        )
        self.code, self.status_code = str(status), status  # ProxyException reads some messages as another status

    def to_dict(self) -> dict[str, Any]:
        return dict(self.body)


def refused(error: TenancyError | NotServed, now: float) -> Refused:
    """An error of ours as an answer: 400, 401, 402, 403, 404, 429 or 503 with the code, the rule and when to return."""
    if isinstance(error, NotServed):
        return Refused(error.status, {"code": error.code, "message": error.message, "param": error.param}, {})
    if isinstance(error, Refusal | StoreUnavailable):
        headers = {name: value for name, value in refusal_headers(error, now).items() if name != "content-type"}
        if error_resets := getattr(error, "resets_at", None):
            headers["x-tenant-resets-at"] = error_resets.isoformat(timespec="seconds")
        return Refused(refusal_status(error), refusal_body(error)["error"], headers)
    status, code = (400, "invalid_request") if isinstance(error, ValueError) else (500, "configuration_error")
    if isinstance(error, UnpricedModel | IsolationBreach):
        code = "unpriced_model" if isinstance(error, UnpricedModel) else "isolation_breach"
    return Refused(status, {"code": code, "message": str(error)}, {})


def keep_refusals(scope: MutableMapping[str, Any]) -> None:
    """Let refusals reach the client on every route.

    LiteLLM's images and rerank endpoints wrap whatever they catch into a ProxyException without code and headers. The
    application's table of handlers is in each request's scope; LiteLLM's own handler gets the refusal that was wrapped.
    """
    handlers = scope.get("starlette.exception_handlers", ({},))[0]  # LiteLLM asks for /metrics before there are any
    before = handlers.get(ProxyException)
    if before is None or getattr(before, _KEEPS, False):
        return

    async def answer(request: Any, error: BaseException) -> Any:
        return await before(request, _wrapped(error) or error)

    setattr(answer, _KEEPS, True)
    handlers[ProxyException] = answer


_KEEPS = "__tenant_middleware_keeps_refusals__"


def _wrapped(error: BaseException | None) -> Refused | None:
    while error is not None and not isinstance(error, Refused):
        error = error.__cause__ or error.__context__
    return error


def headers(open_call: OpenCall) -> dict[str, str]:
    """What is left for the tenant, and what the call cost once that is known; a stream's headers go out before."""
    hold, row = open_call.hold, open_call.row
    found = {"x-tenant-queue-wait-ms": str(round(hold.queue_wait * 1000))}
    balance, budget = hold.balance, hold.limits.budget_nano
    if balance is None:
        return found
    given_back = 0
    if row is not None:
        found["x-tenant-cost-usd"] = f"{row.cost_usd:f}"
        given_back = hold.call.prompt_tokens + hold.max_tokens - row.prompt_tokens - row.completion_tokens
    if budget is not None:
        held = hold.nano if row is None else row.cost_nano
        left = budget - balance.spent_nano - balance.reserved_nano - balance.lost_nano + hold.nano - held
        found["x-tenant-budget-remaining-usd"] = f"{to_usd(max(left, 0)):f}"
    if balance.requests is not None:
        found["x-ratelimit-remaining-requests"] = str(balance.requests)
    if balance.tokens is not None:
        found["x-ratelimit-remaining-tokens"] = str(max(balance.tokens + given_back, 0))
    return found
