"""One tree of errors: mistakes of the developer, broken promises, stores that are down, and refusals at run time.

    TenancyError
    ├── ConfigurationError            the program or its policy file is wrong; fix it, a retry won't help
    │   ├── SettingsError             names file, key and reason
    │   └── SealError                 a cache layer of a framework is open to every tenant
    ├── InvalidInput (ValueError)     a value that no backend accepts: NaN vectors, empty ids, unknown filter operators
    │   └── InvalidTenant             an id, tier or subject outside the grammar
    ├── MissingTenant                 no tenant in context
    ├── TenantMismatch                two tenants meet in one context: a switch inside a scope, a stream swapped
    ├── IsolationBreach               data of another tenant was about to be returned; nothing was
    ├── UnpricedModel                 a call that would silently cost nothing
    ├── StoreUnavailable              a backend is down or too slow
    │   └── PartialWrite              some of a call's records are stored; `failed_ids` are not
    └── Refusal                       this caller may not do this now: carries rule, limit, used, retry_after, resets_at
        ├── AuthenticationError       401
        ├── ModelForbidden            403
        ├── ForeignReference          403
        ├── GuardrailBlocked          403
        ├── TenantSuspended           403
        ├── RateLimited               429, retry after `retry_after` seconds
        └── BudgetExceeded            402, exhausted until `resets_at`
            └── BudgetBusy            402, held by calls in flight: retry soon

None derives from RuntimeError: LlamaIndex renames every RuntimeError that leaves a loop to "Detected nested async".
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import TypeVar

__all__ = [
    "AuthenticationError",
    "BudgetBusy",
    "BudgetExceeded",
    "ConfigurationError",
    "ForeignReference",
    "GuardrailBlocked",
    "InvalidInput",
    "InvalidTenant",
    "IsolationBreach",
    "MissingTenant",
    "ModelForbidden",
    "PartialWrite",
    "RateLimited",
    "Refusal",
    "SealError",
    "SettingsError",
    "StoreUnavailable",
    "TenancyError",
    "TenantMismatch",
    "TenantSuspended",
    "UnpricedModel",
    "in_form",
    "missing_extra",
]


class TenancyError(Exception):
    """Whatever this library raises on purpose."""


class ConfigurationError(TenancyError):
    """The program or its policy is wrong; retrying the call won't help."""


class SettingsError(ConfigurationError):
    """A policy file or variable that can't be used; the message names file, key and reason."""


class SealError(ConfigurationError):
    """A cache layer that is open to every tenant was found, or replaced after sealing."""


class InvalidInput(TenancyError, ValueError):
    """A value that is refused before any backend sees it."""


class InvalidTenant(InvalidInput):
    """A tenant id, tier or subject outside the grammar; the message never repeats the value."""


class MissingTenant(TenancyError):
    """No tenant in context: there is no default tenant."""


class TenantMismatch(TenancyError):
    """Two tenants met in one context; neither was picked."""


class IsolationBreach(TenancyError):
    """A record of another tenant, or without a tenant stamp, was stopped on its way to the caller."""


class UnpricedModel(TenancyError):
    """The model has no price, so the call would silently cost nothing."""

    def __init__(self, message: str, *, model: str) -> None:
        super().__init__(message)
        self.model = model


class StoreUnavailable(TenancyError):
    """A backend is down or too slow, and the policy says to refuse."""

    def __init__(self, message: str, *, store: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.store = store
        self.retry_after = retry_after


class PartialWrite(StoreUnavailable):
    """Some records of one call are stored and `failed_ids` are not; writing those again is safe."""

    def __init__(
        self, message: str, *, store: str, failed_ids: tuple[str, ...], stored: int, retry_after: float | None = None
    ) -> None:
        super().__init__(message, store=store, retry_after=retry_after)
        self.failed_ids = failed_ids
        self.stored = stored


class Refusal(TenancyError):
    """This caller may not do this now; the fields carry what an adapter needs for a 4xx, a tool message or a log line.

    `limit` and `used` are in the unit of `rule` (requests, tokens, calls in flight, USD), `retry_after` in seconds,
    `resets_at` is an aware UTC time. `http_status` and `code` are what an edge answers.
    """

    http_status = 403
    code = "refused"

    def __init__(
        self,
        message: str,
        *,
        rule: str,
        tenant_id: str | None = None,
        model: str | None = None,
        limit: object = None,
        used: object = None,
        retry_after: float | None = None,
        resets_at: dt.datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.tenant_id = tenant_id
        self.model = model
        self.limit = limit
        self.used = used
        self.retry_after = retry_after
        self.resets_at = resets_at


class AuthenticationError(Refusal):
    """Nobody we know: the token is refused; the message never repeats it."""

    http_status = 401
    code = "authentication_error"

    def __init__(self, message: str, *, rule: str = "token") -> None:
        super().__init__(message, rule=rule)


class ModelForbidden(Refusal):
    """The tenant may not call this model; unknown and foreign models get the same answer."""

    code = "model_forbidden"


class ForeignReference(Refusal):
    """An id at the provider that this tenant wasn't given; unknown and foreign ids get the same answer."""

    code = "foreign_reference"


class GuardrailBlocked(Refusal):
    """A guardrail of the tenant's tier blocked the text; `rule` names the rules, never the text."""

    code = "guardrail_blocked"


class TenantSuspended(Refusal):
    """The tenant is suspended or erased: nothing of it is served until it is resumed."""

    code = "tenant_suspended"


class RateLimited(Refusal):
    """A limit of requests, tokens or concurrency; admissible again after `retry_after` seconds."""

    http_status = 429
    code = "rate_limited"
    never_admissible = False


class BudgetExceeded(Refusal):
    """The budget of the period is spent; `used <= limit`, in USD, until `resets_at`."""

    http_status = 402
    code = "budget_exceeded"


class BudgetBusy(BudgetExceeded):
    """Calls in flight hold what is left of the budget; they may give some back soon."""

    code = "budget_busy"


_E = TypeVar("_E", bound=TenancyError)


@lru_cache(maxsize=256)
def _mixed(error: type[TenancyError], mixin: type[BaseException]) -> type[TenancyError]:
    return type(error.__name__, (error, mixin), {"__module__": error.__module__, "__doc__": error.__doc__})


def in_form(error: _E, mixin: type[BaseException]) -> _E:
    """The same refusal as a class that also derives from `mixin`, which a framework lets through untouched.

    Frameworks' retry and fallback wrappers swallow ordinary exceptions. LangGraph bubbles `GraphBubbleUp`, LiteLLM
    `GuardrailRaisedException`; `except OurError` still catches the result. Fields, cause and traceback are kept.
    """
    if isinstance(error, mixin):
        return error
    kind: type[TenancyError] = _mixed(type(error), mixin)  # type: ignore[arg-type]  # classes are hashable
    twin = Exception.__new__(kind)
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)  # type: ignore[return-value]  # the twin is a subclass of type(error)


def missing_extra(extra: str, module: str) -> ImportError:
    """What an adapter raises, `from` the original error, when its library isn't installed."""
    return ImportError(f'{module} needs the extra "{extra}": pip install "tenant-middleware[{extra}]"')
