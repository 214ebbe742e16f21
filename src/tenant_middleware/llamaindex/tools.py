"""Tools that run for the calling tenant, and agents whose run ends when a tool is refused."""

from __future__ import annotations

import inspect
from typing import Any, cast

from tenant_middleware.errors import ConfigurationError, TenancyError, missing_extra
from tenant_middleware.isolation.tools import Tool, checked_tool, refuse_undeclared, tool_decorator

try:
    from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
    from llama_index.core.tools import FunctionTool, ToolOutput
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error


class TenantTool(FunctionTool):
    """A tool made by `tenant_tool`. Arguments that it doesn't declare are refused; a tenant is one of them."""

    def __call__(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return super().__call__(**self._declared(args, kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return await super().acall(**self._declared(args, kwargs))

    def _declared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name; LlamaIndex sends a single one without."""
        names = [*self.metadata.get_parameters_dict().get("properties", {})]
        context = {self.ctx_param_name} if self.ctx_param_name else set()
        refuse_undeclared(self.metadata.get_name(), set(names), kwargs.keys() - context, more=len(args) > len(names))
        return {**dict(zip(names, args, strict=False)), **kwargs}


@tool_decorator
def tenant_tool(
    fn: Tool, *, owner: str | None = None, tenantless: bool = False, name: str | None = None, **options: Any
) -> TenantTool:
    """Make a tool of a function (sync or async) that takes the calling Tenant as an argument the model never sees.

    `owner` names the field of each returned row that holds the owner's tenant id; a row of somebody else, or without
    the field, raises IsolationBreach before anybody sees it. A tool that reads nothing of any tenant's says
    `tenantless=True`. `options` go to `FunctionTool.from_defaults`. Raises ConfigurationError when neither or both
    are said.
    """
    run = checked_tool(fn, owner=owner, tenantless=tenantless)
    sync, coroutine = (None, run) if inspect.iscoroutinefunction(fn) else (run, None)
    options = {"description": inspect.getdoc(fn)} | options
    return cast(TenantTool, TenantTool.from_defaults(fn=sync, async_fn=coroutine, name=name or fn.__name__, **options))


class StopsOnRefusal:
    """Mix in before an agent or a workflow of agents: a refusal of ours in a tool ends the run, as itself.

    LlamaIndex makes a message to the model of whatever a tool raises; other errors still become one.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not any("_call_tool" in vars(base) for base in cls.__mro__ if base is not StopsOnRefusal):
            raise ConfigurationError(
                f"{cls.__name__}: this version of LlamaIndex calls tools by another method than the one that is "
                "watched here, so that a refusal would go unseen; use one that tenant-middleware supports"
            )

    async def _call_tool(self, ctx: Any, tool: Any, tool_input: dict[str, Any]) -> ToolOutput:
        output: ToolOutput = await super()._call_tool(ctx, tool, tool_input)  # type: ignore[misc]  # the agent's
        if isinstance(output.exception, TenancyError):
            raise output.exception
        return output


class TenantFunctionAgent(StopsOnRefusal, FunctionAgent):
    """A FunctionAgent whose run ends with the refusal that one of its tools raised."""


class TenantReActAgent(StopsOnRefusal, ReActAgent):
    """A ReActAgent whose run ends with the refusal that one of its tools raised."""


class TenantAgentWorkflow(StopsOnRefusal, AgentWorkflow):
    """An AgentWorkflow whose run ends with the refusal that a tool of any of its agents raised."""
