"""A LangChain request's ids, users and prefix-cache salt, made the tenant's own before they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.isolation import seal
from tenant_middleware.isolation.provider_state import SaltField, refuse_unchecked
from tenant_middleware.langchain.usage import attribute
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

_KINDS: Mapping[str, SaltField] = {"openai-chat": "prompt_cache_key", "azure-openai-chat": "prompt_cache_key"}


def salt_of(model: BaseChatModel) -> SaltField | None:
    """What the model's provider calls the salt of its prefix cache, as far as the class tells."""
    return _KINDS.get(model._llm_type)


class Sent:
    """One request of a tenant on its way to the provider, and what the answer gives out."""

    def __init__(
        self,
        gate: ModelGate,
        tenant: Tenant,
        model: BaseChatModel,
        messages: Sequence[BaseMessage],
        options: Mapping[str, Any],
        salt: SaltField | None,
    ) -> None:
        self._state, self._tenant, self._salt = gate.provider_state, tenant, salt
        self._options = dict(options)
        self._continues = _continued(model, messages)
        for framework in ("langchain_core", "langgraph"):
            seal.check(framework)
        if self._state is None:
            refuse_unchecked(tenant, {**options, **self._continues})

    def options(self) -> dict[str, Any]:
        """The options to send; raises ForeignReference for what isn't this tenant's to continue."""
        if self._state is None:
            return self._options
        if self._continues:
            self._state.outgoing(self._tenant, self._continues)
        return self._state.outgoing(self._tenant, self._options, salt=self._salt)

    async def aoptions(self) -> dict[str, Any]:
        """`options`, by awaiting."""
        if self._state is None:
            return self._options
        if self._continues:
            await self._state.aoutgoing(self._tenant, self._continues)
        return await self._state.aoutgoing(self._tenant, self._options, salt=self._salt)

    def got(self, *answers: BaseMessage) -> None:
        """Remember the ids that the answers give out as this tenant's."""
        for answer in answers:
            if self._state is not None and answer.response_metadata:
                self._state.incoming(self._tenant, answer.response_metadata)

    async def agot(self, *answers: BaseMessage) -> None:
        """`got`, by awaiting."""
        for answer in answers:
            if self._state is not None and answer.response_metadata:
                await self._state.aincoming(self._tenant, answer.response_metadata)


def _continued(model: BaseChatModel, messages: Sequence[BaseMessage]) -> dict[str, Any]:
    """ChatOpenAI(use_previous_response_id=True) continues the newest response named in the messages themselves."""
    if not attribute(model, "use_previous_response_id"):
        return {}
    named = (message.response_metadata.get("id") for message in reversed(messages) if isinstance(message, AIMessage))
    newest = next((name for name in named if isinstance(name, str) and name.startswith("resp")), None)
    return {"previous_response_id": newest} if newest else {}
