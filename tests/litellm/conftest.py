"""A provider on loopback, a tenancy over it, and LiteLLM as it was before."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

# LiteLLM's proxy imports parts that warn; what its own modules warn of is no failure of ours.
os.environ.setdefault("LITELLM_LOG", "CRITICAL")

import litellm
from litellm.llms.custom_httpx.async_client_cleanup import close_litellm_async_clients

from tenant_middleware.isolation.seal import unseal_all
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tests.litellm import upstream as provider
from tests.litellm.proxy import Proxy
from tests.litellm.upstream import Upstream

MODELS = ["chat", "spare", "embed", "image", "rank", "claude"]
POLICY: dict[str, Any] = {
    "tiers": {
        "pro": {
            "rpm": 100_000,
            "tpm": 100_000_000,
            "max_concurrency": 500,
            "budget": {"usd": "100", "period": "month"},
            "models": MODELS,
            "max_output_tokens": 200,
            "guard": "off",
        }
    },
    "tenants": {
        "acme": {"tier": "pro", "owns": ["ft:acme:*"]},
        "globex": {"tier": "pro"},
        "initech": {"tier": "pro", "budget": {"usd": "0.002", "period": "month"}},
    },
    "prices": {name: {"input_usd_per_million": "1", "output_usd_per_million": "2"} for name in ("chat", "embed")}
    | {
        "spare": {"input_usd_per_million": "10", "output_usd_per_million": "20"},
        "image": {"per_call_usd": "0.01"},
        "claude": {"like": "claude-sonnet-4-5"},
        "rank": {"per_call_usd": "0.001"},
        "ft:acme:x": {"input_usd_per_million": "1", "output_usd_per_million": "2"},
    },
}
ACME, GLOBEX, INITECH = (Tenant(name, "pro", "ann") for name in ("acme", "globex", "initech"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails beside a proxy shows the proxy's workers and its log."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Proxy):
                report.sections.append(("the proxy", value.state()))
    return report


@pytest.fixture(scope="session")
def _provider() -> Iterator[Upstream]:
    with provider.running() as running:
        yield running


@pytest.fixture
def upstream(_provider: Upstream) -> Upstream:
    _provider.reset()
    return _provider


@pytest.fixture
def tenancy() -> Iterator[Tenancy]:
    with Tenancy.from_mapping(POLICY) as made:
        yield made


@pytest.fixture
def deployments(upstream: Upstream) -> Callable[..., list[dict[str, Any]]]:
    """Deployments of the provider: two for each group, because LiteLLM never cools an only one down."""

    def make(*groups: str, model: str = "openai/m", twice: bool = True) -> list[dict[str, Any]]:
        names = [f"{model}-{i}" for i in range(2)] if twice else [model]
        where = {"api_key": "x", "api_base": upstream.url, "max_retries": 0}
        return [{"model_name": group, "litellm_params": {"model": name, **where}} for group in groups for name in names]

    return make


@pytest.fixture(autouse=True)
async def _no_client_outlives_its_loop() -> AsyncIterator[None]:
    """LiteLLM keeps an HTTP client for each event loop, also for ended ones; what is collected later warns."""
    yield
    await close_litellm_async_clients()
    litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.fixture(autouse=True)
def _bare_litellm() -> Iterator[None]:
    yield
    unseal_all()
    for name in ("callbacks", "input_callback", "success_callback", "failure_callback"):
        getattr(litellm, name).clear()
    for name in ("_async_success_callback", "_async_failure_callback", "service_callback"):
        getattr(litellm, name).clear()
    litellm.cache = None
