"""Metrics for Prometheus to scrape, by the extra `prometheus`."""

from __future__ import annotations

from tenant_middleware.errors import missing_extra

try:
    from opentelemetry import metrics
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import start_http_server
except ImportError as error:
    raise missing_extra("prometheus", __name__) from error


def serve_metrics(port: int = 9464, *, host: str = "127.0.0.1") -> MeterProvider:
    """Set up a meter provider and serve its metrics under /metrics; for an application that has no SDK of its own.

    Metrics name tenants: `host` is loopback unless told otherwise, and nobody is asked for a token there. Returns the
    provider, whose `shutdown` ends it.
    """
    provider = MeterProvider(metric_readers=[PrometheusMetricReader()])
    metrics.set_meter_provider(provider)
    start_http_server(port, addr=host)
    return provider
