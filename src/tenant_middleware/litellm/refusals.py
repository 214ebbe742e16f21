"""How our errors leave LiteLLM: in a form that its retries, fallbacks and cooldowns let through.

LiteLLM takes a GuardrailRaisedException for a verdict on the request, not on the deployment: it is neither retried nor
sent to a fallback. Its `status_code` is 403 whatever ours is, because 401, 402, 404, 408, 429 and 5xx put a deployment
that all tenants share into cooldown. `except BudgetExceeded` still works.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from tenant_middleware.errors import TenancyError, in_form, missing_extra

try:
    from litellm.exceptions import GuardrailRaisedException
except ImportError as error:
    raise missing_extra("litellm", __name__) from error

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=TenancyError)

HARMLESS_STATUS = 403


def in_litellm_form(error: E) -> E:
    """The same error as one that LiteLLM neither retries, nor sends to a fallback, nor holds against a deployment."""
    twin: Any = in_form(error, GuardrailRaisedException)
    twin.guardrail_name = "tenant_middleware"
    twin.status_code = HARMLESS_STATUS
    twin.message = str(error)
    twin.blocked_content = True
    return twin  # type: ignore[no-any-return]  # the twin is a subclass of type(error)


def passing(fn: Callable[P, Awaitable[T]]) -> Callable[P, Any]:
    """Let the errors of a coroutine function leave it in LiteLLM's form."""

    @functools.wraps(fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await fn(*args, **kwargs)
        except TenancyError as error:
            refusal = in_litellm_form(error)
        raise refusal  # outside the handler, so that the original isn't printed as its context

    return call
