"""The edge: who gets in, on which paths, and what a refusal looks like from outside."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import posixpath
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from tenant_middleware.context import current_tenant, peek_tenant, pin, scope
from tenant_middleware.errors import (
    AuthenticationError,
    BudgetBusy,
    BudgetExceeded,
    ConfigurationError,
    GuardrailBlocked,
    IsolationBreach,
    MissingTenant,
    ModelForbidden,
    RateLimited,
    StoreUnavailable,
    TenancyError,
    TenantMismatch,
)
from tenant_middleware.identity import JwtIdentity, TenantMiddleware
from tenant_middleware.identity.bearer import OpenPaths
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

RESET = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
SECRET = "canary-of-the-application"

REFUSALS: dict[str, tuple[Callable[[], TenancyError], int, str | None, dict[str, Any]]] = {
    "identity": (lambda: AuthenticationError("no"), 401, None, {"code": "authentication_error", "rule": "token"}),
    "spent": (
        lambda: BudgetExceeded("spent", rule="budget", limit=Decimal("0.002"), used=Decimal("0.0019"), resets_at=RESET),
        402,
        "60",
        {"code": "budget_exceeded", "limit": "0.002", "used": "0.0019", "resets_at": RESET.isoformat()},
    ),
    "busy": (lambda: BudgetBusy("busy", rule="budget", retry_after=0.2), 402, "1", {"code": "budget_busy"}),
    "model": (
        lambda: ModelForbidden("no", rule="models", model="gpt-4o"),
        403,
        None,
        {"code": "model_forbidden", "model": "gpt-4o"},
    ),
    "guard": (lambda: GuardrailBlocked("no", rule="injection"), 403, None, {"code": "guardrail_blocked"}),
    "rate": (
        lambda: RateLimited("slow", rule="rpm", limit=30, used=30, retry_after=1.2),
        429,
        "2",
        {"code": "rate_limited", "rule": "rpm", "limit": 30, "used": 30, "retry_after": 1.2},
    ),
    "never": (lambda: RateLimited("too large", rule="tpm"), 429, None, {"rule": "tpm"}),
    "endless": (lambda: RateLimited("inf", rule="rpm", retry_after=float("inf")), 429, None, {"rule": "rpm"}),
    "store": (
        lambda: StoreUnavailable("down", store="redis", retry_after=3.0),
        503,
        "3",
        {"code": "store_unavailable", "rule": "store", "retry_after": 3.0},
    ),
}


async def whoami(request: Request) -> JSONResponse:
    tenant = peek_tenant()
    return JSONResponse({"tenant": tenant.id if tenant else None, "path": request.url.path})


async def refuse(request: Request) -> JSONResponse:
    raise REFUSALS[request.path_params["kind"]][0]()


async def refuse_in_group(request: Request) -> JSONResponse:
    async def fail() -> None:
        raise RateLimited("slow", rule="rpm", retry_after=1.0)

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
    return JSONResponse({})


async def crash(request: Request) -> JSONResponse:
    kinds: dict[str, type[Exception]] = {"breach": IsolationBreach, "value": ValueError, "missing": MissingTenant}
    raise kinds[request.path_params["kind"]](SECRET)


async def own_500(request: Request) -> PlainTextResponse:
    return PlainTextResponse("the application's own words", status_code=500)


async def streamed_500(request: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        yield "one "
        yield "two"

    return StreamingResponse(body(), status_code=500)


async def cut(request: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        yield "first "
        raise BudgetExceeded(SECRET, rule="budget")

    return StreamingResponse(body())


async def stream(request: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[str]:
        for _ in range(20):
            await asyncio.sleep(0)
            yield f"{current_tenant().id} "

    return StreamingResponse(body())


async def sync_stream(request: Request) -> StreamingResponse:
    def body() -> Iterator[str]:
        for _ in range(5):
            yield f"{current_tenant().id} "

    return StreamingResponse(body())


BACKGROUND: list[tuple[str, str]] = []


async def background(request: Request) -> JSONResponse:
    asked = current_tenant().id

    async def later() -> None:
        await asyncio.sleep(0)
        BACKGROUND.append((asked, current_tenant().id))

    return JSONResponse({"tenant": asked}, background=BackgroundTask(later))


ROUTES = [
    Route("/whoami", whoami),
    Route("/health", whoami),
    Route("/health/", whoami),
    Route("/health/details", whoami),
    Route("/healthy", whoami),
    Route("/HEALTH", whoami),
    Route("/", whoami),
    Route("/refuse/{kind}", refuse, methods=["GET", "POST", "HEAD"]),
    Route("/group", refuse_in_group),
    Route("/crash/{kind}", crash),
    Route("/own-500", own_500),
    Route("/streamed-500", streamed_500),
    Route("/cut", cut),
    Route("/stream", stream),
    Route("/sync-stream", sync_stream),
    Route("/background", background),
    Mount("/admin", routes=[Route("/users", whoami), Route("/health", whoami)]),
]
Client = Callable[..., httpx.AsyncClient]


@pytest.fixture(params=["around", "within"])
def client(request: pytest.FixtureRequest, identity: JwtIdentity) -> Client:
    """The middleware around a whole Starlette application, and as one of the application's own."""
    clock = ManualClock(RESET.timestamp() - 60)
    options: dict[str, Any] = {"identity": identity, "open_paths": ["/health", "/crash/open"], "clock": clock}

    def make(raise_app_exceptions: bool = False) -> httpx.AsyncClient:
        if request.param == "around":
            app: Any = TenantMiddleware(Starlette(routes=ROUTES), **options)
        else:
            app = Starlette(routes=ROUTES, middleware=[Middleware(TenantMiddleware, **options)])
        transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    return make


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_token_opens_the_scope_and_leaves_none_behind(issuer: Any, client: Client) -> None:
    async with client() as http:
        for name in ("acme", "globex", "Acme", "acme2"):
            answer = await http.get("/whoami", headers=bearer(issuer.token(name, None)))
            assert (answer.status_code, answer.json()["tenant"]) == (200, name)
    assert peek_tenant() is None


