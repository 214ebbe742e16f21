"""A LlamaIndex request's ids, users and prefix-cache salt, made the tenant's own before they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.errors import ConfigurationError, missing_extra
from tenant_middleware.isolation.provider_state import SaltField, refuse_unchecked
from tenant_middleware.llamaindex.usage import Answer, field
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.llms.llm import LLM
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

_SALTS: Mapping[str, SaltField] = {
    "openai_llm": "prompt_cache_key",
    "openai_responses_llm": "prompt_cache_key",
    "azure_openai_llm": "prompt_cache_key",
}


def salt_of(llm: LLM) -> SaltField | None:
    """What the model's provider calls the salt of its prefix cache, as far as the class tells."""
    return _SALTS.get(llm.class_name())


def refuse_shared_state(llm: LLM) -> None:
    """A model object that continues its own last response would continue the last tenant's."""
    if getattr(llm, "track_previous_responses", False):
        raise ConfigurationError(
            f"{type(llm).__name__}(track_previous_responses=True) continues whoever called last: leave it off, and "
            "pass previous_response_id per call; ids are checked to be the tenant's own"
        )


def outgoing(gate: ModelGate, tenant: Tenant, options: dict[str, Any], salt: SaltField | None) -> dict[str, Any]:
    """The options to send; raises ForeignReference for what isn't this tenant's to continue."""
    if (state := gate.provider_state) is None:
        refuse_unchecked(tenant, options)
        return options
    return state.outgoing(tenant, options, salt=salt)


async def aoutgoing(gate: ModelGate, tenant: Tenant, options: dict[str, Any], salt: SaltField | None) -> dict[str, Any]:
    """`outgoing`, by awaiting."""
    if (state := gate.provider_state) is None:
        refuse_unchecked(tenant, options)
        return options
    return await state.aoutgoing(tenant, options, salt=salt)


def incoming(gate: ModelGate, tenant: Tenant, answer: Answer) -> None:
    """Remember the ids that an answer gives out as this tenant's."""
    if (given := _given(answer)) and (state := gate.provider_state) is not None:
        state.incoming(tenant, given)


async def aincoming(gate: ModelGate, tenant: Tenant, answer: Answer) -> None:
    """`incoming`, by awaiting."""
    if (given := _given(answer)) and (state := gate.provider_state) is not None:
        await state.aincoming(tenant, given)


def _given(answer: Answer) -> dict[str, Any] | None:
    """What can be continued later; most steps of most streams have nothing of it."""
    if not answer.raw:
        return None
    response = field(answer.raw, "response") or answer.raw  # an event of the responses API wraps it
    own, conversation = field(response, "id"), field(response, "conversation")
    if conversation is None and not (isinstance(own, str) and own.startswith("resp")):
        return None
    return {"id": own} if conversation is None else {"id": own, "conversation": conversation}
