"""What happens to money and tenants when a proxy's parts die: a worker, Redis, the plugin itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tenant_middleware.local import local_redis
from tests.litellm import proxy as proxies
from tests.litellm.proxies import policy
from tests.litellm.proxy import token
from tests.litellm.upstream import Upstream

pytestmark = pytest.mark.services


@pytest.fixture
def redis() -> Iterator[str]:
    with local_redis() as url:
        yield url


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def ask(client: httpx.Client, text: str = "hi", **more: Any) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": f"{uuid.uuid4().hex} {text}"}], **more}
    return client.post("/v1/chat/completions", json=body)


def _redis_pid(url: str) -> int:
    port = url.rpartition(":")[2]
    found = subprocess.run(["pgrep", "-f", f"redis-server.*:{port}"], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])


def test_a_killed_worker_loses_no_money(tmp_path: Path, redis: str, upstream: Upstream, name: str) -> None:
    """Calls of the dead worker are charged in full when their leases expire; what others settle stays exact."""
    settings = proxies.config(upstream.url, redis=redis)
    with proxies.running(tmp_path, policy(redis), settings, workers=2) as served:
        body = {"model": "chat", "max_tokens": 50, "stream": False}
        slow = {"messages": [{"role": "user", "content": f"[who={name}][prompt=10][output=50][delay=4] x"}]}

        async def flood() -> list[int]:
            async with served.aclient(name) as client:

                async def one() -> int:
                    try:
                        return (await client.post("/v1/chat/completions", json=body | slow)).status_code
                    except httpx.HTTPError:
                        return 0  # it went down with its worker

                asked = []
                for _ in range(20):  # one at a time: a worker takes every connection that waits
                    asked.append(asyncio.create_task(one()))
                    await asyncio.sleep(0.05)
                await asyncio.sleep(1)
                os.kill(served.workers()[0], signal.SIGKILL)
                return list(await asyncio.gather(*asked))

        answers = asyncio.run(flood())
        lost = answers.count(0)
        assert lost >= 1 and answers.count(200) == 20 - lost
        rows = served.settled(20, name, within=40)
        ok = [row for row in rows if row.status == "ok"]
        expired = [row for row in rows if row.status == "expired"]
        assert len(ok) == 20 - lost and {(row.prompt_tokens, row.completion_tokens) for row in ok} == {(10, 50)}
        with served.client(name) as client:
            spent = 1000 - float(ask(client).headers["x-tenant-budget-remaining-usd"])
        assert spent >= 20 * 0.0001, "the calls that were lost are charged"
        assert len(expired) in (0, lost)


def test_a_proxy_that_is_told_to_stop_writes_its_books(
    tmp_path: Path, redis: str, upstream: Upstream, name: str
) -> None:
    """Rows go to the ledger once in an hour here: what is in it after SIGTERM, the workers wrote when they ended."""
    wanted = policy(redis)
    wanted["admission"] = wanted["admission"] | {"drain_every": "1h"}
    with proxies.running(tmp_path, wanted, proxies.config(upstream.url), workers=2) as served:
        for _ in range(6):  # each by a connection of its own, for either worker to take
            with served.client(name) as client:
                assert ask(client).status_code == 200
        assert served.rows(name) == []
        served.process.terminate()
        served.process.wait(60)
        assert len(served.rows(name)) == 6


def test_redis_gone_for_ten_seconds(tmp_path: Path, redis: str, upstream: Upstream, name: str) -> None:
    """Nobody is served meanwhile, by 503 and quickly; after it calls go on, and nothing that ran before is lost."""
    wanted = policy(redis)
    wanted["admission"] = wanted["admission"] | {"store_timeout": "250ms"}
    with proxies.running(tmp_path, wanted, proxies.config(upstream.url)) as served, served.client(name) as client:
        for _ in range(5):
            assert _until_served(client).status_code == 200
        pid = _redis_pid(redis)
        os.kill(pid, signal.SIGSTOP)
        try:
            began, refused = time.monotonic(), []
            while time.monotonic() - began < 10:
                at = time.monotonic()
                answer = ask(client)
                refused.append((answer.status_code, time.monotonic() - at))
                time.sleep(0.3)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert {status for status, _ in refused} == {503} and len(refused) > 5
        before = upstream.books()["attempts"].get("nobody", 0)
        assert _until_served(client).status_code == 200
        assert upstream.books()["attempts"]["nobody"] == before + 1
        assert len(served.settled(6, name)) == 6


def _until_served(client: httpx.Client) -> httpx.Response:
    """A machine that is busy may miss the store's 250 ms; that is a 503, and the next one comes through."""
    for _ in range(40):
        answer = ask(client)
        if answer.status_code != 503:
            break
        time.sleep(0.5)
    return answer


@pytest.mark.parametrize(
    "broken",
    [
        {"TENANCY_FILE": ""},
        {"TENANCY_FILE": "/nowhere/tenancy.toml"},
        {"TENANCY__CACHE__MISSPELT": "1"},
    ],
    ids=["no file", "missing file", "misspelt setting"],
)
def test_a_plugin_that_fails_to_load_stops_the_proxy(
    tmp_path: Path, redis: str, upstream: Upstream, broken: dict[str, str]
) -> None:
    settings = proxies.config(upstream.url)
    with proxies.running(tmp_path, policy(redis), settings, environ=broken, wait=False) as served:
        assert served.process.wait(90) != 0 and "SettingsError" in served.log()
        assert upstream.books()["attempts"] == {}


def test_a_config_that_names_half_of_the_plugin_serves_nobody(tmp_path: Path, redis: str, upstream: Upstream) -> None:
    for half in ("callbacks", "custom_auth"):
        settings = proxies.config(upstream.url)
        settings["litellm_settings" if half == "callbacks" else "general_settings"].pop(half)
        with proxies.running(tmp_path / half, policy(redis), settings) as served:
            for key in (token("acme"), proxies.MASTER_KEY):
                with httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {key}"}) as client:
                    assert ask(client).status_code >= 400
    assert upstream.books()["attempts"] == {}
