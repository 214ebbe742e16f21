"""What a framework's call costs more with the tenant on it, beside the same call of the bare framework."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.llms.custom import CustomLLM

from benchmarks.entries import Measured
from benchmarks.side_by_side import Timings, interleaved, repeat
from tenant_middleware import Tenancy, Tenant, scope
from tenant_middleware.langchain import TenantAgentMiddleware, TenantChatModel, tenant_tool
from tenant_middleware.llamaindex import TenantLLM

ACME = Tenant("acme", "gold", "ann")
POLICY = {
    "tiers": {
        "gold": {
            "rpm": 10**9,
            "tpm": 10**12,
            "max_concurrency": 64,
            "budget": {"usd": "1000000", "period": "month"},
            "models": ["bench/model"],
            "max_output_tokens": 8_192,
        }
    },
    "tenants": {"acme": {"tier": "gold"}},
    "prices": {"bench/model": {"input_usd_per_million": "0.15", "output_usd_per_million": "0.60"}},
}
QUESTION = "What does the Premium plan cost, and what of it is due this month?"
TOKENS = 1_000
TOOLS = 5
MODEL_S = 0.05
USAGE = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}


class Instant(BaseChatModel):
    """A chat model that answers at once, or word by word."""

    model_name: str = "bench/model"

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        message = AIMessage("It costs 89 USD.", usage_metadata=USAGE)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        for _number in range(TOKENS - 1):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word "))
        yield ChatGenerationChunk(message=AIMessageChunk(content="", usage_metadata=USAGE))


class Calling(Instant):
    """A model of 50 ms that calls five tools, one after the other, and then answers."""

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        time.sleep(MODEL_S)
        done = sum(isinstance(message, ToolMessage) for message in messages)
        calls = [{"name": f"look_{done}", "args": {"what": "x"}, "id": f"c{done}"}] if done < TOOLS else []
        message = AIMessage("" if calls else "done", tool_calls=calls, usage_metadata=USAGE)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[one.name for one in tools], **kwargs)


class InstantLLM(CustomLLM):
    """LlamaIndex's twin of it."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_chat_model=True, model_name="bench/model")

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        usage = {"prompt_tokens": 20, "completion_tokens": 5}
        return ChatResponse(message=ChatMessage("It costs 89 USD.", role="assistant"), raw={"usage": usage})

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Iterator[ChatResponse]:
        for _number in range(TOKENS):
            yield ChatResponse(message=ChatMessage("word ", role="assistant"), delta="word ", raw={})

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text="It costs 89 USD.")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def langchain_model() -> Measured:
    """A call of TenantChatModel less the same call of the bare model."""
    with Tenancy.from_mapping(POLICY) as tenancy, scope(ACME):
        bare = Instant()
        ours = TenantChatModel(model=bare, model_name="bench/model", gate=tenancy.gate)
        contenders = {"ours": repeat(lambda: ours.invoke(QUESTION)), "bare": repeat(lambda: bare.invoke(QUESTION))}
        return _added(interleaved(contenders, loops=200, runs=15, clock=time.process_time))


def llamaindex_model() -> Measured:
    """A call of TenantLLM less the same call of the bare LLM."""
    with Tenancy.from_mapping(POLICY) as tenancy, scope(ACME):
        bare, asked = InstantLLM(), [ChatMessage(QUESTION)]
        ours = TenantLLM(bare, model_name="bench/model", gate=tenancy.gate)
        contenders = {"ours": repeat(lambda: ours.chat(asked)), "bare": repeat(lambda: bare.chat(asked))}
        return _added(interleaved(contenders, loops=200, runs=15, clock=time.process_time))


def stream() -> Measured:
    """A token of a LangChain stream less one of the bare stream, over a stream of a thousand; LlamaIndex's beside."""
    with Tenancy.from_mapping(POLICY) as tenancy, scope(ACME):
        bare, bare_llm, asked = Instant(), InstantLLM(), [ChatMessage(QUESTION)]
        ours = TenantChatModel(model=bare, model_name="bench/model", gate=tenancy.gate)
        our_llm = TenantLLM(bare_llm, model_name="bench/model", gate=tenancy.gate)

        def steps_of(asking: Any) -> Any:
            return repeat(lambda: _exhaust(asking()))

        contenders = {
            "ours": steps_of(lambda: ours.stream(QUESTION)),
            "bare": steps_of(lambda: bare.stream(QUESTION)),
            "our llm": steps_of(lambda: our_llm.stream_chat(asked)),
            "bare llm": steps_of(lambda: bare_llm.stream_chat(asked)),
        }
        timings = interleaved(contenders, loops=2, runs=11, clock=time.process_time)
        per_token = [us / TOKENS for us in timings.added_us("ours", "bare")]
        llamaindex = sorted(us / TOKENS for us in timings.added_us("our llm", "bare llm"))
        beside = {"us/token bare": timings.us("bare") / TOKENS, "LlamaIndex": llamaindex[len(llamaindex) // 2]}
        return Measured(per_token, beside)


def agent_run() -> Measured:
    """An agent's run with five tool calls at a 50 ms model, over the bare agent's run."""
    with Tenancy.from_mapping(POLICY) as tenancy, scope(ACME):
        model = TenantChatModel(model=Calling(), model_name="bench/model", gate=tenancy.gate)
        ours = create_agent(
            model,
            tools=[_ours(n) for n in range(TOOLS)],
            middleware=[TenantAgentMiddleware(tenancy)],
        )
        bare = create_agent(Calling(), tools=[_bare(n) for n in range(TOOLS)])
        asked: Any = {"messages": [("user", QUESTION)]}
        contenders = {"ours": repeat(lambda: ours.invoke(asked)), "bare": repeat(lambda: bare.invoke(asked))}
        timings = interleaved(contenders, loops=1, runs=15, warm_up=1)
        booked = len(tenancy.ledger.rows())
        if booked != 16 * (TOOLS + 1):
            raise RuntimeError(f"the ledger has {booked} rows, expected {16 * (TOOLS + 1)}")
        return Measured(timings.ratios("ours", "bare"), {"ms ours": timings.us("ours") / 1e3})


def _ours(number: int) -> Any:
    def look(what: str, tenant: Tenant) -> list[dict[str, str]]:
        """Look something up."""
        return [{"tenant": tenant.id, "what": what}]

    return tenant_tool(owner="tenant", name=f"look_{number}")(look)


def _bare(number: int) -> Any:
    def look(what: str) -> list[dict[str, str]]:
        """Look something up."""
        return [{"tenant": "acme", "what": what}]

    return tool(f"look_{number}")(look)


def _exhaust(stream: Any) -> None:
    taken = sum(1 for _ in itertools.islice(stream, TOKENS + 5))
    if taken < TOKENS:
        raise RuntimeError(f"the stream had {taken} steps, expected {TOKENS}")


def _added(timings: Timings) -> Measured:
    return Measured(timings.added_us("ours", "bare"), {"us bare": timings.us("bare")})
