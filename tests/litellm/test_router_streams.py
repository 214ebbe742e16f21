"""What a stream of TenantRouter holds while it is on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tenant_middleware import Tenancy, scope
from tenant_middleware.admission.store import Balance, Limits
from tenant_middleware.litellm import TenantRouter
from tenant_middleware.testing import ManualClock
from tests.litellm.conftest import ACME, POLICY
from tests.litellm.upstream import Upstream

Deployments = Callable[..., list[dict[str, Any]]]
NANO = 2_000  # of an output token of `chat`


def _say(**orders: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "".join(f"[{name}={value}]" for name, value in orders.items())}]


async def test_the_reservation_grows_with_what_is_written(deployments: Deployments, upstream: Upstream) -> None:
    """A tier that reserves the usual answer reserves a longer one as it is written, also after a hop."""
    clock = ManualClock()
    models = deployments("broken", model="openai/broken", twice=False) + deployments("chat", twice=False)
    adaptive = POLICY["tiers"]["pro"] | {"estimate": "adaptive", "models": ["chat", "broken"]}
    prices = POLICY["prices"] | {"broken": POLICY["prices"]["chat"]}
    values = {**POLICY, "tiers": {"pro": adaptive}, "prices": prices}
    with Tenancy.from_mapping(values, clock=clock) as tenancy, scope(ACME):
        router = TenantRouter(tenancy, model_list=models, fallbacks=[{"broken": ["chat"]}], num_retries=0)

        def balance() -> Balance:
            limits = Limits.of(tenancy.policy.for_tenant(ACME))
            return tenancy.gate.store_for(ACME).balance(ACME, limits)

        for model in ("chat", "broken"):
            for _ in range(8):
                await router.acompletion("chat", _say(prompt=0, output=3))
            before = balance()
            assert before.reserved_nano == 0
            written = 0
            async for chunk in await router.acompletion(model, _say(prompt=0, output=150), stream=True):
                written += bool(chunk.choices and chunk.choices[0].delta.content)
                assert balance().reserved_nano >= min(written, 100) * NANO, (model, written)
                clock.advance(5)
            assert written == 150 and balance().reserved_nano == 0
