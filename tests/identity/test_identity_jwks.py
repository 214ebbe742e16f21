"""Keys: what a JWKS may hold, and how often, where and for how long one behind a URL is fetched."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tenant_middleware.errors import AuthenticationError, StoreUnavailable
from tenant_middleware.identity import JwtIdentity
from tenant_middleware.identity.jwks import UnusableKeys, parse
from tenant_middleware.identity.remote_keys import FetchFailed, RemoteKeys, fetch_document
from tenant_middleware.testing import ManualClock

Make = Callable[..., JwtIdentity]
URL = "https://id.example.test/jwks"


class Origin:
    """Stands in for the network: hands out what it holds, counts, waits at its door, fails when told to."""

    def __init__(self, document: object) -> None:
        self.document, self.failing = document, False
        self.fetched: list[int] = []
        self.door = threading.Event()
        self.door.set()

    def __call__(self, url: str, timeout: float) -> bytes:
        self.fetched.append(threading.get_ident())
        assert self.door.wait(20)
        if self.failing:
            raise FetchFailed("HTTP status 500")
        return self.document if isinstance(self.document, bytes) else json.dumps(self.document).encode()


@pytest.fixture
def origin(issuer: Any) -> Origin:
    return Origin(issuer.jwks("k1"))


@pytest.fixture
def remote(origin: Origin, wall: ManualClock, make_identity: Make) -> JwtIdentity:
    return make_identity(wall, keys=RemoteKeys(URL, ("EdDSA", "RS256"), clock=wall, fetch=origin))


def refusal(identity: JwtIdentity, token: str) -> str:
    with pytest.raises(AuthenticationError) as caught:
        identity.verify(token)
    return caught.value.rule


def settle() -> None:
    """Wait until no refresh is under way."""
    for thread in threading.enumerate():
        if thread.name == "tenant-jwks":
            thread.join(20)


def test_keys_are_fetched_once_for_many_tokens(issuer: Any, origin: Origin, remote: JwtIdentity) -> None:
    for n in range(20):
        assert remote.verify(issuer.token("acme", jti=str(n))).id == "acme"
    assert len(origin.fetched) == 1


def test_flood_of_unknown_kids_costs_one_fetch_in_30_seconds(
    issuer: Any, origin: Origin, remote: JwtIdentity, wall: ManualClock
) -> None:
    assert remote.verify(issuer.token("acme")).id == "acme"
    for step in range(4):
        for n in range(50):
            assert refusal(remote, issuer.token("acme", headers={"kid": f"x{n}"})) == "key"
        assert len(origin.fetched) == 1 + step
        assert remote.verify(issuer.token("globex")).id == "globex"
        wall.advance(30)


def test_flood_in_threads_shares_one_fetch(issuer: Any, origin: Origin, remote: JwtIdentity, wall: ManualClock) -> None:
    remote.verify(issuer.token("acme"))
    wall.advance(31)
    origin.door.clear()
    rules: list[str] = []
    tokens = [issuer.token("acme", headers={"kid": f"x{n}"}) for n in range(20)]
    threads = [threading.Thread(target=lambda t=token: rules.append(refusal(remote, t))) for token in tokens]
    for thread in threads:
        thread.start()
    assert remote.verify(issuer.token("globex")).id == "globex", "a known key never waits for the refresh"
    origin.door.set()
    for thread in threads:
        thread.join(20)
    assert rules == ["key"] * 20 and len(origin.fetched) == 2


async def test_async_flood_shares_one_fetch(issuer: Any, origin: Origin, remote: JwtIdentity) -> None:
    tokens = [issuer.token("acme", headers={"kid": f"x{n}"}) for n in range(50)]
    results = await asyncio.gather(*map(remote.averify, tokens), return_exceptions=True)
    assert all(isinstance(result, AuthenticationError) for result in results) and len(origin.fetched) == 1


def test_new_key_is_found_after_rotation(issuer: Any, origin: Origin, remote: JwtIdentity, wall: ManualClock) -> None:
    remote.verify(issuer.token("acme"))
    origin.document = issuer.jwks("r1")
    token = issuer.token("acme", kid="r1")
    assert refusal(remote, token) == "key", "too early to ask again"
    wall.advance(30)
    assert remote.verify(token).id == "acme"


def test_withdrawn_key_ends_cached_identities_too(
    issuer: Any, origin: Origin, remote: JwtIdentity, wall: ManualClock
) -> None:
    token = issuer.token("acme", exp=int(wall.time()) + 7200)
    assert remote.verify(token) == remote.verify(token)
    origin.document = issuer.jwks("r1")
    wall.advance(601)
    remote.verify(token)  # still by the old keys: it only asks for the refresh
    settle()
    assert refusal(remote, token) == "key"


def test_stale_keys_serve_for_the_stated_time(
    issuer: Any, origin: Origin, remote: JwtIdentity, wall: ManualClock
) -> None:
    token = issuer.token("acme", exp=int(wall.time()) + 10_000)
    remote.verify(token)
    origin.failing = True
    wall.advance(3600)
    assert remote.verify(token).id == "acme"
    settle()
    wall.advance(1)
    with pytest.raises(StoreUnavailable) as caught:
        remote.verify(token)
    assert caught.value.store == "jwks" and 1 <= (caught.value.retry_after or 0) <= 30
    before = len(origin.fetched)
    origin.failing = False
    wall.advance(30)
    assert remote.verify(token).id == "acme" and len(origin.fetched) == before + 1


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"keys": []}', b"[" * 5000, b"\xff\xfe", b'{"keys": 1}'])
def test_answer_that_is_no_key_set_is_refused(
    answer: bytes, issuer: Any, origin: Origin, remote: JwtIdentity, wall: ManualClock
) -> None:
    origin.document = answer
    with pytest.raises(StoreUnavailable):
        remote.verify(issuer.token("acme"))
    origin.document = issuer.jwks("k1")
    wall.advance(30)
    assert remote.verify(issuer.token("acme")).id == "acme"


def test_clock_that_goes_backwards_does_not_block_the_refresh(
    issuer: Any, origin: Origin, remote: JwtIdentity, wall: ManualClock
) -> None:
    origin.failing = True
    with pytest.raises(StoreUnavailable):
        remote.verify(issuer.token("acme", iat=None))
    origin.failing = False
    wall.set(wall.time() - 5000)
    assert remote.verify(issuer.token("acme", iat=None)).id == "acme"


async def test_event_loop_runs_on_while_keys_are_fetched(issuer: Any, origin: Origin, remote: JwtIdentity) -> None:
    origin.door.clear()
    waiting = asyncio.create_task(remote.averify(issuer.token("acme")))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not waiting.done()
    origin.door.set()
    assert (await waiting).id == "acme"
    assert threading.get_ident() not in origin.fetched


async def test_sync_verify_on_an_event_loop_refuses_instead_of_waiting(
    issuer: Any, origin: Origin, remote: JwtIdentity
) -> None:
    origin.door.clear()
    with pytest.raises(StoreUnavailable, match="averify"):
        remote.verify(issuer.token("acme"))
    origin.door.set()
    await asyncio.to_thread(settle)
    assert remote.verify(issuer.token("acme")).id == "acme" and len(origin.fetched) == 1


async def test_cancelled_waiter_leaves_the_others_waiting(issuer: Any, origin: Origin, remote: JwtIdentity) -> None:
    origin.door.clear()
    first, second = (asyncio.create_task(remote.averify(issuer.token("acme", jti=n))) for n in "12")
    await asyncio.sleep(0)
    first.cancel()
    origin.door.set()
    assert (await second).id == "acme"
    assert (await asyncio.gather(first, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    assert len(origin.fetched) == 1


def test_refresh_failure_is_logged_without_its_answer(
    issuer: Any, origin: Origin, remote: JwtIdentity, caplog: pytest.LogCaptureFixture
) -> None:
    origin.document = b"canary-in-the-answer"
    with pytest.raises(StoreUnavailable):
        remote.verify(issuer.token("acme"))
    assert "refreshing the issuer's keys failed" in caplog.text and "canary" not in caplog.text


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, headers, body = self.server.answers[self.path]  # type: ignore[attr-defined]  # set by the fixture
        self.server.asked.append(self.path)  # type: ignore[attr-defined]  # set by the fixture
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(issuer: Any) -> Iterator[Any]:
    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    good = json.dumps(issuer.jwks("k1")).encode()
    made.asked = []
    made.answers = {
        "/jwks": (200, {}, good),
        "/gone": (404, {}, good),
        "/moved": (302, {"Location": "/jwks"}, b""),
        "/big": (200, {}, b" " * 600_000 + good),
    }
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{made.server_address[1]}"
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def over_loopback(make_identity: Make, url: str) -> JwtIdentity:
    return make_identity(jwks=None, algorithms=["EdDSA"], jwks_url=url, jwks_loopback_http=True)


def test_keys_over_a_real_connection(issuer: Any, server: Any, make_identity: Make) -> None:
    identity = over_loopback(make_identity, server.url + "/jwks")
    assert identity.verify(issuer.token("acme")).id == "acme"
    assert refusal(identity, issuer.token("acme", headers={"kid": "x"})) == "key"
    assert server.asked == ["/jwks"]


@pytest.mark.parametrize("path", ["/gone", "/moved", "/big"])
def test_bad_answers_over_a_real_connection(path: str, issuer: Any, server: Any, make_identity: Make) -> None:
    with pytest.raises(StoreUnavailable):
        over_loopback(make_identity, server.url + path).verify(issuer.token("acme"))
    assert server.asked == [path], "no redirect is followed"


def test_dead_origin_is_a_store_that_is_down(issuer: Any, server: Any, make_identity: Make) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(StoreUnavailable):
        over_loopback(make_identity, server.url + "/jwks").verify(issuer.token("acme"))


def test_dripping_answer_ends_in_time(server: Any) -> None:
    ticks = iter(range(0, 1000, 10))
    with pytest.raises(FetchFailed, match="too long"):
        fetch_document(server.url + "/jwks", 5.0, now=lambda: float(next(ticks)))


def jwk(issuer: Any, **changes: Any) -> dict[str, Any]:
    made = issuer.public_jwk(*issuer.keys["k1"], "k1") | changes
    return {name: value for name, value in made.items() if value is not None}


def test_key_without_alg_or_use_serves_every_algorithm_of_its_type(issuer: Any) -> None:
    bare = issuer.public_jwk(*issuer.keys["r1"], "r1")
    del bare["alg"], bare["use"]
    keys = parse({"keys": [bare]}, ("RS256", "PS256", "EdDSA", "ES256"))
    assert set(keys.keys[0].by_algorithm) == {"RS256", "PS256"}


UNUSABLE: dict[str, dict[str, Any]] = {
    "encryption": {"use": "enc"},
    "signing only": {"key_ops": ["sign"]},
    "operations no list": {"key_ops": "verify"},
    "other algorithm": {"alg": "RS256"},
    "other curve": {"crv": "X25519"},
    "no curve": {"crv": None},
    "curve a list": {"crv": ["Ed25519"]},
    "other type": {"kty": "EC"},
    "no type": {"kty": None},
    "kid a number": {"kid": 7},
    "x missing": {"x": None},
    "x not base64": {"x": "!!"},
    "x a number": {"x": 7},
    "x too short": {"x": "AAAA"},
    "private": {"d": "AAAA"},
    "symmetric": {"kty": "oct", "k": "AAAA", "alg": "HS256"},
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_key_that_is_left_out(name: str, issuer: Any) -> None:
    bad = jwk(issuer, **UNUSABLE[name])
    with pytest.raises(UnusableKeys, match="key 0"):
        parse({"keys": [bad]}, ("EdDSA", "RS256", "ES256"))
    other = issuer.public_jwk(*issuer.keys["e1"], "e1")
    assert [key.kid for key in parse({"keys": [bad, other]}, ("EdDSA", "ES256")).keys] == ["e1"]


@pytest.mark.parametrize("kid", ["k1", "r1", "e1"])
def test_private_key_in_a_key_set_is_left_out(kid: str, issuer: Any) -> None:
    key, algorithm = issuer.keys[kid]
    whole = json.loads(issuer.writers[algorithm].to_jwk(key)) | {"kid": kid}
    with pytest.raises(UnusableKeys, match="private"):
        parse({"keys": [whole]}, (algorithm,))
    assert parse({"keys": [issuer.public_jwk(key, algorithm, kid)]}, (algorithm,)).keys


def test_weak_rsa_key_is_left_out(issuer: Any) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    with pytest.raises(UnusableKeys, match="shorter"):
        parse({"keys": [issuer.public_jwk(weak, "RS256", "w")]}, ("RS256",))


def test_two_keys_of_one_kid_are_ambiguous(issuer: Any, make_identity: Make) -> None:
    twin = issuer.public_jwk(issuer.stranger, "EdDSA", "k1")
    identity = make_identity(jwks={"keys": [*issuer.jwks("k1")["keys"], twin]})
    assert refusal(identity, issuer.token("acme")) == "key"


def test_endless_key_list_is_refused(issuer: Any) -> None:
    with pytest.raises(UnusableKeys, match="at most 256"):
        parse({"keys": [jwk(issuer)] * 300}, ("EdDSA",))
