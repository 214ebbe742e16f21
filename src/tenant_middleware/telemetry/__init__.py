"""The hooks every stage reports to: spans and metrics on the OpenTelemetry API, which do nothing without an SDK.

Attributes carry the tenant and numbers, never content. Names are OpenTelemetry's GenAI conventions where there is one.
Observers that subscribe (a Tenancy's own record for reports) hear of stages and refusals too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter, time_ns
from types import TracebackType
from typing import Literal, Protocol
from weakref import WeakSet

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from tenant_middleware.errors import IsolationBreach, Refusal
from tenant_middleware.telemetry.series import OTHER, TopTenants
from tenant_middleware.tenant import Tenant

Stage = Literal[
    "guard", "cache", "retrieval", "memory", "queue", "admission", "first_token", "generation", "tool", "ingest"
]
CALL = "call"
"""A model call from its arrival at the gate to its end: the sum of what it waited for and the answer itself."""
TENANT = "tenant.id"
NAME = "tenant_middleware"

_log = logging.getLogger(__name__)
# OpenTelemetry's own default suits milliseconds. These are the conventions' for tokens and calls; stages begin smaller.
_TOKENS = [4.0**power for power in range(14)]
_CALLS = [0.01 * 2.0**power for power in range(14)]
_SECONDS = [0.0001 * 4.0**power for power in range(11)]
_tracer = trace.get_tracer(NAME)
_meter = metrics.get_meter(NAME)
_calls = _meter.create_counter("tenant.model.calls", unit="{call}", description="Settled model calls")
_tokens = _meter.create_histogram(
    "gen_ai.client.token.usage",
    unit="{token}",
    description="Tokens of settled model calls",
    explicit_bucket_boundaries_advisory=_TOKENS,
)
_duration = _meter.create_histogram(
    "gen_ai.client.operation.duration",
    unit="s",
    description="Time of settled model calls, without waiting",
    explicit_bucket_boundaries_advisory=_CALLS,
)
_cost = _meter.create_counter("tenant.model.cost", unit="nUSD", description="Nano-dollars of settled model calls")
_refusals = _meter.create_counter("tenant.refusals", unit="{refusal}", description="Calls refused, by rule")
_incidents = _meter.create_counter(
    "tenant.isolation.incidents", unit="{incident}", description="Data of another tenant that a check held back"
)
_verdicts = _meter.create_counter(
    "tenant.guard.verdicts",
    unit="{verdict}",
    description="Texts that a guard flagged or blocked, by first rule",
)
_outages = _meter.create_counter(
    "tenant.store.outages", unit="{outage}", description="Times a shared store was given up for a while"
)
_stages = _meter.create_histogram(
    "tenant.stage.duration",
    unit="s",
    description="Time in one stage of a request",
    explicit_bucket_boundaries_advisory=_SECONDS,
)

_budget = _meter.create_gauge("tenant.budget.used", unit="1", description="Share of the budget settled and held")
_framework = _meter.create_histogram(
    "tenant.framework.duration",
    unit="s",
    description="Time of a framework's own steps, by its names for them",
    explicit_bucket_boundaries_advisory=_SECONDS,
)
_audit_leaks = _meter.create_gauge("tenant.audit.leaks", unit="{probe}", description="Probes that leaked, last audit")
_audit_controls = _meter.create_gauge(
    "tenant.audit.failed_controls", unit="{probe}", description="Probes whose control failed, last audit"
)
_audit_time = _meter.create_gauge("tenant.audit.time", unit="s", description="When the last audit began")

series = TopTenants()


class KeepsRows(Protocol):
    """Something that has settled calls to write."""

    @property
    def pending(self) -> int: ...


_ledgers: WeakSet[KeepsRows] = WeakSet()


def watch_rows(ledger: KeepsRows) -> None:
    """Say from now on how many rows a ledger still has to write, as long as it lives."""
    _ledgers.add(ledger)


def _rows_waiting(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
    return [metrics.Observation(sum(ledger.pending for ledger in list(_ledgers)))]


_meter.create_observable_gauge(
    "tenant.ledger.pending", [_rows_waiting], unit="{row}", description="Settled calls that aren't in the ledger yet"
)


class Observer(Protocol):
    """Hears of every stage and refusal in this process; it is called on the path of a request and must be quick."""

    def stages(self, tenant: Tenant, seconds: Mapping[str, float]) -> None: ...
    def refusal(self, tenant: Tenant, rule: str) -> None: ...


_observers: tuple[Observer, ...] = ()


def subscribe(observer: Observer) -> None:
    """Let an observer hear of what follows, until `unsubscribe`."""
    global _observers
    _observers = (*_observers, observer)


def unsubscribe(observer: Observer) -> None:
    """Tell an observer nothing more."""
    global _observers
    _observers = tuple(one for one in _observers if one is not observer)


class SettledCall(Protocol):
    """What a ledger row tells the meters."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def tier(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def stream(self) -> bool: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cost_nano(self) -> int: ...
    @property
    def queue_wait(self) -> float: ...
    @property
    def latency(self) -> float: ...


class stage:
    """`with stage("retrieval", tenant):` is a span and a timing around one stage of one tenant's request."""

    __slots__ = ("_began", "_name", "_span", "_tenant", "_token")

    def __init__(self, name: Stage, tenant: Tenant) -> None:
        self._name, self._tenant = name, tenant

    def __enter__(self) -> None:
        self._span: Span | None = None
        if _traced():
            self._span = _tracer.start_span(f"tenant.{self._name}", attributes={TENANT: self._tenant.id})
            self._token = context.attach(trace.set_span_in_context(self._span))
        self._began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> None:
        seconds, span = perf_counter() - self._began, self._span
        if span is not None:
            # The span learns the error's type, never its words: a provider's or driver's may quote content.
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            span.end()
            context.detach(self._token)
        if isinstance(error, IsolationBreach):
            incident(self._tenant, self._name)
        observe(self._tenant, {self._name: seconds})


