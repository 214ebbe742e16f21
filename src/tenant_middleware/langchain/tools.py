"""Tools that run for the calling tenant: it is injected, never an argument of the model's, and rows are checked."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast, overload

try:
    from langchain_core.tools import StructuredTool
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware import telemetry
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import ConfigurationError, InvalidInput, IsolationBreach
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.tenant import Tenant

_MISSING = object()


class TenantTool(StructuredTool):
    """A tool whose rows carry their owner in the field `owner`, or that is declared to have none (`owner` is None).

    Arguments that the tool doesn't declare are refused instead of dropped; a model that names a tenant is one of them.
    """

    owner: str | None = None

    @passing
    def _to_args_and_kwargs(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        declared = set(self.args)
        undeclared = sorted(set(tool_input) - declared) if isinstance(tool_input, dict) else []
        if undeclared or (isinstance(tool_input, str) and tool_input and not declared):
            takes = ", ".join(sorted(declared)) or "none"
            raise InvalidInput(
                f"tool {self.name}: an argument that it doesn't declare was sent ({len(undeclared) or 1}; it takes "
                f"{takes}). The tenant comes from the context and can't be an argument"
            )
        return super()._to_args_and_kwargs(tool_input, tool_call_id)


@overload
def tenant_tool(fn: Callable[..., Any], *, owner: str | None = None, tenantless: bool = False) -> TenantTool: ...
@overload
def tenant_tool(
    *, owner: str | None = None, tenantless: bool = False, name: str | None = None, **options: Any
) -> Callable[[Callable[..., Any]], TenantTool]: ...
def tenant_tool(
    fn: Callable[..., Any] | None = None,
    *,
    owner: str | None = None,
    tenantless: bool = False,
    name: str | None = None,
    **options: Any,
) -> Any:
    """Make a tool of a function (sync or async) that takes the calling Tenant as an argument the model never sees.

    `owner` names the field of each returned row that holds the owner's tenant id; a row of somebody else, or without
    the field, raises IsolationBreach before anybody sees it. A tool that reads nothing of any tenant's says
    `tenantless=True`. Raises ConfigurationError when neither or both are said.
    """
    if fn is None:
        return functools.partial(tenant_tool, owner=owner, tenantless=tenantless, name=name, **options)
    if (owner is None) is not tenantless:
        raise ConfigurationError(
            f"tenant_tool {fn.__name__}: say owner='field' so that its rows can be checked, or tenantless=True when it "
            "reads nothing of any tenant's"
        )
    inject = _tenant_parameter(fn)
    sync, coroutine = (
        (None, _arun(fn, inject, owner)) if inspect.iscoroutinefunction(fn) else (_run(fn, inject, owner), None)
    )
    made = TenantTool.from_function(
        func=sync, coroutine=coroutine, name=name or fn.__name__, description=inspect.getdoc(fn), **options
    )
    return cast(TenantTool, made).model_copy(update={"owner": owner})


def _tenant_parameter(fn: Callable[..., Any]) -> str | None:
    """The parameter that gets the tenant: the one annotated `Tenant`, or named so."""
    for parameter in inspect.signature(fn, eval_str=True).parameters.values():
        if parameter.annotation is Tenant or parameter.name == "tenant":
            return parameter.name
    return None


def _run(fn: Callable[..., Any], inject: str | None, owner: str | None) -> Callable[..., Any]:
    @passing
    def run(*args: Any, **kwargs: Any) -> Any:
        tenant = current_tenant()
        with telemetry.stage("tool", tenant):
            result = fn(*args, **kwargs | ({inject: tenant} if inject else {}))
        return result if owner is None else owned_rows(result, owner, tenant)

    return _without(run, fn, inject)


def _arun(fn: Callable[..., Awaitable[Any]], inject: str | None, owner: str | None) -> Callable[..., Awaitable[Any]]:
    @passing
    async def run(*args: Any, **kwargs: Any) -> Any:
        tenant = current_tenant()
        with telemetry.stage("tool", tenant):
            result = await fn(*args, **kwargs | ({inject: tenant} if inject else {}))
        return result if owner is None else owned_rows(result, owner, tenant)

    return _without(run, fn, inject)


def _without(run: Callable[..., Any], fn: Callable[..., Any], inject: str | None) -> Callable[..., Any]:
    """`run` with the signature of `fn` less the tenant: what LangChain makes the model's schema from."""
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
