"""The LiteLLM plugin in a real proxy: what it costs, and whether budgets, limits and fairness hold.

The provider is a fake on loopback; proxies, Redis and clients share the machine, so counts and CPU are what is judged.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from benchmarks.entries import Area, Measured
from tenant_middleware.local import local_redis
from tests.litellm import proxy as proxies
from tests.litellm import upstream as provider
from tests.litellm.proxies import TIERS, policy
from tests.litellm.proxy import Proxy, deployment, token
from tests.litellm.upstream import Upstream

AREA = Area(
    "litellm",
    required=[
        "litellm.plugin_cpu_ms",
        "litellm.plugin_cpu_ms_stream",
        "litellm.budget_ratio",
        "litellm.tpm_ratio",
        "litellm.rpm_window",
        "litellm.quiet_p50_ratio",
    ],
)
ROOT = Path(__file__).parents[1]
RUNS, CALLS, AT_ONCE = 20, 60, 4
FOLDS = 5
MINUTE = 62.0
FLOOD, PARALLEL = 64, 8


def _ours(upstream: Upstream, redis: str) -> tuple[dict[str, Any], dict[str, Any]]:
    queued = TIERS["pro"] | {"max_concurrency": PARALLEL, "queue_timeout": 60}
    wanted = policy(redis, tiers=TIERS | {"queued": queued, "flagged": TIERS["pro"] | {"guard": "flag"}})
    wanted["admission"] = {"store_timeout": "10s", "reservation_ttl": "60s"}
    return wanted, proxies.config(upstream.url)


def _peer(upstream: Upstream, *, own_checks: bool) -> dict[str, Any]:
    """LiteLLM with its own limits, or (for the price of a plugin) with hooks that do nothing."""
    priced = {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}
    settings = proxies.config(upstream.url, plugin=False)
    settings["model_list"] = [
        deployment("chat", upstream.url, "openai/chat-0", **priced),
        deployment("parallel", upstream.url, "openai/chat-1", max_parallel_requests=PARALLEL, **priced),
    ]
    settings["router_settings"] = {}
    settings["litellm_settings"]["callbacks"] = ["benchmarks.litellm_peer.callback"]
    settings["general_settings"] |= {
        "custom_auth": "benchmarks.litellm_peer.custom_auth",
        "custom_auth_run_common_checks": own_checks,
    }
    if own_checks:
        settings["litellm_settings"]["enable_post_custom_auth_checks"] = True
    return settings


@contextmanager
def _both(*, own_checks: bool) -> Iterator[tuple[Proxy, Proxy, Upstream]]:
    """Our proxy and the peer, each with one worker, over one provider."""
    environ = {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    with ExitStack() as running:
        upstream = running.enter_context(provider.running())
        redis = running.enter_context(local_redis())
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        wanted, settings = _ours(upstream, redis)
        ours = running.enter_context(proxies.running(folder / "ours", wanted, settings, environ=environ))
        peer = _peer(upstream, own_checks=own_checks)
        theirs = running.enter_context(proxies.running(folder / "peer", wanted, peer, environ=environ))
        yield ours, theirs, upstream


def _client(proxy: Proxy, key: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # a busy proxy drops kept ones
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=proxy.url, headers=headers, timeout=180, limits=limits, trust_env=False)


async def _ask(client: httpx.AsyncClient, text: str, **more: Any) -> int:
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], **more}
    return (await client.post("/v1/chat/completions", json=body)).status_code


# What a call costs the proxy.


def _cpu_of(proxy: Proxy, key: str, *, stream: bool) -> float:
    """CPU milliseconds of the proxy's process per call."""

    async def run(calls: int) -> None:
        async with _client(proxy, key) as client:

            async def some() -> None:
                for _ in range(calls // AT_ONCE):
                    status = await _ask(client, f"[output=8] {uuid.uuid4().hex}", stream=stream)
                    if status != 200:
                        raise RuntimeError(f"expected 200, got {status}")

            await asyncio.gather(*[some() for _ in range(AT_ONCE)])

    process = psutil.Process(proxy.process.pid)
    before = process.cpu_times()
    asyncio.run(run(CALLS))
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / CALLS * 1_000


@cache
def _cpu(stream: bool) -> Measured:
    with _both(own_checks=False) as (ours, peer, _):
        off, on = token("bench", "pro"), token("bench", "flagged")
        seconds: dict[str, list[float]] = {"ours": [], "guard on": [], "no-op": []}
        served = [("no-op", peer, "x-1"), ("ours", ours, off), ("guard on", ours, on)]
        for run in range(-3, RUNS):  # the first three warm up
            for name, proxy, key in served if run % 2 else reversed(served):
                spent = _cpu_of(proxy, key, stream=stream)
                if run >= 0:
                    seconds[name].append(spent)
    added, guarded = _added(seconds["ours"], seconds["no-op"]), _added(seconds["guard on"], seconds["no-op"])
    return Measured(added, {"no-op plugin, ms": median(seconds["no-op"]), "added with the guard, ms": median(guarded)})


def _added(ours: list[float], bare: list[float]) -> list[float]:
    """What ours adds to the median, each time without another fifth of the runs, some of which are disturbed."""

    def typical(spent: list[float], fold: int) -> float:
        return median(value for run, value in enumerate(spent) if run % FOLDS != fold)

    return [typical(ours, fold) - typical(bare, fold) for fold in range(FOLDS)]


@AREA.entry("litellm.plugin_cpu_ms", unit="ms", better="lower", target=1.0)
def plugin_cpu_ms() -> Measured:
    """CPU of the proxy's process per call, over that of hooks that do nothing: identity, gate on Redis, settlement."""
    return _cpu(False)


@AREA.entry("litellm.plugin_cpu_ms_stream", unit="ms", better="lower", target=1.0)
def plugin_cpu_ms_stream() -> Measured:
    """The same for a stream of eight words."""
    return _cpu(True)


# Whether budgets and limits hold.

_FILLER = "word " * 45
_BUDGET_CALL = "[prompt=100][output=50]"
_ROWS: dict[str, dict[str, Any]] = {"max_tokens": {"max_tokens": 50}, "no max_tokens": {}}


async def _spend(proxy: Proxy, key: str, who: str, *, serial: bool, **more: Any) -> None:
    async with _client(proxy, key) as client:
        texts = [f"[who={who}]{_BUDGET_CALL}{_FILLER}{number:04d}" for number in range(14 if serial else 100)]
        if not serial:
            await asyncio.gather(*[_ask(client, text, **more) for text in texts])
            return
        for text in texts:
            await _ask(client, text, **more)


def _spent(upstream: Upstream, who: str) -> float:
    books = upstream.books()
    return (books["prompt"].get(who, 0) * 1e-6 + books["output"].get(who, 0) * 2e-6) / 0.002


@AREA.entry("litellm.budget_ratio", unit="ratio", better="higher", target=0.9, limit=1.0)
def budget_ratio() -> Measured:
    """What a budget worth ten calls pays for, of it: the worst of 100 at once and in turn, with and without a cap."""
    worst, theirs = [], {}
    with _both(own_checks=True) as (ours, peer, upstream):
        for run in range(3):
            ratios = []
            for row, more in _ROWS.items():
                for serial in (False, True):
                    mine, other = f"b-{uuid.uuid4().hex[:8]}", f"budget-{uuid.uuid4().hex[:8]}"
                    asyncio.run(_spend(ours, token(mine, "tenth"), mine, serial=serial, **more))
                    asyncio.run(_spend(peer, other, other, serial=serial, **more))
                    ratios.append(_spent(upstream, mine))
                    if run == 0:
                        name = f"LiteLLM, {row}, {'in turn' if serial else 'at once'}"
                        theirs[name] = _spent(upstream, other)
            worst.append(max(ratios) if max(ratios) > 1.0 else min(ratios))
    return Measured(worst, theirs)


@cache
def _minute() -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Largest share of a limit in any sliding minute, per run: ours and LiteLLM's, all in the same minute."""
    rows = {
        "tpm, prompt under-estimated 20x": ("tpm", "[prompt=50][output=50]", {"max_tokens": 50}),
        "tpm, cap ignored": ("tpm", "[prompt=50][output=50][ignore_cap]", {"max_tokens": 10}),
        "rpm, at a minute's edge": ("rpm", "", {}),
        "rpm, once a second": ("rpm", "", {}),
    }
    with _both(own_checks=True) as (ours, peer, upstream):
        plans: list[tuple[str, str, str]] = []

        async def all_at_once() -> None:
            began = time.monotonic()
            work: list[Awaitable[None]] = []
            for row, (kind, orders, more) in rows.items():
                for _ in range(3):
                    mine, other = f"m-{uuid.uuid4().hex[:8]}", f"{kind}-{uuid.uuid4().hex[:8]}"
                    plans.extend([("ours", row, mine), ("LiteLLM", row, other)])
                    times = _edge() if "edge" in row else _steady()
                    work.append(_on_time(ours, token(mine, kind), f"[who={mine}]{orders}", times, began, more))
                    work.append(_on_time(peer, other, f"[who={other}]{orders}", times, began, more))
            await asyncio.gather(*work)

        asyncio.run(all_at_once())
        books = upstream.books()
    found: dict[str, dict[str, list[float]]] = {"ours": {}, "LiteLLM": {}}
    for side, row, who in plans:
        if row.startswith("rpm"):
            share = _largest_minute(books["at"].get(who, [])) / 20
        else:
            share = (books["prompt"].get(who, 0) + books["output"].get(who, 0)) / 1_000
        found[side].setdefault(row, []).append(share)
    return found["ours"], found["LiteLLM"]


def _steady() -> list[float]:
    return [0.0] * 40 + [float(second) for second in range(1, int(MINUTE) - 2)]


def _edge() -> list[float]:
    """A few, then as many as the limit on either side of a fixed window's edge."""
    return [0.0] + [57.5] * 19 + [60.8] * 20


def _largest_minute(at: list[float]) -> int:
    return max((sum(start <= other < start + 60 for other in at) for start in at), default=0)


async def _on_time(proxy: Proxy, key: str, text: str, times: list[float], began: float, more: dict[str, Any]) -> None:
    async with _client(proxy, key) as client:

        async def one(at: float) -> None:
            await asyncio.sleep(max(began + at - time.monotonic(), 0))
            await _ask(client, f"{text} {uuid.uuid4().hex[:4]}", **more)

        await asyncio.gather(*[one(at) for at in times])


@AREA.entry("litellm.tpm_ratio", unit="ratio", better="lower", target=1.2)
def tpm_ratio() -> Measured:
    """Tokens used in a minute over the limit, the worse row: 1 + burst 0.1 + the largest call's 0.1 is the bound."""
    ours, theirs = _minute()
    rows = [row for row in ours if row.startswith("tpm")]
    return Measured(
        [max(runs) for runs in zip(*(ours[row] for row in rows), strict=True)],
        {f"LiteLLM, {row}": median(theirs[row]) for row in rows},
    )


@AREA.entry("litellm.rpm_window", unit="ratio", better="lower", target=1.15)
def rpm_window() -> Measured:
    """Requests in the fullest sliding minute over the limit, the worse of steady calls and of a fixed window's edge."""
    ours, theirs = _minute()
    rows = [row for row in ours if row.startswith("rpm")]
    return Measured(
        [max(runs) for runs in zip(*(ours[row] for row in rows), strict=True)],
        {f"LiteLLM, {row}": median(theirs[row]) for row in rows},
    )


# Whether a quiet tenant notices a loud one.


async def _quiet(client: httpx.AsyncClient, model: str, seconds: float) -> float:
    """The median of one connection's calls, in milliseconds."""
    took, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        status = await _ask(client, f"[delay=0.2] {uuid.uuid4().hex}", model=model)
        if status == 200:
            took.append(time.monotonic() - began)
        await asyncio.sleep(0.05)
    return median(took) * 1_000 if took else float("inf")


async def _beside_a_flood(proxy: Proxy, quiet: str, loud: str, model: str) -> tuple[float, float]:
    async with _client(proxy, quiet) as mine, _client(proxy, loud) as theirs:
        alone = await _quiet(mine, model, 4)
        stop = asyncio.Event()

        async def hammer() -> None:
            while not stop.is_set():
                await _ask(theirs, f"[delay=0.2] {uuid.uuid4().hex}", model=model)

        flood = [asyncio.create_task(hammer()) for _ in range(FLOOD)]
        await asyncio.sleep(1)
        beside = await _quiet(mine, model, 8)
        stop.set()
        await asyncio.gather(*flood)
        return alone, beside


@AREA.entry("litellm.quiet_p50_ratio", unit="ratio", better="lower", target=2)
def quiet_p50_ratio() -> Measured:
    """A quiet tenant's median beside 64 connections of another one, over its median alone; 8 calls in parallel."""
    ratios, theirs, alone_ms = [], [], []
    with _both(own_checks=True) as (ours, peer, _):
        for run in range(3):
            quiet, loud = token(f"quiet{run}", "queued"), token(f"loud{run}", "queued")
            alone, beside = asyncio.run(_beside_a_flood(ours, quiet, loud, "chat"))
            ratios.append(beside / alone)
            alone_ms.append(alone)
            alone, beside = asyncio.run(_beside_a_flood(peer, f"x-q{run}", f"x-l{run}", "parallel"))
            theirs.append(beside / alone)
    return Measured(ratios, {"alone, ms": median(alone_ms), "LiteLLM, max_parallel_requests": median(theirs)})
