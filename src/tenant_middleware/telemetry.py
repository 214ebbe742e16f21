"""The hooks every stage reports to: spans and metrics on the OpenTelemetry API, which do nothing without an SDK.

Attributes carry the tenant and numbers, never content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

from opentelemetry import metrics, trace

from tenant_middleware.errors import Refusal
from tenant_middleware.tenant import Tenant

Stage = Literal["guard", "cache", "retrieval", "memory", "queue", "admission", "model", "tool", "ingest"]
TENANT = "tenant.id"
NAME = "tenant_middleware"

_tracer = trace.get_tracer(NAME)
_meter = metrics.get_meter(NAME)
_calls = _meter.create_counter("tenant.model.calls", description="Settled model calls")
_tokens = _meter.create_counter(
    "gen_ai.client.token.usage", unit="{token}", description="Tokens of settled model calls"
)
_cost = _meter.create_counter("tenant.model.cost", unit="nUSD", description="Nano-dollars of settled model calls")
_refusals = _meter.create_counter("tenant.refusals", description="Calls refused, by rule")
_outages = _meter.create_counter("tenant.store.outages", description="Times a shared store was given up for a while")
_queue_wait = _meter.create_histogram("tenant.queue.wait", unit="s", description="Wait for a slot")


class SettledCall(Protocol):
    """What a ledger row tells the meters."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cost_nano(self) -> int: ...
    @property
    def queue_wait(self) -> float: ...


@contextmanager
def stage(name: Stage, tenant: Tenant) -> Iterator[None]:
    """A span around one stage of one tenant's request."""
    with _tracer.start_as_current_span(f"tenant.{name}", attributes={TENANT: tenant.id}, record_exception=False):
        yield


def settled(row: SettledCall) -> None:
    """Count a settled model call."""
    attributes = {TENANT: row.tenant_id, "gen_ai.request.model": row.model, "gen_ai.operation.name": row.kind}
    _calls.add(1, {**attributes, "status": row.status})
    _tokens.add(row.prompt_tokens, {**attributes, "gen_ai.token.type": "input"})
    _tokens.add(row.completion_tokens, {**attributes, "gen_ai.token.type": "output"})
    _cost.add(row.cost_nano, attributes)
    _queue_wait.record(row.queue_wait, {TENANT: row.tenant_id})


def store_down(store: str) -> None:
    """Count an outage of a shared store; what the policy says for it happens from now on."""
    _outages.add(1, {"store": store})


def refused(tenant: Tenant, model: str, error: BaseException) -> None:
    """Count a refusal, by the rule that decided it."""
    if isinstance(error, Refusal):
        _refusals.add(1, {TENANT: tenant.id, "code": error.code, "rule": error.rule})
