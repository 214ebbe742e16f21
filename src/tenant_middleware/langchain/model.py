"""A chat model that sends every call through the gate: invoke, batch, stream, tools and structured output."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, PrivateAttr, field_validator

try:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
    from langchain_core.language_models import BaseChatModel, LanguageModelInput
    from langchain_core.messages import AIMessage, BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.runnables import Runnable, RunnableBinding
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware.admission.call import Call, Hold
from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.context import current_tenant, pin, refuse_other, scope
from tenant_middleware.errors import ConfigurationError, InvalidInput
from tenant_middleware.isolation.provider_state import SaltField
from tenant_middleware.keys import key
from tenant_middleware.langchain import usage as counting
from tenant_middleware.langchain.pinned import PinnedRunnable, called_now
from tenant_middleware.langchain.provider import Sent, salt_of
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.tenant import Tenant


class TenantChatModel(PinnedRunnable, BaseChatModel):
    """Wraps any chat model; each call is admitted, capped, settled and booked for the tenant in context.

    `model_name` is the name that the policy entitles and prices. The tenant is read when a method is called: a stream
    or coroutine keeps it, whoever resumes it; inside another's scope it raises TenantMismatch. Raises MissingTenant and
    the gate's refusals, in a form that LangGraph and LangChain's middleware let through.

    `prefix_salt` is what the provider calls the salt of its prefix cache; OpenAI's and Azure's are known. An OpenAI
    client that speaks to vLLM needs `prefix_salt="cache_salt"`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: BaseChatModel = Field(exclude=True)
    model_name: str
    gate: ModelGate = Field(exclude=True, repr=False)
    prefix_salt: SaltField | None = None

    _caller: Tenant | None = PrivateAttr(default=None)

    CALLER_OWNED: ClassVar[frozenset[str]] = frozenset({"model", "model_name", "n"})

    @field_validator("model", mode="before")
    @classmethod
    def _is_a_model(cls, model: object) -> object:
        if isinstance(model, RunnableBinding) or not isinstance(model, BaseChatModel):
            raise ConfigurationError(
                f"TenantChatModel: expected a chat model, got {type(model).__name__}; bind tools and options on the "
                "wrapper instead (TenantChatModel(...).bind_tools(...))"
            )
        return model

    @property
    def _llm_type(self) -> str:
        return f"tenant:{self.model._llm_type}"

    # The tenant is taken when a method is called; these generators' bodies would start at their first step.

    def _for_caller(self) -> TenantChatModel:
        """This model, tied to the tenant in context now."""
        if self._caller is not None:
            refuse_other(self._caller)
            return self
        copy = self.model_copy()
        copy._caller = current_tenant()
        return copy

    def _tenant(self) -> Tenant:
        if self._caller is None:
            return current_tenant()
        refuse_other(self._caller)
        return self._caller

    @passing
    def stream(self, input: LanguageModelInput, *args: Any, **kwargs: Any) -> Any:
        return BaseChatModel.stream(self._for_caller(), input, *args, **kwargs)

    @passing
    def astream(self, input: LanguageModelInput, *args: Any, **kwargs: Any) -> Any:
        return BaseChatModel.astream(self._for_caller(), input, *args, **kwargs)

    @passing
    def stream_events(self, input: LanguageModelInput, *args: Any, **kwargs: Any) -> Any:
        return BaseChatModel.stream_events(self._for_caller(), input, *args, **kwargs)

    @passing
    def astream_events(self, input: LanguageModelInput, *args: Any, **kwargs: Any) -> Any:
        return BaseChatModel.astream_events(self._for_caller(), input, *args, **kwargs)

    @passing
    def agenerate(self, *args: Any, **kwargs: Any) -> Any:
        return called_now(super().agenerate, *args, **kwargs)

    @passing
    def agenerate_prompt(self, *args: Any, **kwargs: Any) -> Any:
        return called_now(super().agenerate_prompt, *args, **kwargs)

    # One gated call.

    @passing
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with scope(self._tenant()):
            call, kwargs = self._call(messages, kwargs)
            sent = self._sent(messages, kwargs)
            kwargs = sent.options()
            with self.gate.call(call) as hold:
                if self.model.rate_limiter is not None:
                    self.model.rate_limiter.acquire(blocking=True)
                result = self.model._generate(messages, stop, run_manager, **self._capped(hold, kwargs))
                self._report(hold, result)
                sent.got(*(generation.message for generation in result.generations))
                return result

    @passing
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with scope(self._tenant()):
            call, kwargs = self._call(messages, kwargs)
            sent = self._sent(messages, kwargs)
            kwargs = await sent.aoptions()
            async with self.gate.acall(call) as hold:
                if self.model.rate_limiter is not None:
                    await self.model.rate_limiter.aacquire(blocking=True)
                result = await self.model._agenerate(messages, stop, run_manager, **self._capped(hold, kwargs))
                self._report(hold, result)
                await sent.agot(*(generation.message for generation in result.generations))
                return result

    @passing
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with scope(self._tenant()):
            steps = pin(self._gated_stream(messages, stop, run_manager, kwargs))
        with closing(steps):
            yield from steps

    @passing
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with scope(self._tenant()):
            steps = pin(self._gated_astream(messages, stop, run_manager, kwargs))
        async with aclosing(steps):
            async for chunk in steps:
                yield chunk

    def _gated_stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
    ) -> Iterator[ChatGenerationChunk]:
        call, kwargs = self._call(messages, kwargs, stream=True)
        sent = self._sent(messages, kwargs)
        kwargs = sent.options()
        with self.gate.call(call) as hold:
            if self.model.rate_limiter is not None:
                self.model.rate_limiter.acquire(blocking=True)
            counted = counting.StreamCount(call.prompt_tokens)
            chunks: Any = self.model._stream(messages, stop, run_manager, **self._capped(hold, kwargs))
            with hold.reporting(counted), closing(chunks):
                for chunk in chunks:
                    counted.add(chunk)
                    sent.got(chunk.message)
                    if self.gate.heartbeat_due(hold):
                        hold.report(counted.usage())
                        self.gate.extend(hold)
                    yield chunk

    async def _gated_astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun | None,
        kwargs: dict[str, Any],
    ) -> AsyncIterator[ChatGenerationChunk]:
        call, kwargs = self._call(messages, kwargs, stream=True)
        sent = self._sent(messages, kwargs)
        kwargs = await sent.aoptions()
        async with self.gate.acall(call) as hold:
            if self.model.rate_limiter is not None:
                await self.model.rate_limiter.aacquire(blocking=True)
            counted = counting.StreamCount(call.prompt_tokens)
            chunks: Any = self.model._astream(messages, stop, run_manager, **self._capped(hold, kwargs))
            with hold.reporting(counted):
                async with aclosing(chunks):
                    async for chunk in chunks:
                        counted.add(chunk)
                        await sent.agot(chunk.message)
                        if self.gate.heartbeat_due(hold):
                            hold.report(counted.usage())
                            await self.gate.aextend(hold)
                        yield chunk

    def _call(
        self, messages: list[BaseMessage], kwargs: dict[str, Any], *, stream: bool = False
    ) -> tuple[Call, dict[str, Any]]:
        """The call for the gate and the request's options without the caps, which the gate decides."""
        foreign = sorted(self.CALLER_OWNED & kwargs.keys())
        if foreign:
            raise InvalidInput(
                f"{', '.join(foreign)}: can't be given per call; the wrapper's model_name is what is entitled and "
                "priced. Make one TenantChatModel for each model"
            )
        wish, rest = counting.split_cap(self.model, kwargs)
        call = self.gate.new_call(
            self.model_name,
            prompt_tokens=counting.prompt_tokens(messages, rest),
            max_tokens=wish,
            n=counting.answers(self.model, rest),
            stream=stream,
            service_tier=counting.service_tier(self.model, rest),
            media=counting.holds_media(messages),
        )
        return call, rest

    def _sent(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> Sent:
        salt = self.prefix_salt or salt_of(self.model)
        return Sent(self.gate, current_tenant(), self.model, messages, kwargs, salt)

    def _capped(self, hold: Hold, kwargs: dict[str, Any]) -> dict[str, Any]:
        return kwargs | {counting.cap_name(self.model): max(hold.max_tokens // hold.call.n, 1)}

    @staticmethod
    def _report(hold: Hold, result: ChatResult) -> None:
        used = counting.usage_of(result)
        if used is not None:
            hold.report(used)

    # What a cache, a tracer or an agent asks the model about.

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The cache key's model half: the tenant and subject first, then the inner model with all its parameters."""
        tenant = self._tenant()
        inner = self.model._get_llm_string(stop=stop, **kwargs)
        return f"{key(tenant, 'llm', tenant.subject or '', self.model_name)}{inner}"

    def _convert_cached_generations(self, cache_val: list[Any]) -> list[Any]:
        self.gate.hit(self.gate.new_call(self.model_name))
        return super()._convert_cached_generations(cache_val)

    def _should_stream(self, *, async_api: bool, run_manager: Any = None, **kwargs: Any) -> bool:
        """Whether the inner model would stream: our own `_stream` exists for every model."""
        return super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs) and (
            self.model._should_stream(async_api=async_api, run_manager=run_manager, **{**kwargs, "stream": True})
        )

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.model._get_ls_params(stop=stop, **kwargs)

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """The inner model's tool schemas, bound to this wrapper: the tool-calling model is gated too."""
        bound = self.model.bind_tools(tools, **kwargs)
        if not isinstance(bound, RunnableBinding) or bound.bound is not self.model:
            raise ConfigurationError(
                f"{type(self.model).__name__}.bind_tools returns something other than a binding of the model, which "
                "would pass the gate by; bind the tools as keyword arguments: TenantChatModel(...).bind(tools=[...])"
            )
        return self.bind(**bound.kwargs)


# LangChain asks for these signatures at each call, and following a wrapper to its function takes a while.
for _name in ("_generate", "_agenerate", "_stream", "_astream"):
    _method: Any = vars(TenantChatModel)[_name]
    _method.__signature__ = inspect.signature(_method)