HEADERS: dict[str, tuple[str, Callable[[str], list[tuple[str, str]]]]] = {
    "none": ("missing", lambda t: []),
    "empty": ("scheme", lambda t: [("Authorization", "")]),
    "scheme alone": ("scheme", lambda t: [("Authorization", "Bearer")]),
    "scheme and blank": ("scheme", lambda t: [("Authorization", "Bearer ")]),
    "basic": ("scheme", lambda t: [("Authorization", "Basic dXNlcjpwYXNz")]),
    "no scheme": ("scheme", lambda t: [("Authorization", t)]),
    "glued": ("scheme", lambda t: [("Authorization", f"Bearer{t}")]),
    "two words": ("scheme", lambda t: [("Authorization", f"Bearer {t} {t}")]),
    "merged": ("scheme", lambda t: [("Authorization", f"Bearer {t}, Bearer {t}")]),
    "tab": ("scheme", lambda t: [("Authorization", f"Bearer\t{t}")]),
    "twice": ("duplicate", lambda t: [("Authorization", f"Bearer {t}"), ("Authorization", f"Bearer {t}")]),
    "conflicting": ("duplicate", lambda t: [("Authorization", f"Bearer {t}"), ("authorization", "Bearer other")]),
    "garbage first": ("duplicate", lambda t: [("Authorization", "Basic x"), ("Authorization", f"Bearer {t}")]),
    "another header": ("missing", lambda t: [("Proxy-Authorization", f"Bearer {t}"), ("X-Tenant-Id", "acme")]),
    "cookie": ("missing", lambda t: [("Cookie", f"Authorization=Bearer {t}")]),
    "garbage": ("malformed", lambda t: [("Authorization", "Bearer garbage")]),
    "huge": ("size", lambda t: [("Authorization", f"Bearer {'a' * 100_000}")]),
}


