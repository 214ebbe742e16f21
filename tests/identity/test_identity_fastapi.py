"""FastAPI over the middleware: the dependency, what OpenAPI says, streams and background tasks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import fastapi
import httpx
import pytest
from fastapi.responses import StreamingResponse

from tenant_middleware import context
from tenant_middleware.errors import MissingTenant, RateLimited
from tenant_middleware.identity import JwtIdentity, TenantMiddleware
from tenant_middleware.identity.fastapi import REFUSALS, CurrentTenant, RefusalAnswer, stream_answer

DONE: list[tuple[str, str]] = []


def build() -> fastapi.FastAPI:
    app = fastapi.FastAPI(responses=REFUSALS)

    @app.get("/me")
    async def me(tenant: CurrentTenant) -> dict[str, str]:
        return {"tenant": tenant.id, "context": context.current_tenant().id}

    @app.get("/sync")
    def sync(tenant: CurrentTenant) -> dict[str, str]:
        return {"tenant": tenant.id, "context": context.current_tenant().id}

    @app.get("/stream")
    async def stream(tenant: CurrentTenant) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for _ in range(10):
                await asyncio.sleep(0)
                yield f"{context.current_tenant().id} "

        return StreamingResponse(body())

    @app.get("/answer/{words}")
    async def answer(words: int, tenant: CurrentTenant) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            try:
                for number in range(words):
                    yield f"{context.current_tenant().id} {number} "
                if words == 0:
                    raise RateLimited("slow down", rule="rpm", limit=30, used=30, retry_after=2.0)
            finally:
                DONE.append((tenant.id, context.current_tenant().id))

        return await stream_answer(body())

    @app.get("/sync-stream")
    def sync_stream(tenant: CurrentTenant) -> StreamingResponse:
        def body() -> Iterator[str]:
            for _ in range(5):
                yield f"{context.current_tenant().id} "

        return StreamingResponse(body())

    @app.get("/background")
    async def background(tenant: CurrentTenant, tasks: fastapi.BackgroundTasks) -> dict[str, str]:
        tasks.add_task(lambda: DONE.append((tenant.id, context.current_tenant().id)))
        return {"tenant": tenant.id}

    @app.get("/limited")
    async def limited(tenant: CurrentTenant) -> None:
        raise RateLimited("slow down", rule="rpm", limit=30, used=30, retry_after=2.0)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


@pytest.fixture
def http(identity: JwtIdentity) -> httpx.AsyncClient:
    app = build()
    app.add_middleware(TenantMiddleware, identity=identity, open_paths=["/health", "/openapi.json"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", ["/me", "/sync"])
async def test_dependency_gives_the_requests_tenant(path: str, issuer: Any, http: httpx.AsyncClient) -> None:
    async def ask(name: str) -> None:
        answer = await http.get(path, headers=bearer(issuer.token(name, None)))
        assert answer.json() == {"tenant": name, "context": name}

    await asyncio.gather(*map(ask, ("acme", "globex", "Acme", "acme2") * 5))
    assert (await http.get(path)).status_code == 401


@pytest.mark.parametrize("path", ["/stream", "/sync-stream"])
async def test_streams_keep_their_tenant(path: str, issuer: Any, http: httpx.AsyncClient) -> None:
    async def read(name: str) -> None:
        answer = await http.get(path, headers=bearer(issuer.token(name, None)))
        assert set(answer.text.split()) == {name}

    await asyncio.gather(*map(read, ("acme", "globex", "Acme") * 5))


async def test_background_tasks_keep_their_tenant(issuer: Any, http: httpx.AsyncClient) -> None:
    DONE.clear()
    await asyncio.gather(*(http.get("/background", headers=bearer(issuer.token(n))) for n in ("acme", "globex") * 5))
    assert len(DONE) == 10 and all(asked == ran for asked, ran in DONE)


async def test_refusal_fits_what_openapi_says(issuer: Any, http: httpx.AsyncClient) -> None:
    answer = await http.get("/limited", headers=bearer(issuer.token("acme")))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert RefusalAnswer.model_validate(answer.json()).error.rule == "rpm"
    schema = (await http.get("/openapi.json")).json()
    assert schema["components"]["securitySchemes"]["TenantToken"]["scheme"] == "bearer"
    assert schema["paths"]["/me"]["get"]["security"] == [{"TenantToken": []}]
    assert {"401", "402", "403", "429", "503"} <= schema["paths"]["/limited"]["get"]["responses"].keys()
    assert "security" not in schema["paths"]["/health"]["get"]
    assert "parameters" not in schema["paths"]["/me"]["get"], "the tenant is nothing a caller can set"


async def test_without_the_middleware_there_is_no_tenant(issuer: Any) -> None:
    transport = httpx.ASGITransport(build())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        with pytest.raises(MissingTenant):
            await http.get("/me", headers=bearer(issuer.token("acme")))


def test_identity_itself_loads_no_framework() -> None:
    code = (
        "import sys, tenant_middleware.identity\n"
        "print([m for m in ('fastapi', 'starlette', 'httpx', 'anyio', 'langchain_core') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_missing_fastapi_names_the_extra() -> None:
    code = (
        "import sys\nsys.modules['fastapi'] = None\n"
        "try:\n    import tenant_middleware.identity.fastapi\n"
        "except ImportError as error:\n    print(error, '|', type(error.__cause__).__name__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "tenant-middleware[asgi]"' in ran.stdout and "| ModuleNotFoundError" in ran.stdout


async def test_a_streamed_answer_is_the_tenants_and_a_refusal_before_it_has_a_status(
    issuer: Any, http: httpx.AsyncClient
) -> None:
    for tenant in ("acme", "globex"):
        DONE.clear()
        headers = bearer(issuer.token(tenant=tenant))
        assert (await http.get("/answer/2", headers=headers)).text == f"{tenant} 0 {tenant} 1 "
        refused = await http.get("/answer/0", headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert [(tenant, tenant)] * 2 == DONE
