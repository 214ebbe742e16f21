"""A LlamaIndex index behind FastAPI: one index object for all tenants on one Redis, answers as they are made.

python integrations/llamaindex-rag/app.py
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from llama_index.core import Document
from llama_index.core.memory import Memory
from pydantic import BaseModel, StringConstraints

from tenant_middleware import Tenancy
from tenant_middleware.demo.service import serve
from tenant_middleware.identity import TenantMiddleware
from tenant_middleware.identity.fastapi import REFUSALS, CurrentTenant, answer_mistakes, stream_answer
from tenant_middleware.llamaindex import (
    GuardedQueryEngine,
    TenantChatStore,
    TenantEmbedding,
    TenantLLM,
    TenantPostprocessor,
    tenant_index,
)
from tenant_middleware.local import llama_embedding, llama_llm

POLICY = Path(__file__).parent.parent / "tenancy.toml"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4_000, strip_whitespace=True)]


class Question(BaseModel):
    question: Text


class Turn(BaseModel):
    message: Text
    session: Name = "default"


class Answer(BaseModel):
    answer: str
    sources: list[str]


class Upload(BaseModel):
    id: Name
    text: Text


class Usage(BaseModel):
    calls: int
    tokens: int
    usd: str


def create_app(tenancy: Tenancy, redis: str) -> FastAPI:
    embed = TenantEmbedding(llama_embedding(), model_name="local/embed", gate=tenancy.gate)
    llm = TenantLLM(llama_llm(), model_name="openai/local", gate=tenancy.gate, guard=tenancy.guard)
    index = tenant_index(vectors=tenancy.vectors, embed_model=embed, llm=llm)
    second_line = TenantPostprocessor(vectors=tenancy.vectors)
    engine = GuardedQueryEngine(index.as_query_engine(node_postprocessors=[second_line]), tenancy.guard)

    def chat_of(session: str) -> Any:
        memory = Memory.from_defaults(session_id=session, chat_store=TenantChatStore(tenancy.history))
        return index.as_chat_engine(chat_mode="context", memory=memory, node_postprocessors=[second_line])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with tenancy:
            yield

    app = FastAPI(title="Retrieval for many tenants", lifespan=lifespan, responses=REFUSALS)
    app.add_middleware(TenantMiddleware, identity=tenancy, open_paths=["/health", "/docs", "/openapi.json"])
    answer_mistakes(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.put("/documents", status_code=204)
    async def upload(document: Upload, tenant: CurrentTenant) -> None:
        await index.aupdate_ref_doc(Document(doc_id=document.id, text=document.text))

    @app.post("/query")
    async def query(asked: Question, tenant: CurrentTenant) -> Answer:
        answer = await engine.aquery(asked.question)
        return Answer(answer=str(answer), sources=[node.text for node in answer.source_nodes])

    @app.post("/chat")
    async def chat(turn: Turn, tenant: CurrentTenant) -> Answer:
        answer = await chat_of(turn.session).achat(turn.message)
        return Answer(answer=str(answer), sources=[node.text for node in answer.source_nodes])

    @app.post("/chat/stream", response_class=StreamingResponse)
    async def stream(turn: Turn, tenant: CurrentTenant) -> StreamingResponse:
        streamed = await chat_of(turn.session).astream_chat(turn.message)
        return await stream_answer(streamed.async_response_gen())

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


if __name__ == "__main__":
    serve(create_app, POLICY, port=8002)