@pytest.mark.parametrize("name", HEADERS)
async def test_header_that_names_nobody(name: str, issuer: Any, client: Client) -> None:
    rule, build = HEADERS[name]
    token = issuer.token("acme")
    async with client() as http:
        answer = await http.get("/whoami", headers=build(token))
        assert (answer.status_code, answer.json()["error"]["rule"]) == (401, rule)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert token not in answer.text and "dXNlcjpwYXNz" not in answer.text
        for good in (f"Bearer {token}", f"bearer {token}", f"BEARER   {token}"):
            assert (await http.get("/whoami", headers={"Authorization": good})).status_code == 200


async def test_query_parameter_is_no_identity(issuer: Any, client: Client) -> None:
    async with client() as http:
        answer = await http.get("/whoami", params={"access_token": issuer.token("acme"), "tenant": "acme"})
        assert answer.status_code == 401


PATHS = {
    "/health": 200,
    "/health?x=/whoami": 200,
    "/health/": 401,
    "//health": 401,
    "/health//": 401,
    "/HEALTH": 401,
    "/Health": 401,
    "/healthy": 401,
    "/health/details": 401,
    "/health/../whoami": 401,
    "/health/..": 401,
    "/whoami/../health": 401,
    "/./health": 401,
    "/health/.": 401,
    "/health;x": 401,
    "/%68ealth": 401,
    "/health%2f..%2fwhoami": 401,
    "/health%2Fdetails": 401,
    "/health%00": 401,
    "/health%20": 401,
    "/health%3F": 401,
    "/health%23": 401,
    "/%2e/health": 401,
    "/%2fhealth": 401,
    "/admin/health": 401,
    "/whoami": 401,
    "/whoami?/health": 401,
    "/": 401,
    "/nowhere": 401,
}


@pytest.mark.parametrize("path", PATHS)
async def test_open_paths_are_exact(path: str, identity: JwtIdentity) -> None:
    """What another spelling reaches, it reaches with a token; a client that normalises would hide the difference."""
    raw, _, query = path.partition("?")
    reached: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(peek_tenant())
        await Starlette(routes=ROUTES)(scope, receive, send)

    asgi = {
        "type": "http",
        "method": "GET",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await TenantMiddleware(app, identity, ["/health"])(asgi, _never, send)
    assert sent[0]["status"] == PATHS[path]
    assert reached == ([None] if PATHS[path] == 200 else [])


async def test_prefix_matching_would_let_them_in() -> None:
    """The control: the table holds spellings that a check by prefix, or after normalising, lets through."""
    closed = [path.partition("?")[0] for path, status in PATHS.items() if status == 401]
    assert {"/healthy", "/health/details", "/health/../whoami"} <= {p for p in closed if p.startswith("/health")}
    assert {"/whoami/../health", "//health", "/./health"} <= {
        p for p in closed if posixpath.normpath("/" + p.lstrip("/")) == "/health"
    }


async def _never() -> Any:
    raise EOFError("nothing to read")


async def _ignore(message: Any) -> None:
    """Nobody listens."""


@pytest.mark.parametrize(
    "path",
    ["health", "", "/health*", "/health/..", "//health", "/health?x", "/%68", "/a//b", "/a/./b", "/ü", "/a b", 7, None],
)
def test_open_path_that_is_no_plain_path(path: Any, identity: JwtIdentity) -> None:
    with pytest.raises(ConfigurationError, match="plain absolute paths"):
        TenantMiddleware(_app, identity, open_paths=[path])


async def _app(scope: Any, receive: Any, send: Any) -> None:
    raise EOFError("not called")


def test_one_string_is_no_list_of_paths() -> None:
    """`open_paths="/health"` would otherwise open the path `/`."""
    with pytest.raises(ConfigurationError, match="a list of paths"):
        OpenPaths("/health")
    assert {"path": "/", "raw_path": b"/"} in OpenPaths(["/"])


def test_identity_that_cannot_verify_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match="a Tenancy or a JwtIdentity"):
        TenantMiddleware(_app, object())  # type: ignore[arg-type]  # the mistake is the point


