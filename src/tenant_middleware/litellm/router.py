"""A Router whose calls are admitted once and settled at once, however they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

from tenant_middleware.errors import missing_extra

try:
    from litellm.router import Router
except ImportError as error:
    raise missing_extra("litellm", __name__) from error

from tenant_middleware.context import (
    current_tenant,
    enter_call,
    frame_of_call,
    leave_call,
    peek_tenant,
    refuse_other,
    run_in,
)
from tenant_middleware.errors import ConfigurationError
from tenant_middleware.litellm.calls import PIN, Calls, OpenCall, Pin, pinned
from tenant_middleware.litellm.refusals import in_litellm_form, passing
from tenant_middleware.litellm.request import bucket_of
from tenant_middleware.litellm.sealed import check_cache
from tenant_middleware.litellm.streams import TenantStream

if TYPE_CHECKING:
    from tenant_middleware.tenancy import Tenancy

# Router's inner functions, by the call type they serve.
_SERVED = {
    "_acompletion": "acompletion",
    "_aembedding": "aembedding",
    "_aimage_generation": "aimage_generation",
    "_arerank": "arerank",
    "aresponses": "aresponses",
}


class TenantRouter(Router):
    """`TenantRouter(tenancy, model_list=[...])`: LiteLLM's Router with the gate around each logical call.

    Retries and fallbacks are attempts of one call: one reservation, one request of the rate limit, one ledger row, each
    fallback model checked and priced by its own name. Success, failure, cancellation, broken, closed and dropped
    streams settle at once. Chat, responses, embeddings, images and rerank; sync methods raise ConfigurationError.
    """

    def __init__(self, tenancy: Tenancy, **router_kwargs: Any) -> None:
        self._tenancy_calls = Calls(tenancy)
        super().__init__(**router_kwargs)
        pass_over_forbidden(self, self._tenancy_calls)
        for name in _SERVED.values():
            vars(self)[name] = _at_the_call(getattr(self, name))

    @passing
    async def async_function_with_fallbacks(self, *args: Any, **kwargs: Any) -> Any:
        running = pinned(kwargs)
        if running is not None and not running.ended and kwargs.get("fallback_depth"):
            return await self._hop(running, args, kwargs)
        check_cache()
        tenant, call_type = current_tenant(), _call_type(kwargs)
        open_call = await self._tenancy_calls.open(tenant, call_type, str(kwargs.get("model")), kwargs, "router")
        outer = enter_call(open_call.hold)
        try:
            response = await super().async_function_with_fallbacks(*args, **self._pinned_kwargs(open_call, kwargs))
            if hasattr(response, "__aiter__"):
                return TenantStream(self._tenancy_calls, open_call, response)
        except BaseException as error:
            await self._tenancy_calls.fail(open_call, error)
            raise
        finally:
            leave_call(open_call.hold, outer)
        return await self._tenancy_calls.deliver(open_call, response)

    async def _hop(self, open_call: OpenCall, args: Any, kwargs: dict[str, Any]) -> Any:
        """A fallback of an open call; LiteLLM comes in by the front door again."""
        refuse_other(open_call.tenant)
        await self._tenancy_calls.hop(open_call, str(kwargs.get("model")))
        return await super().async_function_with_fallbacks(*args, **self._pinned_kwargs(open_call, kwargs))

    def _pinned_kwargs(self, open_call: OpenCall, kwargs: dict[str, Any]) -> dict[str, Any]:
        place = bucket_of(open_call.call_type, kwargs)
        metadata = {**(kwargs.get(place) or {}), PIN: Pin(open_call)}  # a caller's own dictionary may serve many calls
        changed = {**kwargs, place: metadata, **self._tenancy_calls.sent(open_call, kwargs, None)}
        changed.pop("cache_key", None)
        options = kwargs.get("stream_options") or {}
        if open_call.call_type == "acompletion" and kwargs.get("stream") and not options.get("include_usage"):
            # Unasked, most providers don't say what a stream has used, and LiteLLM keeps from us what the others say.
            open_call.hides_usage = True
            changed["stream_options"] = {**options, "include_usage": True}
        return changed

    def _update_kwargs_with_deployment(self, deployment: Any, kwargs: dict[str, Any], *args: Any, **named: Any) -> Any:
        """Each attempt learns its deployment here, those too that come by other ways than the gate's: they end here."""
        open_call = pinned(kwargs)
        if open_call is None:
            raise _unmetered(named.get("function_name", "this call"))
        done = super()._update_kwargs_with_deployment(deployment, kwargs, *args, **named)
        params = deployment["litellm_params"]
        provider = params.get("custom_llm_provider") or str(params["model"]).partition("/")[0]
        kwargs.update(self._tenancy_calls.sent(open_call, kwargs, provider))
        return done

    def factory_function(self, original_function: Any, call_type: Any = "assistants") -> Any:
        """A Router makes most of its methods here; some would call a provider without asking what they'd bill."""
        if call_type in _SERVED:
            return super().factory_function(original_function, call_type)

        def refused(*args: Any, **kwargs: Any) -> NoReturn:
            raise _unmetered(call_type)

        return refused

    def get_available_deployment(self, *args: Any, **kwargs: Any) -> Any:
        if pinned(kwargs.get("request_kwargs") or {}) is None:
            _refuse_sync()
        return super().get_available_deployment(*args, **kwargs)

    def function_with_fallbacks(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse_sync()


def _at_the_call(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A method of LiteLLM's that reads the tenant when it is called: its own would when it is awaited."""

    @wraps(ask)
    def call(*args: Any, **kwargs: Any) -> Any:
        return ask(*args, **kwargs) if peek_tenant() is None else _run(frame_of_call(), ask, args, kwargs)

    return call


_run = passing(run_in)


def pass_over_forbidden(router: Router, calls: Calls) -> None:
    """Have a Router skip the fallbacks that a call's tenant may not use; the gate checks each hop again."""
    before = router.fallback_access_check

    async def check(*, model: str, request_kwargs: Mapping[str, Any], llm_router: Router) -> bool:
        if not await calls.may_fall_back(model, request_kwargs):
            return False
        return before is None or await before(model=model, request_kwargs=request_kwargs, llm_router=llm_router)

    vars(router)["fallback_access_check"] = check


def _call_type(kwargs: dict[str, Any]) -> str:
    function = kwargs.get("original_generic_function") or kwargs.get("original_function")
    name = getattr(function, "__name__", "")
    served = _SERVED.get(name)
    if served is None:
        raise _unmetered(name)
    return served


def _unmetered(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"TenantRouter: {name.strip('_') or 'this call'} can't be metered; expected acompletion, aresponses, "
        "aembedding, aimage_generation or arerank"
    )


def _refuse_sync() -> NoReturn:
    raise in_litellm_form(
        ConfigurationError(
            "TenantRouter: sync calls pass no hook that could settle them; use acompletion, aresponses, aembedding, "
            "aimage_generation or arerank"
        )
    )
