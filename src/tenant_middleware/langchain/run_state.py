"""Pure readings of an agent's messages: what is new, what this run has called and spent, what was left unanswered."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from tenant_middleware.errors import Refusal

STOP = "tenant_refusal"
COST = "tenant_cost_usd"


def new_messages(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """What came in after the last answer, and the user's turns before it: an attack may be split over turns."""
    last = max((i for i, message in enumerate(messages) if isinstance(message, AIMessage)), default=-1)
    earlier = [message for message in messages[: last + 1] if isinstance(message, HumanMessage)]
    return [*earlier[-8:], *messages[last + 1 :]]


def answers_of_this_run(messages: Sequence[AnyMessage]) -> list[AIMessage]:
    """The model's answers since the user last spoke."""
    start = max((i for i, message in enumerate(messages) if isinstance(message, HumanMessage)), default=-1)
    return [message for message in messages[start + 1 :] if isinstance(message, AIMessage)]


def priced(answer: AIMessage, cost: Decimal) -> None:
    """Note on an answer what the step that gave it has cost: the model's own name for itself may have no price."""
    answer.response_metadata = {**answer.response_metadata, COST: str(cost)}


def spent(answers: Sequence[AIMessage]) -> Decimal:
    """What the steps that gave these answers have cost."""
    return sum((Decimal(answer.response_metadata.get(COST, 0)) for answer in answers), Decimal(0))


def tool_calls_before(messages: Sequence[AnyMessage], call_id: str | None) -> int:
    """How many tool calls of this run come before this one, in the order in which the model made them."""
    count = 0
    for answer in answers_of_this_run(messages):
        for call in answer.tool_calls:
            if call["id"] == call_id:
                return count
            count += 1
    return count


def answered(messages: Sequence[AnyMessage]) -> dict[str, Any]:
    """A state update that answers tool calls which a refusal left open: strict providers reject them unanswered."""
    known = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    repaired: list[AnyMessage] = []
    for message in messages:
        repaired.append(message)
        if isinstance(message, AIMessage):
            repaired += [
                ToolMessage("not called: refused", tool_call_id=call["id"] or "", name=call["name"], status="error")
                for call in message.tool_calls
                if call["id"] not in known
            ]
    if len(repaired) == len(messages):
        return {}
    return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *repaired]}


def stopped(reason: str, error: Refusal | None = None) -> AIMessage:
    """The agent's last word when it may not go on; its metadata carries the rule for whoever shows it."""
    data: dict[str, Any] = {"code": "run_cap"} if error is None else {"code": error.code, "rule": error.rule}
    if error is not None and error.resets_at is not None:
        data["resets_at"] = error.resets_at.isoformat()
    return AIMessage(f"Stopped: {reason}.", response_metadata={STOP: data})