@pytest.mark.parametrize("kind", REFUSALS)
async def test_refusal_raised_inside(kind: str, issuer: Any, client: Client) -> None:
    _, status, retry_after, fields = REFUSALS[kind]
    async with client(raise_app_exceptions=True) as http:
        for method in ("GET", "POST"):
            answer = await http.request(method, f"/refuse/{kind}", headers=bearer(issuer.token("acme")))
            assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
            assert fields.items() <= answer.json()["error"].items() and {"code", "message", "rule"} <= set(
                answer.json()["error"]
            )
            assert answer.headers["content-type"] == "application/json" and "acme" not in answer.text
            assert ("www-authenticate" in answer.headers) == (status == 401)


async def test_refusal_out_of_a_task_group(issuer: Any, client: Client) -> None:
    async with client(raise_app_exceptions=True) as http:
        answer = await http.get("/group", headers=bearer(issuer.token("acme")))
        assert (answer.status_code, answer.json()["error"]["rule"]) == (429, "rpm")


@pytest.mark.parametrize("kind", ["breach", "value", "missing"])
async def test_other_errors_stay_errors(kind: str, issuer: Any, client: Client) -> None:
    async with client() as http:
        answer = await http.get(f"/crash/{kind}", headers=bearer(issuer.token("acme")))
        assert answer.status_code == 500 and SECRET not in answer.text
    async with client(raise_app_exceptions=True) as http:
        with pytest.raises((IsolationBreach, ValueError, MissingTenant)):
            await http.get(f"/crash/{kind}", headers=bearer(issuer.token("acme")))


async def test_own_500_of_the_application_is_kept(issuer: Any, client: Client) -> None:
    async with client(raise_app_exceptions=True) as http:
        answer = await http.get("/own-500", headers=bearer(issuer.token("acme")))
        assert (answer.status_code, answer.text) == (500, "the application's own words")
        answer = await http.get("/streamed-500", headers=bearer(issuer.token("acme")))
        assert (answer.status_code, answer.text) == (500, "one two")


