"""What every test gets: a quiet offline environment, reproducible Hypothesis, and two tenants that differ in little."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

# Read when these libraries are imported: LiteLLM would fetch its price map, the others would report home.
os.environ.update(
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    LANGSMITH_TRACING="false",
    LANGCHAIN_TRACING_V2="false",
    HF_HUB_OFFLINE="1",
    ANONYMIZED_TELEMETRY="false",
)

import pytest
from hypothesis import HealthCheck, settings

from tenant_middleware.context import peek_tenant
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

# A shell's background job ignores Ctrl-C, and so would every process that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# Machines are shared and slow at times, so time is no failure. CI repeats the same examples, a desk gets new ones.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("long", settings.get_profile("dev"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if CI else "dev"))


@pytest.fixture
def acme() -> Tenant:
    return Tenant("acme", "enterprise", "user@acme")


@pytest.fixture
def globex() -> Tenant:
    return Tenant("globex", "enterprise", "user@globex")


@pytest.fixture(params=[("acme", "globex"), ("Acme", "acme"), ("acme", "acme2")], ids="/".join)
def pair(request: pytest.FixtureRequest) -> tuple[Tenant, Tenant]:
    """Two tenants: strangers, a pair that differs in case alone, and one whose name begins with the other's."""
    first, second = request.param
    return Tenant(first, "enterprise", "user"), Tenant(second, "enterprise", "user")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_750_000_000.0)


@pytest.fixture(scope="session")
def missing_service() -> Callable[[str], NoReturn]:
    """What a fixture calls when its server can't start: a skip with the reason on a desk, a failure in CI."""

    def give_up(reason: str) -> NoReturn:
        if CI:
            pytest.fail(f"in CI a service must run: {reason}", pytrace=False)
        pytest.skip(reason)

    return give_up


@pytest.fixture(autouse=True)
def _no_tenant_is_left_behind() -> Iterator[None]:
    before = peek_tenant()
    yield
    assert before is None and peek_tenant() is None, "a scope was left open"


# Folders whose tests call LlamaIndex without awaiting.
_LLAMAINDEX = ("llamaindex", "hazards", "paths", "docs", "local", "services")


@pytest.fixture(autouse=True)
def _no_loop_is_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """LlamaIndex's sync calls take the current event loop, make one where there is none, and leave it open.

    Whichever test collects it would be blamed.
    """
    test = request.node
    if request.path.parent.name not in _LLAMAINDEX or inspect.iscoroutinefunction(getattr(test, "function", None)):
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.run_until_complete(loop.shutdown_default_executor())
    asyncio.set_event_loop(None)
    loop.close()
