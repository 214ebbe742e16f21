"""Agents: one middleware that pins a run to its tenant, guards what goes in, gates models and checks tools."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, hook_config
    from langchain.agents.middleware.types import PrivateStateAttr
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
    from langgraph.config import get_config
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import Command
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware.admission.call import Call, Hold
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import BudgetBusy, BudgetExceeded, ConfigurationError, InvalidInput, TenantMismatch
from tenant_middleware.guardrails import AnswerGuard, CanaryGuard
from tenant_middleware.keys import key
from tenant_middleware.langchain import run_state as run
from tenant_middleware.langchain import usage as counting
from tenant_middleware.langchain.guard import segments
from tenant_middleware.langchain.memory import TenantCheckpointSaver
from tenant_middleware.langchain.provider import Sent, salt_of
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.langchain.tools import TenantTool
from tenant_middleware.tenancy import Tenancy

ModelHandler = Callable[[ModelRequest[Any]], ModelResponse[Any]]
AsyncModelHandler = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
ToolAnswer = ToolMessage | Command[Any]


class PinnedState(AgentState[Any]):
    """The agent's state and whose run it is; neither input nor output has the pin, so nobody can set it."""

    tenant_pin: NotRequired[Annotated[str, PrivateStateAttr]]


@dataclass(frozen=True, slots=True)
class RunCaps:
    """What one run of an agent may do; None is no cap of its own. `usd` counts what the model steps have cost."""

    model_calls: int | None = None
    tool_calls: int | None = None
    usd: Decimal | None = None


class TenantAgentMiddleware(AgentMiddleware[PinnedState, Any, Any]):
    """Give it to `create_agent(middleware=[TenantAgentMiddleware(tenancy), ...])`, outermost.

    A run belongs to the tenant that started it: a stream or interrupt resumed by another raises TenantMismatch before
    a model or tool is called. The input guard runs first, every model step goes through the gate (retries and
    fallbacks inside are attempts of one call), tools must be made by `tenant_tool` or be named in `tenantless_tools`.
    An exhausted budget ends the run with a message (`on_budget="raise"`: with BudgetExceeded). With `canaries`, an
    answer that holds another tenant's raises IsolationBreach and one's own are taken out; `answers` flags others'
    ids and the system prompt. Both are the tenancy's unless given.
    """

    state_schema = PinnedState

    def __init__(
        self,
        tenancy: Tenancy,
        *,
        caps: RunCaps | None = None,
        tenantless_tools: frozenset[str] | set[str] = frozenset(),
        canaries: CanaryGuard | None = None,
        answers: AnswerGuard | None = None,
        on_budget: Literal["end", "raise"] = "end",
    ) -> None:
        super().__init__()
        self.tenancy = tenancy
        self.caps = caps or RunCaps()
        self.canaries = canaries if canaries is not None else tenancy.canaries
        self.answers = answers if answers is not None else tenancy.answers
        self._tenantless = frozenset(tenantless_tools)
        self._on_budget = on_budget

    # Whose run it is, and what goes in.

    @passing
    def before_agent(self, state: PinnedState, runtime: Any) -> dict[str, Any] | None:
        tenant = current_tenant()
        _refuse_bare_saver()
        _refuse_empty(state)
        self.tenancy.guard.enforce(list(segments(run.new_messages(state["messages"]))), tenant)
        return {"tenant_pin": _pin()} | run.answered(state["messages"])

    @passing
    async def abefore_agent(self, state: PinnedState, runtime: Any) -> dict[str, Any] | None:
        tenant = current_tenant()
        _refuse_bare_saver()
        _refuse_empty(state)
        await self.tenancy.guard.aenforce(list(segments(run.new_messages(state["messages"]))), tenant)
        return {"tenant_pin": _pin()} | run.answered(state["messages"])

    # Caps of the run.

    @hook_config(can_jump_to=["end"])
    @passing
    def before_model(self, state: PinnedState, runtime: Any) -> dict[str, Any] | None:
        _check_pin(state)
        reason = self._over_cap(state["messages"])
        return None if reason is None else {"messages": [run.stopped(reason)], "jump_to": "end"}

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: PinnedState, runtime: Any) -> dict[str, Any] | None:
        return self.before_model(state, runtime)

    def _over_cap(self, messages: list[Any]) -> str | None:
        answers = run.answers_of_this_run(messages)
        if self.caps.model_calls is not None and len(answers) >= self.caps.model_calls:
            return f"this run's cap of {self.caps.model_calls} model calls is used up"
        if self.caps.usd is not None and run.spent(answers) >= self.caps.usd:
            return f"this run's cap of {self.caps.usd} USD is used up"
        return None

    # Every model step through the gate.

    @passing
    def wrap_model_call(self, request: ModelRequest[Any], handler: ModelHandler) -> ModelResponse[Any] | AIMessage:
        _check_pin(request.state)
        sent = self._sent(request)
        request = request.override(model_settings=sent.options())
        try:
            with self.tenancy.gate.call(self._call(request)) as hold:
                response = handler(self._capped(request, hold))
                _report(hold, response)
                sent.got(*response.result)
                return response
        except BudgetExceeded as error:
            return self._out_of_budget(error)

    @passing
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: AsyncModelHandler
    ) -> ModelResponse[Any] | AIMessage:
        _check_pin(request.state)
        sent = self._sent(request)
        request = request.override(model_settings=await sent.aoptions())
        try:
            async with self.tenancy.gate.acall(self._call(request)) as hold:
                response = await handler(self._capped(request, hold))
                _report(hold, response)
                await sent.agot(*response.result)
                return response
        except BudgetExceeded as error:
            return self._out_of_budget(error)

    def _call(self, request: ModelRequest[Any]) -> Call:
        messages: list[BaseMessage] = [*([request.system_message] if request.system_message else []), *request.messages]
        wish, rest = counting.split_cap(request.model, request.model_settings)
        tools = [t if isinstance(t, dict) else [t.name, t.description, t.args] for t in request.tools]
        return self.tenancy.gate.new_call(
            model_name(request.model),
            prompt_tokens=counting.prompt_tokens(messages, {**rest, "tools": tools}),
            max_tokens=wish,
            n=counting.answers(request.model, rest),
            service_tier=counting.service_tier(request.model, rest),
            media=counting.holds_media(messages),
        )

    def _sent(self, request: ModelRequest[Any]) -> Sent:
        """A TenantChatModel checks the same once more, which changes nothing."""
        salt = salt_of(request.model)
        return Sent(self.tenancy.gate, current_tenant(), request.model, request.messages, request.model_settings, salt)

    @staticmethod
    def _capped(request: ModelRequest[Any], hold: Hold) -> ModelRequest[Any]:
        _, rest = counting.split_cap(request.model, request.model_settings)
        return request.override(
            model_settings={**rest, counting.cap_name(request.model): max(hold.max_tokens // hold.call.n, 1)}
        )

    def _out_of_budget(self, error: BudgetExceeded) -> AIMessage:
        """A last message in the agent's name; a busy budget is only worth a retry, so it is raised."""
        if self._on_budget == "raise" or isinstance(error, BudgetBusy):
            raise error
        return run.stopped(str(error), error)

    # Tools.

    @passing
    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolAnswer]) -> ToolAnswer:
        refusal = self._check_tool(request)
        return handler(request) if refusal is None else refusal

    @passing
    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolAnswer]]
    ) -> ToolAnswer:
        refusal = self._check_tool(request)
        return await handler(request) if refusal is None else refusal

    def _check_tool(self, request: ToolCallRequest) -> ToolMessage | None:
        _check_pin(request.state)
        name = request.tool_call["name"]
        if not isinstance(request.tool, TenantTool) and name not in self._tenantless and request.tool is not None:
            raise ConfigurationError(
                f"tool {name!r} isn't checked by tenant: make it with @tenant_tool(owner=...), or name it in "
                "tenantless_tools when it reads nothing of any tenant's"
            )
        cap = self.caps.tool_calls
        if cap is not None and run.tool_calls_before(request.state["messages"], request.tool_call["id"]) >= cap:
            return ToolMessage(
                f"not called: this run's cap of {cap} tool calls is used up; answer with what is known",
                tool_call_id=request.tool_call["id"],
                name=name,
                status="error",
            )
        return None

    # What comes out.

    @passing
    def after_model(self, state: PinnedState, runtime: Any) -> dict[str, Any] | None:
        _check_pin(state)
        last = state["messages"][-1]
        if not isinstance(last, AIMessage) or not isinstance(last.content, str):
            return None
        tenant, clean = current_tenant(), last.content
        if self.canaries is not None:
            clean = self.canaries.strip(clean, tenant)
        if self.answers is not None:
            self.answers.check(clean, tenant)
        return None if clean == last.content else {"messages": [last.model_copy(update={"content": clean})]}

    async def aafter_model(self, state: PinnedState, runtime: Any) -> dict[str, Any] | None:
        return self.after_model(state, runtime)


