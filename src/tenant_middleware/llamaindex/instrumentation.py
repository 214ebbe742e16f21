"""LlamaIndex's own spans with the tenant on them: how long each step of an engine, index or agent took, for whom.

Handlers only observe: LlamaIndex swallows what they raise. Usage comes from the gate, whatever framework asked.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

from tenant_middleware import telemetry
from tenant_middleware.context import current_tenant, peek_tenant
from tenant_middleware.errors import missing_extra
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index_instrumentation import get_dispatcher
    from llama_index_instrumentation.dispatcher import instrument_tags
    from llama_index_instrumentation.span.base import BaseSpan
    from llama_index_instrumentation.span_handlers.base import BaseSpanHandler
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error


class TenantSpan(BaseSpan):
    """One call of an instrumented method, by name alone: neither arguments nor results are kept."""

    _tenant: Tenant | None = PrivateAttr(default_factory=peek_tenant)
    _began: float = PrivateAttr(default_factory=perf_counter)


class TenantSpanHandler(BaseSpanHandler[TenantSpan]):
    """Times LlamaIndex's spans per tenant into the metric `tenant.framework.duration`; `observe_llamaindex` adds one.

    Spans outside any scope are left out. It keeps nothing of a span that has ended.
    """

    @classmethod
    def class_name(cls) -> str:
        return "TenantSpanHandler"

    def new_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any = None,
        parent_span_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> TenantSpan | None:
        return TenantSpan(id_=id_, parent_id=parent_span_id, tags=tags or {})

    def prepare_to_exit_span(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""

    def prepare_to_drop_span(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""

    def _record(self, id_: str, *, failed: bool) -> None:
        """The base class would collect every finished span for ever."""
        with self.lock:
            span = self.open_spans.pop(id_, None)
        if span is not None and span._tenant is not None:
            name = id_.partition("-")[0]  # "RetrieverQueryEngine.query-<uuid>"
            telemetry.framework(span._tenant, "llamaindex", name, perf_counter() - span._began, failed=failed)

    def span_exit(self, id_: str, *args: Any, **kwargs: Any) -> None:
        self._record(id_, failed=False)

    def span_drop(self, id_: str, *args: Any, **kwargs: Any) -> None:
        self._record(id_, failed=True)


def observe_llamaindex() -> TenantSpanHandler:
    """Time every span of LlamaIndex in this process from now on; once per process, the same handler again."""
    dispatcher = get_dispatcher()
    for known in dispatcher.span_handlers:
        if isinstance(known, TenantSpanHandler):
            return known
    handler = TenantSpanHandler()
    dispatcher.add_span_handler(handler)
    return handler


def tenant_tags() -> AbstractContextManager[None]:
    """`with tenant_tags():` puts the tenant on every LlamaIndex event inside, for handlers of yours."""
    return instrument_tags({telemetry.TENANT: current_tenant().id})
