"""What the plugin is measured beside: a proxy with LiteLLM's own budgets and limits, or with hooks that do nothing."""

from __future__ import annotations

from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth


class NoOp(CustomLogger):
    """The hooks that a plugin has, empty."""

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: Any) -> Any:
        return data

    async def async_post_call_success_hook(self, data: Any, user_api_key_dict: Any, response: Any) -> None:
        return None

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Any
    ) -> Any:
        async for chunk in response:
            yield chunk

    async def async_post_call_response_headers_hook(
        self,
        data: Any,
        user_api_key_dict: Any,
        response: Any,
        request_headers: Any = None,
        litellm_call_info: Any = None,
    ) -> dict[str, str]:
        return {"x-no-op": "1"}


callback = NoOp()


async def custom_auth(request: Any, api_key: str) -> UserAPIKeyAuth:
    """The key's name says which of LiteLLM's own limits it has: `budget-...`, `tpm-...`, `rpm-...` or none."""
    kind = api_key.partition("-")[0]
    limits: dict[str, Any] = {
        "budget": {"max_budget": 0.002, "spend": 0.0},
        "tpm": {"tpm_limit": 1_000},
        "rpm": {"rpm_limit": 20},
    }.get(kind, {})
    return UserAPIKeyAuth(api_key=api_key, token=api_key, team_id=api_key, user_id="u", **limits)
