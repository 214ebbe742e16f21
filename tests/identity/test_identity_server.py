"""Over a real server: websockets, streams that are cut, streams of two tenants at once, work after the answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
import websockets
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tenant_middleware.context import current_tenant, peek_tenant
from tenant_middleware.errors import BudgetExceeded, StoreUnavailable
from tenant_middleware.identity import JwtIdentity, TenantMiddleware

SECRET = "canary-of-the-application"
DONE: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
STARTED: list[str] = []


async def stream(request: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        for _ in range(10):
            yield f"{current_tenant().id}\n"
            await asyncio.sleep(0.002)

    return StreamingResponse(body())


async def cut(request: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        yield "first\n"
        raise BudgetExceeded(SECRET, rule="budget")

    return StreamingResponse(body())


async def background(request: Request) -> JSONResponse:
    asked = current_tenant().id

    async def later() -> None:
        await asyncio.sleep(0)
        await DONE.put((asked, current_tenant().id))

    return JSONResponse({}, background=BackgroundTask(later))


async def health(request: Request) -> JSONResponse:
    return JSONResponse({"tenant": peek_tenant() and current_tenant().id})


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for text in ws.iter_text():
        if text == "spend":
            raise BudgetExceeded(SECRET, rule="budget")
        if text == "down":
            raise StoreUnavailable(SECRET, store="redis")
        await ws.send_text(f"{current_tenant().id}: {text}")


async def refuse_handshake(ws: WebSocket) -> None:
    raise BudgetExceeded(SECRET, rule="budget")


async def open_socket(ws: WebSocket) -> None:
    await ws.accept()
    await ws.send_text(str(peek_tenant()))
    await ws.close()


async def on_lifespan(app: Any) -> AsyncIterator[None]:
    STARTED.append("up")
    yield
    STARTED.append("down")


@pytest.fixture
async def address(identity: JwtIdentity) -> AsyncIterator[str]:
    STARTED.clear()
    routes = [
        Route("/stream", stream),
        Route("/cut", cut),
        Route("/background", background),
        Route("/health", health),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/refuse", refuse_handshake),
        WebSocketRoute("/open", open_socket),
    ]
    app = TenantMiddleware(
        Starlette(routes=routes, lifespan=asynccontextmanager(on_lifespan)), identity, open_paths=["/health", "/open"]
    )
    config = uvicorn.Config(app, log_level="critical", ws="websockets-sansio", lifespan="on")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.005)
            assert not serving.done()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await serving
    assert STARTED == ["up", "down"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_streams_of_two_tenants_interleave_on_a_server(issuer: Any, address: str) -> None:
    order: list[str] = []
    async with httpx.AsyncClient(base_url=f"http://{address}") as http:

        async def read(name: str) -> None:
            async with http.stream("GET", "/stream", headers=bearer(issuer.token(name, None))) as answer:
                async for line in answer.aiter_lines():
                    assert line == name
                    order.append(line)

        await asyncio.gather(*map(read, ("acme", "globex", "Acme", "acme2")))
    assert sorted(order) == sorted(["acme", "globex", "Acme", "acme2"] * 10)
    assert order != sorted(order) and order != sorted(order, reverse=True), "they did run at the same time"


async def test_one_connection_serves_one_tenant_after_another(issuer: Any, address: str) -> None:
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=f"http://{address}", limits=limits) as http:
        for name in ("acme", "globex") * 3:
            answer = await http.get("/stream", headers=bearer(issuer.token(name)))
            assert set(answer.text.split()) == {name}
            assert (await http.get("/health")).json() == {"tenant": None}
            assert (await http.get("/stream")).status_code == 401


async def test_stream_that_is_cut_never_looks_whole(issuer: Any, address: str) -> None:
    received = b""
    async with httpx.AsyncClient(base_url=f"http://{address}") as http:
        with pytest.raises(httpx.RemoteProtocolError):
            async with http.stream("GET", "/cut", headers=bearer(issuer.token("acme"))) as answer:
                async for chunk in answer.aiter_raw():
                    received += chunk
        assert received == b"first\n"
        assert (await http.get("/health")).status_code == 200


async def test_work_after_the_answer_runs_for_its_tenant(issuer: Any, address: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{address}") as http:
        calls = [http.get("/background", headers=bearer(issuer.token(name))) for name in ("acme", "globex") * 5]
        assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    async with asyncio.timeout(20):
        done = [await DONE.get() for _ in range(10)]
    assert all(asked == ran for asked, ran in done) and {asked for asked, _ in done} == {"acme", "globex"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/health?x=1", 200),
        ("/health/", 401),
        ("//health", 401),
        ("/HEALTH", 401),
        ("/%68ealth", 401),
        ("/stream/../health", 401),
        ("/health/../stream", 401),
        ("/health%2f..%2fstream", 401),
        ("/health#x", 401),
        ("http://other.example/health", 401),
        ("/stream", 401),
    ],
)
async def test_open_paths_as_sent_on_the_wire(path: str, status: int, address: str) -> None:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_websocket_runs_for_its_tenant(issuer: Any, address: str) -> None:
    async def talk(name: str) -> None:
        url = f"ws://{address}/echo"
        async with websockets.connect(url, additional_headers=bearer(issuer.token(name, None)), proxy=None) as ws:
            for n in range(10):
                await ws.send(str(n))
                assert await ws.recv() == f"{name}: {n}"

    await asyncio.gather(*map(talk, ("acme", "globex", "Acme")))


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer garbage"}, {"Authorization": "Basic eA=="}])
async def test_websocket_without_a_tenant_is_turned_away(headers: dict[str, str], address: str) -> None:
    """Closed with 1008 before it is accepted, which a server tells the client as HTTP 403."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        await websockets.connect(f"ws://{address}/echo", additional_headers=headers, proxy=None)
    assert caught.value.response.status_code == 403


async def test_refused_handshake_is_turned_away(issuer: Any, address: str) -> None:
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws://{address}/refuse", additional_headers=bearer(issuer.token("acme")), proxy=None)


@pytest.mark.parametrize(
    ("word", "code", "reason"), [("spend", 1008, "budget_exceeded"), ("down", 1013, "store_unavailable")]
)
async def test_refusal_closes_an_open_websocket(word: str, code: int, reason: str, issuer: Any, address: str) -> None:
    headers = bearer(issuer.token("acme"))
    async with websockets.connect(f"ws://{address}/echo", additional_headers=headers, proxy=None) as ws:
        await ws.send("hello")
        assert await ws.recv() == "acme: hello"
        await ws.send(word)
        with pytest.raises(websockets.ConnectionClosedError) as caught:
            await ws.recv()
    assert caught.value.rcvd is not None and (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)


async def test_websocket_on_an_open_path_has_no_tenant(issuer: Any, address: str) -> None:
    async with websockets.connect(f"ws://{address}/open", proxy=None) as ws:
        assert await ws.recv() == "None"


async def test_unauthenticated_websocket_is_closed_with_1008_in_asgi_terms(identity: JwtIdentity) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise EOFError("not reached")

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asgi = {"type": "websocket", "path": "/echo", "raw_path": b"/echo", "headers": []}
    await TenantMiddleware(app, identity)(asgi, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "authentication_error"}]


async def test_nobody_is_told_after_the_client_left(issuer: Any, identity: JwtIdentity) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        raise BudgetExceeded("spent", rule="budget")

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    headers = [(b"authorization", f"Bearer {issuer.token('acme')}".encode())]
    await TenantMiddleware(app, identity)({"type": "websocket", "path": "/echo", "headers": headers}, receive, send)
    assert sent == ["websocket.accept"]
