"""What a tenant may ask a LiteLLM proxy for: routes, and for each its parameters. Everything else is refused by name.

LiteLLM reads dozens of switches of its own from request bodies and headers (`no-log`, `fallbacks`, `api_base`,
`cache`, `metadata.*`), more with each release: a list of what is forbidden would be late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tenant_middleware.errors import ForeignReference, InvalidInput


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CHAT = _words("""
    model messages stream stream_options temperature top_p n stop max_tokens max_completion_tokens presence_penalty
    frequency_penalty logit_bias logprobs top_logprobs user safety_identifier seed tools tool_choice
    parallel_tool_calls response_format reasoning_effort verbosity
""")
RESPONSES = _words("""
    model input instructions stream temperature top_p max_output_tokens tools tool_choice parallel_tool_calls
    previous_response_id conversation text reasoning truncation store user safety_identifier
""")
EMBEDDINGS = _words("model input encoding_format dimensions user")
IMAGES = _words("model prompt n size quality style response_format output_format background user")
RERANK = _words("model query documents top_n return_documents rank_fields max_chunks_per_doc")

SERVED: Mapping[tuple[str, str], frozenset[str]] = {
    ("POST", f"{version}{path}"): allowed
    for path, allowed in {
        "/chat/completions": CHAT,
        "/responses": RESPONSES,
        "/embeddings": EMBEDDINGS,
        "/images/generations": IMAGES,
        "/rerank": RERANK,
    }.items()
    for version in ("", "/v1")
} | {("POST", "/v2/rerank"): RERANK, ("GET", "/models"): frozenset(), ("GET", "/v1/models"): frozenset()}
"""Spelled out, character by character; no patterns, no normalising."""

OPERATOR = frozenset({("GET", "/metrics"), ("GET", "/metrics/"), ("GET", "/health")})
"""For the holder of the master key alone."""

OPEN = frozenset({("GET", "/health/liveliness"), ("GET", "/health/liveness"), ("GET", "/health/readiness")})
"""Signs of life for a load balancer; they know no tenant."""

# LiteLLM takes orders from these: call ids, retries, timeouts, tags, callbacks to switch off, other credentials.
_ORDERS = ("x-litellm-", "x-mcp-", "x-pass-", "langfuse_")
_OTHER_KEYS = frozenset({"api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key"})
# Where a provider keeps what somebody stored; no served route creates any, so every such id is foreign or unknown.
_STORED = frozenset({"file_id", "file_ids", "vector_store_id", "vector_store_ids", "container", "container_id"})


@dataclass(frozen=True, slots=True)
class NotServed(Exception):
    """A route, header or parameter that tenants may not use; `param` names it."""

    code: str
    param: str
    message: str
    status: int = 400


def check_route(method: str, path: str) -> frozenset[str]:
    """The parameters of a served route; raises NotServed for any other."""
    allowed = SERVED.get((method, path))
    if allowed is None:
        message = "this route is not served to tenants: chat, responses, embeddings, images, rerank and models are"
        raise NotServed("route_not_served", "path", message, 403)
    return allowed


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise NotServed for a header that would give LiteLLM an order or another key."""
    for name in headers:
        if name.startswith(_ORDERS) or name in _OTHER_KEYS:
            raise NotServed("header_not_allowed", name, f"the header {name} is not allowed here: leave it out")


def check_body(allowed: frozenset[str], body: Mapping[str, Any]) -> None:
    """Raise NotServed for a parameter outside the route's list, or ForeignReference for an id of stored content."""
    for name in body:
        if name not in allowed:
            raise NotServed("parameter_not_allowed", name, f"the parameter {name} is not allowed here: leave it out")
    for tool in body.get("tools") or ():
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind != "function":
            raise NotServed("parameter_not_allowed", "tools", "tools: expected tools of type function alone")
    for name in _names(body.get("messages"), body.get("input")):
        if name in _STORED:
            raise ForeignReference(f"{name}: this tenant was given no such id by the provider", rule=name)
    _check_shape(body)


def _check_shape(body: Mapping[str, Any]) -> None:
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidInput("model: expected text")
    for name in ("messages", "documents", "tools"):
        if body.get(name) is not None and not isinstance(body[name], list):
            raise InvalidInput(f"{name}: expected a list")


def _names(*values: Any) -> Iterator[str]:
    """Every field name anywhere inside."""
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            yield from value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
