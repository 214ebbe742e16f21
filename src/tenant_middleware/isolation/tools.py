"""What makes a function a tool that an agent may call for a tenant, whatever the framework.

The tenant is put in, never an argument of the model's, and the rows that come back are checked by their owner.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from typing import Any, Protocol, TypeVar, cast, overload

from tenant_middleware import telemetry
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import ConfigurationError, InvalidInput, IsolationBreach
from tenant_middleware.tenant import Tenant

Tool = Callable[..., Any]
T = TypeVar("T")
Made = TypeVar("Made", covariant=True)
_MISSING = object()


class MakesTools(Protocol[Made]):
    """An adapter's `tenant_tool`: called with a function, or with options alone as its decorator."""

    @overload
    def __call__(
        self, fn: Tool, *, owner: str | None = None, tenantless: bool = False, name: str | None = None, **options: Any
    ) -> Made: ...
    @overload
    def __call__(
        self, *, owner: str | None = None, tenantless: bool = False, name: str | None = None, **options: Any
    ) -> Callable[[Tool], Made]: ...


def tool_decorator(make: Callable[..., T]) -> MakesTools[T]:
    """The function that makes a tool of a function, usable with options alone as well."""

    @functools.wraps(make)
    def tenant_tool(fn: Tool | None = None, **options: Any) -> Any:
        return functools.partial(tenant_tool, **options) if fn is None else make(fn, **options)

    return cast("MakesTools[T]", tenant_tool)


def checked_tool(
    fn: Tool, *, owner: str | None, tenantless: bool, form: Callable[[Tool], Tool] = lambda run: run
) -> Tool:
    """The function, sync or async, less its tenant parameter: it runs for the tenant in context, its rows are checked.

    `form` wraps the work, before the signature is put on: for the form in which a framework lets errors through.
    Raises ConfigurationError unless exactly one of `owner` and `tenantless` is said.
    """
    if (owner is None) is not tenantless:
        raise ConfigurationError(
            f"tenant_tool {fn.__name__}: say owner='field' so that its rows can be checked, or tenantless=True when it "
            "reads nothing of any tenant's"
        )
    inject = _tenant_parameter(fn)
    run = _arun(fn, inject, owner) if inspect.iscoroutinefunction(fn) else _run(fn, inject, owner)
    return _without(form(run), fn, inject)


def refuse_undeclared(tool: str, declared: Set[str], sent: Iterable[str], *, more: bool = False) -> None:
    """Raise InvalidInput for arguments that the tool doesn't declare; `more` says that something nameless was sent."""
    undeclared = set(sent) - declared
    if undeclared or more:
        raise InvalidInput(
            f"tool {tool}: an argument that it doesn't declare was sent ({len(undeclared) or 1}; it takes "
            f"{', '.join(sorted(declared)) or 'none'}). The tenant comes from the context and can't be an argument"
        )


def _tenant_parameter(fn: Callable[..., Any]) -> str | None:
    """The parameter that gets the tenant: the one annotated `Tenant`, or named so."""
    for parameter in inspect.signature(fn, eval_str=True).parameters.values():
        if parameter.annotation is Tenant or parameter.name == "tenant":
            return parameter.name
    return None


def _run(fn: Callable[..., Any], inject: str | None, owner: str | None) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        tenant = current_tenant()
        with telemetry.stage("tool", tenant):
            result = fn(*args, **kwargs | ({inject: tenant} if inject else {}))
        return result if owner is None else owned_rows(result, owner, tenant)

    return run


def _arun(fn: Callable[..., Awaitable[Any]], inject: str | None, owner: str | None) -> Callable[..., Awaitable[Any]]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        tenant = current_tenant()
        with telemetry.stage("tool", tenant):
            result = await fn(*args, **kwargs | ({inject: tenant} if inject else {}))
        return result if owner is None else owned_rows(result, owner, tenant)

    return run


def _without(run: Callable[..., Any], fn: Callable[..., Any], inject: str | None) -> Callable[..., Any]:
    """`run` with the signature of `fn` less the tenant: what frameworks make the model's schema from."""
    signature = inspect.signature(fn, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.name != inject]
    run.__name__, run.__doc__ = fn.__name__, fn.__doc__
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]  # read by inspect.signature
    run.__annotations__ = {p.name: p.annotation for p in kept if p.annotation is not inspect.Parameter.empty}
    return run


def owned_rows(result: Any, owner: str, tenant: Tenant) -> Any:
    """The result itself when every row's `owner` field is this tenant's id; raises IsolationBreach otherwise.

    Rows are mappings or objects, one or many; text can't be checked and is refused.
    """
    if result is None:
        return result
    rows: Iterable[Any]
    if isinstance(result, Mapping) or not _is_many(result):
        rows = [result]
    else:
        rows = result = list(result)
    for row in rows:
        if _owner_of(row, owner) != tenant.id:
            raise IsolationBreach(
                f"a tool returned a row whose {owner!r} isn't the calling tenant's, or that has no such field: nothing "
                "was returned; filter by the tenant that the tool is given"
            )
    return result


def _is_many(result: Any) -> bool:
    return isinstance(result, Iterable) and not isinstance(result, str | bytes) and not hasattr(result, "model_fields")


def _owner_of(row: Any, owner: str) -> object:
    return row.get(owner, _MISSING) if isinstance(row, Mapping) else getattr(row, owner, _MISSING)