async def drive(app: Any, token: str, path: str) -> tuple[list[Any], BaseException | None]:
    """The messages that a server would see, and what was raised at it."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    asgi = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
    }
    try:
        await app(asgi, receive, send)
    except TenancyError as error:
        return sent, error
    return sent, None


async def test_frameworks_500_for_other_errors_goes_out(issuer: Any, identity: JwtIdentity) -> None:
    sent, error = await drive(
        TenantMiddleware(Starlette(routes=ROUTES), identity), issuer.token("acme"), "/crash/breach"
    )
    assert isinstance(error, IsolationBreach)
    assert (sent[0]["status"], sent[1]["body"]) == (500, b"Internal Server Error")


async def test_refusal_after_the_answer_began_cuts_it_off(issuer: Any, identity: JwtIdentity) -> None:
    for app in (
        TenantMiddleware(Starlette(routes=ROUTES), identity),
        Starlette(routes=ROUTES, middleware=[Middleware(TenantMiddleware, identity=identity)]),
    ):
        sent, error = await drive(app, issuer.token("acme"), "/cut")
        bodies = [message for message in sent if message["type"] == "http.response.body"]
        assert isinstance(error, BudgetExceeded) and [body["body"] for body in bodies] == [b"first "]
        assert all(body["more_body"] for body in bodies), "never ended as if it were whole"
        assert len([message for message in sent if message["type"] == "http.response.start"]) == 1
        assert SECRET not in repr(sent)


async def test_streams_of_two_tenants_interleave(issuer: Any, client: Client) -> None:
    async with client() as http:

        async def read(name: str, path: str) -> None:
            answer = await http.get(path, headers=bearer(issuer.token(name, None)))
            assert answer.status_code == 200 and set(answer.text.split()) == {name}

        names = ("acme", "Acme", "globex", "acme2")
        await asyncio.gather(*(read(name, path) for name in names for path in ("/stream", "/sync-stream") * 5))


async def test_stream_outside_the_scope_would_have_no_tenant(issuer: Any, identity: JwtIdentity) -> None:
    """The control: with the scope around the endpoint alone, the streamed body runs without a tenant."""

    async def endpoint(request: Request) -> StreamingResponse:
        with identity.authenticate(issuer.token("acme")):
            return await stream(request)

    app = Starlette(routes=[Route("/stream", endpoint)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        with pytest.raises(MissingTenant):
            await http.get("/stream")


async def test_background_task_keeps_the_tenant(issuer: Any, client: Client) -> None:
    BACKGROUND.clear()
    async with client() as http:
        await asyncio.gather(
            *(http.get("/background", headers=bearer(issuer.token(name, None))) for name in ("acme", "globex") * 10)
        )
    assert len(BACKGROUND) == 20 and all(asked == ran for asked, ran in BACKGROUND)
    assert {asked for asked, _ in BACKGROUND} == {"acme", "globex"}


async def test_open_path_has_no_tenant_even_with_a_token(issuer: Any, client: Client) -> None:
    async with client() as http:
        answer = await http.get("/health", headers=bearer(issuer.token("acme")))
        assert answer.json()["tenant"] is None
        assert (await http.get("/health", headers=bearer("garbage"))).status_code == 200


async def test_request_inside_a_foreign_scope_is_no_switch(issuer: Any, client: Client) -> None:
    async with client(raise_app_exceptions=True) as http:
        with scope(Tenant("globex", "enterprise", "user")):
            with pytest.raises(TenantMismatch):
                await http.get("/whoami", headers=bearer(issuer.token("acme")))
            assert (await http.get("/whoami", headers=bearer(issuer.token("globex")))).status_code == 200


async def test_pinned_stream_left_over_from_a_request_keeps_its_tenant(issuer: Any, identity: JwtIdentity) -> None:
    left: list[Any] = []

    async def endpoint(request: Request) -> JSONResponse:
        async def rows() -> AsyncIterator[str]:
            yield current_tenant().id
            yield current_tenant().id

        left.append(pin(rows()))
        return JSONResponse({"first": await anext(left[-1])})

    app = TenantMiddleware(Starlette(routes=[Route("/rows", endpoint)]), identity)
    await drive(app, issuer.token("acme"), "/rows")
    assert await anext(left[0]) == "acme"


async def test_keys_that_cannot_be_fetched_are_503(identity: JwtIdentity) -> None:
    class Down:
        async def averify(self, token: str) -> Tenant:
            raise StoreUnavailable("the issuer's keys can't be fetched", store="jwks", retry_after=12.5)

    sent, error = await drive(TenantMiddleware(_app, Down()), "x", "/whoami")
    assert error is None and sent[0]["status"] == 503 and (b"retry-after", b"13") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]["code"] == "store_unavailable"


async def test_lifespan_reaches_the_application_and_other_scopes_do_not(identity: JwtIdentity) -> None:
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    middleware = TenantMiddleware(app, identity)
    await middleware({"type": "lifespan"}, _never, _ignore)
    with pytest.raises(ConfigurationError):
        await middleware({"type": "mystery"}, _never, _ignore)
    assert reached == ["lifespan"]


async def test_scope_is_passed_on_untouched(issuer: Any, identity: JwtIdentity) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    headers = [(b"authorization", f"Bearer {issuer.token('acme')}".encode()), (b"x-tenant-id", b"globex")]
    asgi = {"type": "http", "path": "/x", "raw_path": b"/x", "headers": headers}
    await TenantMiddleware(app, identity)(asgi, _never, _ignore)
    assert seen[0] is asgi and asgi == {"type": "http", "path": "/x", "raw_path": b"/x", "headers": headers}