def model_name(model: BaseChatModel) -> str:
    """The name that the policy entitles and prices; a wrapper's own, else what the model says of itself."""
    for attribute in ("model_name", "model"):
        name = getattr(model, attribute, None)
        if isinstance(name, str) and name:
            return name
    raise ConfigurationError(
        f"{type(model).__name__} has no name that the policy could entitle and price: wrap it in "
        "TenantChatModel(model=..., model_name=..., gate=tenancy.gate)"
    )


def _report(hold: Hold, response: ModelResponse[Any]) -> None:
    """Report what the step used, unless calls inside it have; and note on its answer what it has cost."""
    answers = [message for message in response.result if isinstance(message, AIMessage)]
    used = counting.usage_of_messages(answers)
    if used is not None:
        hold.report(used)
    inside = [attempt for attempt in hold.attempts if attempt.usage is not None]
    costs = [step.price.cost(step.usage) for step in inside or [hold] if step.usage is not None]
    if answers and costs:
        run.priced(answers[0], sum(costs, Decimal(0)))


def _pin() -> str:
    tenant = current_tenant()
    return key(tenant, "run", tenant.tier, tenant.subject or "")


def _check_pin(state: Any) -> None:
    """A run goes on under the tenant, tier and subject it was started for, or not at all."""
    if state.get("tenant_pin") != _pin():
        raise TenantMismatch(
            "this agent's run was started for one tenant (id, tier and subject) and resumed in the scope of another: "
            "resume it in its own scope, or wrap its stream in pin(...)"
        )


def _refuse_empty(state: PinnedState) -> None:
    if not state.get("messages"):
        raise InvalidInput(
            "this run has no messages: nothing was asked, or a thread was resumed that this tenant doesn't have"
        )


def _refuse_bare_saver() -> None:
    saver = get_config().get("configurable", {}).get("__pregel_checkpointer")
    if saver is not None and not isinstance(saver, bool | TenantCheckpointSaver):
        raise ConfigurationError(
            f"this agent's checkpointer is a bare {type(saver).__name__}, which gives a thread to whoever has its id: "
            "wrap it, TenantCheckpointSaver(saver)"
        )
