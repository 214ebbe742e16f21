"""What the proxy's hooks do: admit before the call, settle where the answer leaves, refuse as OpenAI errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from tenant_middleware.errors import TenancyError
from tenant_middleware.isolation import seal
from tenant_middleware.litellm.answers import refused
from tenant_middleware.litellm.auth import tenant_of
from tenant_middleware.litellm.calls import PIN, Calls, Pin, pinned
from tenant_middleware.litellm.request import bucket_of
from tenant_middleware.litellm.router import pass_over_forbidden
from tenant_middleware.litellm.sealed import check_cache
from tenant_middleware.litellm.streams import SettledStream
from tenant_middleware.litellm.wall import answer_tells

# The proxy's names for what its endpoints do.
_CALL_TYPES = {
    "completion": "acompletion",
    "embedding": "aembedding",
    "embeddings": "aembedding",
    "image_generation": "aimage_generation",
    "rerank": "arerank",
    "responses": "aresponses",
}


class Proxy:
    """The proxy's calls: the tenant comes from `custom_auth`, never from what the client sent."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._clock = calls.tenancy.clock
        self._ready = False

    async def admit(self, user_api_key_dict: Any, data: dict[str, Any], call_type: str) -> dict[str, Any]:
        """Admit a request, and pin it; raises what the client gets to see."""
        try:
            self._prepare()
            tenant = tenant_of(user_api_key_dict)
            call_type = _CALL_TYPES.get(call_type, call_type)
            open_call = await self._calls.open(tenant, call_type, str(data.get("model")), data, "proxy")
        except TenancyError as error:
            answer = refused(error, self._clock.time())
        else:
            answer_tells(open_call)
            place = bucket_of(call_type, data)
            data[place] = {**(data.get(place) or {}), PIN: Pin(open_call)}
            return data | self._calls.sent(open_call, data, None)
        raise answer  # outside the handler: what is chained would be printed

    async def finish(self, data: Mapping[str, Any], response: Any) -> Any:
        """Settle an answer on its way out, and clean it. Only a breach stops it: it is paid for."""
        open_call = pinned(data)
        return response if open_call is None else await self._calls.deliver(open_call, response)

    async def fail(self, data: Mapping[str, Any], error: Exception) -> Any:
        """Give back what a failed call held; refusals from inside LiteLLM get their own status."""
        open_call = pinned(data)
        if open_call is not None:
            await self._calls.fail(open_call, error)
        _forget_names(error)
        if not isinstance(error, TenancyError):
            return None
        from fastapi import HTTPException

        answer = refused(error, self._clock.time())
        return HTTPException(int(answer.code), detail={"error": answer.body}, headers=answer.headers)

    async def stream(self, data: Mapping[str, Any], response: Any) -> AsyncGenerator[Any, None]:
        """The stream as it goes out; a client that leaves is charged what was sent to it."""
        open_call = pinned(data)
        if open_call is None:
            async for chunk in response:
                yield chunk
            return
        async with aclosing(SettledStream(self._calls, open_call, response)) as chunks:
            async for chunk in chunks:
                yield chunk

    def visible(self, user_api_key_dict: Any, names: Sequence[str]) -> list[str]:
        """The model names that a tenant may know of."""
        try:
            tenant = tenant_of(user_api_key_dict)
        except TenancyError:
            return []
        policy = self._calls.tenancy.policy
        return [name for name in names if policy.entitlement(tenant, name).allowed]

    def _prepare(self) -> None:
        """The config's cache may be set up after the callbacks are; one that comes later still is refused."""
        if not self._ready:
            from litellm.proxy.proxy_server import llm_router

            seal.seal_all(self._calls.tenancy)
            if llm_router is not None:
                pass_over_forbidden(llm_router, self._calls)
            self._ready = True
        check_cache()


def _forget_names(error: Exception) -> None:
    """LiteLLM appends the names of all configured fallbacks to a provider's message; some are other tenants'."""
    message = getattr(error, "message", None)
    if isinstance(message, str):
        vars(error)["message"] = message.partition("\n\nLiteLLM:")[0]
