"""Tools that run for the calling tenant: it is injected, never an argument of the model's, and rows are checked."""

from __future__ import annotations

import inspect
from typing import Any, cast

try:
    from langchain_core.tools import StructuredTool
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware.isolation.tools import Tool, checked_tool, refuse_undeclared, tool_decorator
from tenant_middleware.langchain.refusals import passing


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
        if isinstance(tool_input, dict):
            refuse_undeclared(self.name, declared, tool_input)
        else:
            refuse_undeclared(self.name, declared, (), more=bool(tool_input) and not declared)
        return super()._to_args_and_kwargs(tool_input, tool_call_id)


@tool_decorator
def tenant_tool(
    fn: Tool, *, owner: str | None = None, tenantless: bool = False, name: str | None = None, **options: Any
) -> TenantTool:
    """Make a tool of a function (sync or async) that takes the calling Tenant as an argument the model never sees.

    `owner` names the field of each returned row that holds the owner's tenant id; a row of somebody else, or without
    the field, raises IsolationBreach before anybody sees it. A tool that reads nothing of any tenant's says
    `tenantless=True`. Raises ConfigurationError when neither or both are said.
    """
    run = checked_tool(fn, owner=owner, tenantless=tenantless, form=passing)
    sync, coroutine = (None, run) if inspect.iscoroutinefunction(fn) else (run, None)
    made = TenantTool.from_function(
        func=sync, coroutine=coroutine, name=name or fn.__name__, description=inspect.getdoc(fn), **options
    )
    return cast(TenantTool, made).model_copy(update={"owner": owner})
