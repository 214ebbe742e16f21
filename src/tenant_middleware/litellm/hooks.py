"""The gate as LiteLLM callback, for the SDK, the Router and (by its subclass in `proxy`) the proxy.

LiteLLM looks for some hooks on the leaf class alone, and drops a logger whose class name and public attributes equal
another's: so every hook is written out here, and each instance has an `instance_id` of its own.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tenant_middleware.errors import missing_extra

try:
    from litellm.constants import LITTELM_INTERNAL_HEALTH_SERVICE_ACCOUNT_NAME
    from litellm.integrations.custom_logger import CustomLogger
except ImportError as error:
    raise missing_extra("litellm", __name__) from error

from tenant_middleware.admission.call import new_call_id
from tenant_middleware.context import current_tenant, enter_call, leave_call, peek_tenant, refuse_other
from tenant_middleware.errors import ConfigurationError, IsolationBreach
from tenant_middleware.litellm.calls import PIN, Calls, OpenCall, Pin, pinned
from tenant_middleware.litellm.output import withheld
from tenant_middleware.litellm.refusals import in_litellm_form, passing
from tenant_middleware.litellm.request import bucket_of, kind_of
from tenant_middleware.litellm.sealed import check_cache, measures_vectors
from tenant_middleware.litellm.usage import usage_of

if TYPE_CHECKING:
    from tenant_middleware.litellm.proxy import Proxy
    from tenant_middleware.tenancy import Tenancy


class TenantCallback(CustomLogger):
    """`litellm.callbacks = [TenantCallback(tenancy)]`: async SDK and Router calls are admitted, capped and booked.

    The tenant is read when a call is made. Refusals reach the caller as they are, without retry, fallback or cooldown.
    A Router's retry is admitted again; `TenantRouter` counts it once and settles every ending at once. Sync calls pass
    no hook that can refuse them, except `Router.completion`. In a proxy the same object is `callback`.
    """

    def __init__(self, tenancy: Tenancy, *, health_checks: bool = False) -> None:
        """`health_checks` lets LiteLLM's own probes of deployments pass without a tenant: for a proxy alone."""
        super().__init__()
        self.instance_id = new_call_id()
        self.health_checks = health_checks
        self._calls = Calls(tenancy)

    # Before the call.

    @passing
    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: Any) -> dict[str, Any]:
        return await self._admitted(kwargs, getattr(call_type, "value", call_type))

    def pre_call_check(self, deployment: Mapping[str, Any]) -> None:
        if measures_vectors():
            return
        raise in_litellm_form(
            ConfigurationError("LiteLLM's sync Router passes no hook that could bill a call: use its async methods")
        )

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: Any,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[Any]:
        return healthy_deployments

    async def _admitted(self, kwargs: dict[str, Any], call_type: str | None) -> dict[str, Any]:
        if self.health_checks and peek_tenant() is None and pinned(kwargs) is None and _is_probe(kwargs):
            return kwargs  # every tenant's call is pinned in async_pre_call_hook, and no tenant may send `tags`
        check_cache()
        logged = kwargs.get("litellm_logging_obj")
        request = {"model": getattr(logged, "model", None), "messages": getattr(logged, "messages", None)} | kwargs
        open_call = pinned(kwargs)
        model = _asked_model(request)
        if open_call is None or open_call.ended or kind_of(call_type) is not open_call.hold.call.kind:
            # The last: a semantic cache embeds the question with the metadata of the call that asks it.
            outer = None if open_call is None else enter_call(open_call.hold)
            try:
                inner = await self._calls.open(current_tenant(), call_type, model, request, "callback")
            finally:
                if open_call is not None:
                    leave_call(open_call.hold, outer)
            open_call = inner
        else:
            refuse_other(open_call.tenant)
            if model != open_call.serving.call.model:
                await self._calls.hop(open_call, model)
        self._watch(logged, open_call)
        place = bucket_of(call_type, kwargs)
        metadata = {**(kwargs.get(place) or {}), PIN: Pin(open_call)}  # a caller's own dictionary may serve many calls
        provider = kwargs.get("custom_llm_provider") or str(request["model"]).partition("/")[0]
        changed = {**kwargs, place: metadata, **self._calls.sent(open_call, kwargs, provider)}
        changed.pop("cache_key", None)
        return changed

    def _watch(self, logged: Any, open_call: OpenCall) -> None:
        """Let the log hooks find the call, and end it when its logging object goes without one of them."""
        if logged is None:
            return
        logged.model_call_details[PIN] = Pin(open_call)
        if open_call.owner != "router":
            loop = asyncio.get_running_loop()
            weakref.finalize(logged, self._calls.abandon, open_call, loop).atexit = False

    # While it streams, and after it.

    async def async_post_call_streaming_deployment_hook(
        self, request_data: dict[str, Any], response_chunk: Any, call_type: Any
    ) -> None:
        open_call = self._mine(request_data)
        if open_call is not None:
            await self._calls.chunk(open_call, response_chunk)

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> Any:
        open_call = pinned(request_data)
        if open_call is None or open_call.owner == "router":
            return None
        if open_call.owner == "proxy" or not self._calls.output:
            await self._calls.finish(open_call, response)
            return None
        try:
            return await self._calls.deliver(open_call, response)
        except IsolationBreach:  # LiteLLM would swallow it and go on with the answer
            return withheld(response)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        open_call = self._mine(kwargs)
        if open_call is None:
            return
        if kwargs.get("cache_hit") is True:
            await self._calls.hit(open_call)
        elif open_call.count.began and usage_of(response_obj) is None:
            await self._calls.finish_stream(open_call, response_obj)
        else:
            await self._calls.finish(open_call, response_obj)

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        open_call = self._mine(kwargs)
        if open_call is None:
            return
        if open_call.unseen and kwargs.get("completion_start_time"):
            await self._calls.fail_unseen(open_call, "error")
            return
        error = kwargs.get("exception")
        await self._calls.fail(open_call, error if isinstance(error, BaseException) else Exception("failed"))

    # The proxy's own hooks.

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        return await self._proxy.admit(user_api_key_dict, data, call_type)

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> Any:
        return await self._proxy.finish(data, response)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> Any:
        return await self._proxy.fail(request_data, original_exception)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        async with aclosing(self._proxy.stream(request_data, response)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def async_filter_listed_models(self, user_api_key_dict: Any, model_names: Sequence[str]) -> Sequence[str]:
        return self._proxy.visible(user_api_key_dict, model_names)

    @cached_property
    def _proxy(self) -> Proxy:
        """The proxy's part needs its extra, so it is loaded when a proxy first asks."""
        from tenant_middleware.litellm.proxy import Proxy

        return Proxy(self._calls)

    def _mine(self, kwargs: Mapping[str, Any]) -> OpenCall | None:
        open_call = pinned(kwargs)
        return open_call if open_call is not None and open_call.owner == "callback" else None


def _is_probe(kwargs: Mapping[str, Any]) -> bool:
    metadata = kwargs.get("litellm_metadata")
    tags = metadata.get("tags") if isinstance(metadata, Mapping) else None
    return LITTELM_INTERNAL_HEALTH_SERVICE_ACCOUNT_NAME in (tags or ())


def _asked_model(request: Mapping[str, Any]) -> str:
    """The name the caller used: a Router's model group, else the model itself."""
    if request.get("model_info"):
        for place in ("litellm_metadata", "metadata"):
            metadata = request.get(place)
            if isinstance(metadata, Mapping) and metadata.get("model_group"):
                return str(metadata["model_group"])
    return str(request["model"])
