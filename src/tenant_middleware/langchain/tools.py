"""Tools that run for the calling tenant: it is injected, never an argument of the model's, and rows are checked."""

from __future__ import annotations

import inspect
from typing import Any, cast

try:
    from langchain_core.tools import StructuredTool
    from langgraph.prebuilt import ToolRuntime
    from langgraph.store.base import BaseStore
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware.errors import ConfigurationError
from tenant_middleware.isolation.tools import Tool, checked_tool, refuse_undeclared, tool_decorator
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.langchain.store import TenantStore


class TenantTool(StructuredTool):
    """A tool whose rows carry their owner in the field `owner`, or that is declared to have none (`owner` is None).

    Arguments that the tool doesn't declare are refused instead of dropped; a model that names a tenant is one of them.
    A graph's `ToolRuntime` or store, which no model can write, is handed on when its store is a TenantStore.
    """

    owner: str | None = None

    @passing
    def _to_args_and_kwargs(
        self, tool_input: str | dict[str, Any], tool_call_id: str | None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        declared = set(self.args)
        if isinstance(tool_input, dict):
            sent = [name for name, value in tool_input.items() if not self._injected(name, value)]
            refuse_undeclared(self.name, declared, sent)
        else:
            refuse_undeclared(self.name, declared, (), more=bool(tool_input) and not declared)
        return super()._to_args_and_kwargs(tool_input, tool_call_id)

    def _injected(self, name: str, value: object) -> bool:
        """Whether this is the graph's own object, for a parameter that asks for it."""
        if name not in self._injected_args_keys or not isinstance(value, ToolRuntime | BaseStore):
            return False
        store = value.store if isinstance(value, ToolRuntime) else value
        if store is not None and not isinstance(store, TenantStore):
            raise ConfigurationError(
                f"tool {self.name}: this graph's store is a bare {type(store).__name__}, which gives an item to "
                "whoever names it: wrap it, TenantStore(store)"
            )
        return True


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
