"""A LlamaIndex LLM that sends every call through the gate: chat, complete, streams, async, tools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from tenant_middleware.admission.call import Call, Hold
from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.context import pin
from tenant_middleware.errors import ConfigurationError, InvalidInput, missing_extra
from tenant_middleware.guardrails import InputGuard
from tenant_middleware.isolation.provider_state import SaltField
from tenant_middleware.llamaindex import provider
from tenant_middleware.llamaindex import usage as counting
from tenant_middleware.llamaindex.guard import aguard_input, guard_input, new_messages
from tenant_middleware.llamaindex.pinned import Unpickled, asteps, called_now, steps, unspanned

try:
    from llama_index.core.base.llms.types import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        LLMMetadata,
    )
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.llms.function_calling import FunctionCallingLLM
    from llama_index.core.llms.llm import LLM, ToolSelection
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

_PROMPTING = (
    "system_prompt",
    "messages_to_prompt",
    "completion_to_prompt",
    "output_parser",
    "pydantic_program_mode",
    "query_wrapper_prompt",
    "callback_manager",
)


class TenantLLM(Unpickled, FunctionCallingLLM):
    """Wraps any LLM; each call is admitted, capped, settled and booked for the tenant in context.

    `model_name` is the name that the policy entitles and prices. The tenant is read when a method is called; a stream
    or coroutine keeps it, and used inside another's scope it raises TenantMismatch. `cap_name` is what the provider
    calls its output cap, where the class doesn't tell; `prefix_salt` what it calls the salt of its prefix cache.
    With `guard=tenancy.guard` what is new in a prompt is checked first, which covers engines and agents alike.
    Raises MissingTenant and the gate's refusals; a stream raises them at its first step.
    """

    model_name: str

    _wired: _Wired = PrivateAttr()

    CALLER_OWNED: ClassVar[frozenset[str]] = frozenset({"model", "model_name", "n"})

    def __init__(
        self,
        llm: LLM,
        *,
        model_name: str,
        gate: ModelGate,
        cap_name: str | None = None,
        prefix_salt: SaltField | None = None,
        guard: InputGuard | None = None,
    ) -> None:
        if not isinstance(llm, LLM):
            raise ConfigurationError(f"TenantLLM: expected a LlamaIndex LLM, got {type(llm).__name__}")
        if isinstance(llm, TenantLLM):
            raise ConfigurationError("TenantLLM: this LLM goes through a gate already")
        provider.refuse_shared_state(llm)
        # Prompts are made by the methods of the base class, on the wrapper.
        super().__init__(model_name=model_name, **{name: getattr(llm, name) for name in _PROMPTING})
        named = [name for name in counting.CAP_NAMES if name in type(llm).model_fields]
        self._wired = _Wired(
            llm, gate, guard, prefix_salt or provider.salt_of(llm), cap_name or [*named, *counting.CAP_NAMES][0], named
        )

    @property
    def _inner(self) -> LLM:
        return self._wired.inner

    @classmethod
    def class_name(cls) -> str:
        return "TenantLLM"

    @property
    def metadata(self) -> LLMMetadata:
        return self._inner.metadata

    # Every way to ask. Those that give coroutines and streams are no coroutine functions or generators themselves:
    # their bodies would start at the first await or step, which may be anybody's.

    @unspanned
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return cast(ChatResponse, self._ask(self._inner.chat, self._request(messages, kwargs)))

    @unspanned
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        request = self._request(prompt, kwargs, formatted=formatted)
        return cast(CompletionResponse, self._ask(self._inner.complete, request))

    @unspanned
    def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Coroutine[Any, Any, ChatResponse]:
        return called_now(self._aask, self._inner.achat, self._request(messages, kwargs))

    @unspanned
    def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Coroutine[Any, Any, CompletionResponse]:
        return called_now(self._aask, self._inner.acomplete, self._request(prompt, kwargs, formatted=formatted))

    @unspanned
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        request = self._request(messages, kwargs, stream=True)
        return steps(pin(self._stream(self._inner.stream_chat, request)))

    @unspanned
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        request = self._request(prompt, kwargs, formatted=formatted, stream=True)
        return steps(pin(self._stream(self._inner.stream_complete, request)))

    @unspanned
    def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Coroutine[Any, Any, ChatResponseAsyncGen]:
        request = self._request(messages, kwargs, stream=True)
        return _opened(asteps(pin(self._astream(self._inner.astream_chat, request))))

    @unspanned
    def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> Coroutine[Any, Any, CompletionResponseAsyncGen]:
        request = self._request(prompt, kwargs, formatted=formatted, stream=True)
        return _opened(asteps(pin(self._astream(self._inner.astream_complete, request))))

    # Tools: the inner model knows its provider's form of them, the call itself is ours.

    def _prepare_chat_with_tools(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self._tool_caller()._prepare_chat_with_tools_compat(*args, **kwargs)

    def _prepare_chat_with_tools_compat(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self._tool_caller()._prepare_chat_with_tools_compat(*args, **kwargs)

    def _validate_chat_with_tools_response(self, *args: Any, **kwargs: Any) -> ChatResponse:
        return self._tool_caller()._validate_chat_with_tools_response(*args, **kwargs)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        return self._tool_caller().get_tool_calls_from_response(
            response, error_on_no_tool_call=error_on_no_tool_call, **kwargs
        )

    def _tool_caller(self) -> FunctionCallingLLM:
        if not isinstance(self._inner, FunctionCallingLLM):
            raise ConfigurationError(
                f"{type(self._inner).__name__} can't call functions: use a ReActAgent, or a model that can"
            )
        return self._inner

    # One gated call, in its four forms.

    def _request(
        self, asked: str | Sequence[ChatMessage], options: dict[str, Any], *, stream: bool = False, **more: Any
    ) -> _Request:
        foreign = sorted(self.CALLER_OWNED & options.keys())
        if foreign:
            raise InvalidInput(
                f"{', '.join(foreign)}: can't be given per call; the wrapper's model_name is what is entitled and "
                "priced. Make one TenantLLM for each model"
            )
        wired = self._wired
        wishes = [options[name] for name in counting.CAP_NAMES if isinstance(options.get(name), int)]
        own = (getattr(wired.inner, name) for name in wired.cap_fields)
        wishes += [value for value in own if isinstance(value, int) and value > 0]
        call = wired.gate.new_call(
            self.model_name,
            prompt_tokens=counting.prompt_tokens(asked, options),
            max_tokens=min(wishes, default=None),
            n=self._option("n", options) or 1,
            stream=stream,
            service_tier=self._option("service_tier", options) or "",
            media=counting.holds_media(asked),
        )
        rest = {name: value for name, value in options.items() if name not in counting.CAP_NAMES}
        return _Request(wired, asked, call, rest, more)

    def _option(self, name: str, options: dict[str, Any]) -> Any:
        """What is sent under a name: by the caller, or always."""
        always = getattr(self._inner, "additional_kwargs", None) or {}
        return options.get(name, always.get(name, getattr(self._inner, name, None)))

    def _ask(self, send: Callable[..., Any], request: _Request) -> Any:
        options, gate = request.prepared(), request.wired.gate
        with gate.call(request.call) as hold:
            answer = send(request.asked, **request.more, **request.capped(options, hold))
            _report(hold, answer)
            provider.incoming(gate, request.call.tenant, answer)
            return answer

    async def _aask(self, send: Callable[..., Any], request: _Request) -> Any:
        options, gate = await request.aprepared(), request.wired.gate
        async with gate.acall(request.call) as hold:
            answer = await send(request.asked, **request.more, **request.capped(options, hold))
            _report(hold, answer)
            await provider.aincoming(gate, request.call.tenant, answer)
            return answer

    def _stream(self, send: Callable[..., Any], request: _Request) -> Iterator[Any]:
        options, gate = request.prepared(), request.wired.gate
        counted = counting.StreamCount(request.call.prompt_tokens)
        with gate.call(request.call) as hold:
            with (
                hold.reporting(counted),
                closing(send(request.asked, **request.more, **request.capped(options, hold))) as answers,
            ):
                for answer in answers:
                    counted.add(answer)
                    provider.incoming(gate, request.call.tenant, answer)
                    if gate.heartbeat_due(hold):
                        hold.report(counted.usage())
                        gate.extend(hold)
                    yield answer

    async def _astream(self, send: Callable[..., Any], request: _Request) -> AsyncIterator[Any]:
        options, gate = await request.aprepared(), request.wired.gate
        counted = counting.StreamCount(request.call.prompt_tokens)
        async with gate.acall(request.call) as hold:
            with hold.reporting(counted):
                sending = await send(request.asked, **request.more, **request.capped(options, hold))
                async with aclosing(sending) as answers:
                    async for answer in answers:
                        counted.add(answer)
                        await provider.aincoming(gate, request.call.tenant, answer)
                        if gate.heartbeat_due(hold):
                            hold.report(counted.usage())
                            await gate.aextend(hold)
                        yield answer


@dataclass(frozen=True, slots=True)
class _Wired:
    """What the wrapper holds, in one piece: pydantic takes a while for each private attribute."""

    inner: LLM
    gate: ModelGate
    guard: InputGuard | None
    salt: SaltField | None
    cap_name: str
    cap_fields: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Request:
    """What goes to the provider once the call is admitted; `more` is for LlamaIndex alone."""

    wired: _Wired
    asked: Any
    call: Call
    options: dict[str, Any]
    more: dict[str, Any]

    def prepared(self) -> dict[str, Any]:
        """The options to send, once guard and provider state have passed the request."""
        if self.wired.guard is not None:
            guard_input(self.wired.guard, self._new())
        return provider.outgoing(self.wired.gate, self.call.tenant, self.options, self.wired.salt)

    async def aprepared(self) -> dict[str, Any]:
        """`prepared`, by awaiting."""
        if self.wired.guard is not None:
            await aguard_input(self.wired.guard, self._new())
        return await provider.aoutgoing(self.wired.gate, self.call.tenant, self.options, self.wired.salt)

    def _new(self) -> Any:
        """What the guard hasn't seen yet."""
        return self.asked if isinstance(self.asked, str) else new_messages(self.asked)

    def capped(self, options: dict[str, Any], hold: Hold) -> dict[str, Any]:
        """The options with the gate's output cap, under the provider's name for it."""
        return options | {self.wired.cap_name: max(hold.max_tokens // hold.call.n, 1)}


async def _opened(stream: Any) -> Any:
    return stream


def _report(hold: Hold, answer: counting.Answer) -> None:
    used = counting.usage_of(answer)
    if used is not None:
        hold.report(used)
