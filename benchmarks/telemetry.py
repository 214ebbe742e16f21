"""What it costs to be told of, and how often the latency verdicts are right."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.entries import Area, Measured
from benchmarks.side_by_side import interleaved, repeat
from benchmarks.traffic import STAGES, Slowdown, day
from tenant_middleware import telemetry
from tenant_middleware.reporting.latency import verdicts
from tenant_middleware.tenant import Tenant

AREA = Area(
    "telemetry",
    required=["telemetry.off_us", "telemetry.on_us", "telemetry.latency_false_alarms", "telemetry.latency_detects"],
)
ACME = Tenant("acme", "gold", "ann")


class Nowhere(SpanExporter):
    """An exporter whose time is not ours."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def stage() -> None:
    with telemetry.stage("retrieval", ACME):
        pass


@contextmanager
def plain() -> Iterator[None]:
    yield


def bare() -> None:
    with plain():
        pass


def added_us() -> Measured:
    timings = interleaved({"stage": repeat(stage), "bare": repeat(bare)}, loops=2_000, runs=15, clock=time.process_time)
    return Measured(timings.added_us("stage", "bare"), {"an empty context manager us": timings.us("bare")})


# The order matters: the API takes a provider once and keeps it.
@AREA.entry("telemetry.off_us", unit="us", better="lower", target=5)
def off_us() -> Measured:
    """One stage without an SDK, less an empty context manager."""
    return added_us()


@AREA.entry("telemetry.on_us", unit="us", better="lower", target=30)
def on_us() -> Measured:
    """One stage with the SDK's spans (in batches) and metrics, less an empty context manager; all threads counted."""
    traces, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    traces.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(traces)
    metrics.set_meter_provider(meters)
    try:
        return added_us()
    finally:
        traces.shutdown()
        meters.shutdown()


@AREA.entry("telemetry.latency_false_alarms", unit="share", better="lower", target=0.01)
def latency_false_alarms() -> Measured:
    """Tenants of healthy days, 50 a day, that are told apart wrongly."""
    wrong = []
    for seed in range(20):
        found = verdicts(day(random.Random(seed)))
        wrong.append(sum(one.scope == "only this tenant" for one in found) / len(found))
    return Measured([mean(wrong)], {"days": 20, "days with an alarm": sum(share > 0 for share in wrong)})


@AREA.entry("telemetry.latency_detects", unit="share", better="higher", target=0.95)
def latency_detects() -> Measured:
    """Days on which one stage of one tenant takes twice as long, in its 200 calls, and just that is found."""
    hits, dice = 0, random.Random(11)
    days = 40
    for seed in range(days):
        slow = Slowdown(dice.choice(list(STAGES)), 2.0, f"t{dice.randrange(50):02d}")
        found = {one.tenant_id: one for one in verdicts(day(random.Random(1_000 + seed), slow=slow))}
        own = found[str(slow.tenant)]
        hits += own.scope == "only this tenant" and own.stage == slow.stage
    return Measured([hits / days], {"days": days})
