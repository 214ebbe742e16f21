"""A LangChain agent behind FastAPI: documents and threads of many tenants on one Redis, answers as they are made.

python integrations/langchain-agent/app.py
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.redis.aio import AsyncRedisSaver
from pydantic import BaseModel, StringConstraints
from redis.asyncio import Redis

from tenant_middleware import Tenancy, Tenant
from tenant_middleware.demo.service import serve
from tenant_middleware.identity import TenantMiddleware
from tenant_middleware.identity.fastapi import REFUSALS, CurrentTenant, answer_mistakes, stream_answer
from tenant_middleware.langchain import (
    RunCaps,
    TenantAgentMiddleware,
    TenantChatModel,
    TenantCheckpointSaver,
    TenantEmbeddings,
    TenantVectorStore,
    tenant_tool,
)
from tenant_middleware.local import embeddings, scripted_tool_model

POLICY = Path(__file__).parent.parent / "tenancy.toml"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4_000, strip_whitespace=True)]


class Question(BaseModel):
    question: Text
    thread: Name = "default"


class Answer(BaseModel):
    answer: str


class Upload(BaseModel):
    id: Name
    text: Text


class Usage(BaseModel):
    calls: int
    tokens: int
    usd: str


def create_app(tenancy: Tenancy, redis: str) -> FastAPI:
    name = os.environ.get("MODEL")  # "openai:gpt-4o-mini"; without it a scripted model that only calls its tool
    inner = init_chat_model(name) if name else scripted_tool_model()
    model = TenantChatModel(model=inner, model_name="openai/local", gate=tenancy.gate)
    embedding = TenantEmbeddings(embeddings(), model_name="local/embed", gate=tenancy.gate)
    store = TenantVectorStore(vectors=tenancy.vectors, embedding=embedding)

    caps = RunCaps(model_calls=6, tool_calls=6)

    @tenant_tool(owner="tenant")
    async def search_documents(query: str, tenant: Tenant) -> list[dict[str, str]]:
        """Search the calling tenant's documents."""
        found = await store.asimilarity_search(query, k=3)
        return [{"tenant": tenant.id, "text": doc.page_content} for doc in found]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with tenancy, Redis.from_url(redis) as client, AsyncRedisSaver(redis_client=client) as saver:
            await saver.asetup()
            app.state.agent = create_agent(
                model,
                tools=[search_documents],
                middleware=[TenantAgentMiddleware(tenancy, caps=caps, on_budget="raise")],  # a 402, not a sentence
                checkpointer=TenantCheckpointSaver(saver),
            )
            yield

    app = FastAPI(title="An agent for many tenants", lifespan=lifespan, responses=REFUSALS)
    app.add_middleware(TenantMiddleware, identity=tenancy, open_paths=["/health", "/docs", "/openapi.json"])
    answer_mistakes(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.put("/documents", status_code=204)
    async def upload(document: Upload, tenant: CurrentTenant) -> None:
        await store.aadd_texts([document.text], ids=[document.id])

    @app.post("/ask")
    async def ask(asked: Question, tenant: CurrentTenant, request: Request) -> Answer:
        out = await request.app.state.agent.ainvoke(*_run(asked))
        return Answer(answer=out["messages"][-1].text)

    @app.post("/ask/stream", response_class=StreamingResponse)
    async def stream(asked: Question, tenant: CurrentTenant, request: Request) -> StreamingResponse:
        return await stream_answer(_tokens(request.app.state.agent.astream(*_run(asked), stream_mode="messages")))

    @app.get("/usage")
    def usage(tenant: CurrentTenant) -> Usage:
        tenancy.drain()
        used = tenancy.ledger.totals(tenant_id=tenant.id)
        return Usage(
            calls=used.calls + used.embeddings,
            tokens=used.prompt_tokens + used.completion_tokens,
            usd=f"{used.cost_usd:.9f}",
        )

    return app


def _run(asked: Question) -> tuple[Any, Any]:
    return {"messages": [("user", asked.question)]}, {"configurable": {"thread_id": asked.thread}}


async def _tokens(steps: AsyncIterator[Any]) -> AsyncIterator[str]:
    """What the model says; not what its tools said to it."""
    async for message, _ in steps:
        if isinstance(message, AIMessageChunk) and message.text:
            yield message.text


if __name__ == "__main__":
    serve(create_app, POLICY, port=8001)