def _traced() -> bool:
    """Whether anybody collects spans; what is made for nobody still costs microseconds."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def observe(tenant: Tenant, seconds: Mapping[str, float]) -> None:
    """Record the times of stages that were measured elsewhere; `generation` is in seconds per output token."""
    who = series.label(tenant.id)
    for name, took in seconds.items():
        _stages.record(took, {TENANT: who, "stage": name})
    for observer in _observers:
        observer.stages(tenant, seconds)


def framework(tenant: Tenant, which: str, step: str, seconds: float, *, failed: bool) -> None:
    """Record the time of one step of a framework, by the framework's name for it."""
    who = series.label(tenant.id)
    _framework.record(seconds, {TENANT: who, "framework": which, "step": step, "failed": failed})


def settled(row: SettledCall, tenant: Tenant, *, admission: float = 0.0, first_token: float | None = None) -> None:
    """Count a settled model call and the stages it went through.

    `admission`: seconds it took to be admitted, without the queue; `first_token`: seconds from then on.
    """
    attributes = {
        TENANT: series.label(row.tenant_id),
        "gen_ai.request.model": row.model,
        "gen_ai.operation.name": _operation(row.kind),
    }
    _calls.add(1, {**attributes, "status": row.status})
    _tokens.record(row.prompt_tokens, {**attributes, "gen_ai.token.type": "input"})
    _tokens.record(row.completion_tokens, {**attributes, "gen_ai.token.type": "output"})
    _duration.record(row.latency, attributes)
    _cost.add(row.cost_nano, attributes)
    if _traced():
        _call_spans(row, admission)
    if row.kind == "chat":
        observe(tenant, _stages_of(row, admission, first_token))


def _stages_of(row: SettledCall, admission: float, first_token: float | None) -> dict[str, float]:
    whole = row.queue_wait + admission + row.latency
    took, writing = {CALL: whole, "queue": row.queue_wait, "admission": admission}, row.latency
    if first_token is not None:
        took["first_token"] = first_token
        writing = max(writing - first_token, 0.0)
    if row.completion_tokens and row.status == "ok":
        took["generation"] = writing / row.completion_tokens
    return took


def _operation(kind: str) -> str:
    return "embeddings" if kind == "embedding" else kind


def _call_spans(row: SettledCall, admission: float) -> None:
    """The spans of a call's wait, admission and model, written when it has settled: some hooks can't hold one open."""
    now = time_ns()
    began = now - round(row.latency * 1e9)
    admitted = began - round(admission * 1e9)
    for name, start, end in (
        ("queue", admitted - round(row.queue_wait * 1e9), admitted),
        ("admission", admitted, began),
    ):
        _tracer.start_span(f"tenant.{name}", attributes={TENANT: row.tenant_id}, start_time=start).end(end)
    _model_span(row, began, now)


def _model_span(row: SettledCall, began: int, now: int) -> None:
    operation = _operation(row.kind)
    span = _tracer.start_span(f"{operation} {row.model}", kind=SpanKind.CLIENT, start_time=began)
    if span.is_recording():  # not all are: the SDK samples
        span.set_attributes(
            {
                TENANT: row.tenant_id,
                "tenant.tier": row.tier,
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": row.provider or "unknown",
                "gen_ai.request.model": row.model,
                "gen_ai.usage.input_tokens": row.prompt_tokens,
                "gen_ai.usage.output_tokens": row.completion_tokens,
                "tenant.cost_nano_usd": row.cost_nano,
                "tenant.queue_wait": row.queue_wait,
            }
        )
        if row.status not in ("ok", "cache_hit"):
            span.set_status(Status(StatusCode.ERROR, row.status))
    span.end(now)


def budget_used(tenant: Tenant, share: float) -> None:
    """Note how much of its budget a tenant has used; those without a series of their own are left to the ledger."""
    who = series.label(tenant.id)
    if who != OTHER:
        _budget.set(share, {TENANT: who})


def store_down(store: str) -> None:
    """Count an outage of a shared store; what the policy says for it happens from now on."""
    _outages.add(1, {"store": store})


def refused(tenant: Tenant, error: BaseException) -> None:
    """Count a refusal, by the rule that decided it."""
    if isinstance(error, Refusal):
        _refusals.add(1, {TENANT: series.label(tenant.id), "code": error.code, "rule": error.rule})
        for observer in _observers:
            observer.refusal(tenant, error.rule)


def guarded(tenant: Tenant, where: Literal["input", "answer"], action: str, rules: Sequence[str]) -> None:
    """Count what a guardrail flagged or blocked: a tier whose guard only flags is heard of here."""
    _verdicts.add(1, {TENANT: series.label(tenant.id), "where": where, "action": action, "rule": next(iter(rules), "")})


def incident(tenant: Tenant, where: str) -> None:
    """Count data of another tenant that a check held back from this one: somebody should be told at once."""
    _incidents.add(1, {TENANT: series.label(tenant.id), "where": where})
    _log.error("isolation incident in %s: a check held back what isn't the tenant's", where)


def audited(leaks: int, failed_controls: int, began: float) -> None:
    """Report what the last audit found, and when: an alert also has to fire when no audit runs any more."""
    _audit_leaks.set(leaks)
    _audit_controls.set(failed_controls)
    _audit_time.set(began)
