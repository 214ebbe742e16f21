"""What a model call costs on its way through the gate, in memory."""

from __future__ import annotations

import itertools
import time
from typing import Any

from benchmarks import framework_calls
from benchmarks.entries import Area, Measured
from benchmarks.side_by_side import interleaved, repeat
from tenant_middleware.admission.call import Call, Kind
from tenant_middleware.admission.store import Ask, Limits, Settlement
from tenant_middleware.backends.in_memory.admission import InMemoryAdmission
from tenant_middleware.clock import SystemClock
from tenant_middleware.context import scope
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

AREA = Area(
    "gate",
    required=[
        "gate.cycle_vs_arithmetic",
        "gate.call_us",
        "gate.langchain_model_added_us",
        "gate.llamaindex_model_added_us",
        "gate.stream_added_us",
        "gate.agent_run_vs_bare",
    ],
)
AREA.entry("gate.langchain_model_added_us", unit="us", better="lower", target=150)(framework_calls.langchain_model)
AREA.entry("gate.llamaindex_model_added_us", unit="us", better="lower", target=150)(framework_calls.llamaindex_model)
AREA.entry("gate.stream_added_us", unit="us/token", better="lower", target=5)(framework_calls.stream)
AREA.entry("gate.agent_run_vs_bare", unit="ratio", better="lower", target=1.05)(framework_calls.agent_run)

ACME = Tenant("acme", "gold", "ann")
PROMPT, OUTPUT, USED = 400, 200, 550
LIMITS = Limits(10**9, 10**12, 0.1, 64, 10**18, "month")
NANO = 600


class Arithmetic:
    """The same decision with plain dicts: two buckets, concurrency, a budget, and a record per call to settle by."""

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Any]] = {
            ACME.id: {
                "at": time.time(),
                "requests": 10**8,
                "tokens": 10**11,
                "spent": 0,
                "reserved": 0,
                "held": {},
                "done": set(),
            }
        }

    def reserve(self, tenant: str, call_id: str, prompt: int, output: int, per_token: int, ttl: float) -> bool:
        state, now = self.state[tenant], time.time()
        elapsed, state["at"] = now - state["at"], now
        state["requests"] = min(10**8, state["requests"] + elapsed * 10**9 / 60)
        state["tokens"] = min(10**11, state["tokens"] + elapsed * 10**12 / 60)
        tokens, nano, held = prompt + output, (prompt + output) * per_token, state["held"]
        if call_id in held or call_id in state["done"]:
            return False
        if state["requests"] < 1 or state["tokens"] < tokens or len(held) >= 64:
            return False
        if state["spent"] + state["reserved"] + nano > 10**18:
            return False
        state["requests"] -= 1
        state["tokens"] -= tokens
        state["reserved"] += nano
        held[call_id] = (tokens, nano, now + ttl)
        return True

    def settle(self, tenant: str, call_id: str, tokens: int, nano: int) -> None:
        state = self.state[tenant]
        reserved = state["held"].pop(call_id)
        state["tokens"] += reserved[0] - tokens
        state["reserved"] -= reserved[1]
        state["spent"] += nano
        state["done"].add(call_id)


@AREA.entry("gate.cycle_vs_arithmetic", unit="ratio", better="higher", target=0.45)
def cycle_vs_arithmetic() -> Measured:
    """Cycles of reserve and settle a second, over those of the bare arithmetic; the caller's values are made inside."""
    store, bare, ids = InMemoryAdmission(SystemClock()), Arithmetic(), itertools.count()

    def ours(times: int) -> None:
        for number in itertools.islice(ids, times):
            call_id = f"c{number}"
            store.reserve(Ask(ACME, call_id, LIMITS, PROMPT, OUTPUT, 16, PROMPT * NANO, NANO, 120.0, call_id))
            store.settle(Settlement(ACME, call_id, LIMITS, USED, USED * NANO, None))

    def plain(times: int) -> None:
        for number in itertools.islice(ids, times):
            call_id = f"c{number}"
            bare.reserve("acme", call_id, PROMPT, OUTPUT, NANO, 120.0)
            bare.settle("acme", call_id, USED, USED * NANO)

    timings = interleaved({"ours": ours, "plain": plain}, loops=5_000, runs=21, clock=time.process_time)
    beside = {"cycles/s": 1e6 / timings.us("ours"), "arithmetic/s": 1e6 / timings.us("plain")}
    return Measured(timings.ratios("plain", "ours"), beside)


POLICY = {
    "policy": {"unlisted_tenants": False},
    "tiers": {
        "gold": {
            "rpm": 10**9,
            "tpm": 10**12,
            "max_concurrency": 64,
            "budget": {"usd": "1000000", "period": "month"},
            "models": ["bench/model"],
            "max_output_tokens": 512,
        }
    },
    "tenants": {"acme": {"tier": "gold"}},
    "prices": {"bench/model": {"input_usd_per_million": "0.15", "output_usd_per_million": "0.60"}},
}


@AREA.entry("gate.call_us", unit="us", better="lower", target=60)
def call_us() -> Measured:
    """A call through the whole gate less an empty `with` loop: entitlement, reservation, settlement, ledger row."""
    with Tenancy.from_mapping(POLICY) as tenancy, scope(ACME):
        gate, usage, ids = tenancy.gate, Usage(PROMPT, OUTPUT), itertools.count()

        def through() -> None:
            with gate.call(Call(ACME, "bench/model", Kind.CHAT, PROMPT, OUTPUT, f"c{next(ids)}")) as hold:
                hold.report(usage)

        contenders = {"gate": repeat(through), "bare": repeat(lambda: next(ids))}
        timings = interleaved(contenders, loops=1_000, runs=21, clock=time.process_time)
        calls = tenancy.ledger.totals(by="tenant")["acme"].calls
        if calls != 22 * 1_000:
            raise RuntimeError(f"the ledger has {calls} calls, expected {22 * 1_000}")
        return Measured(timings.added_us("gate", "bare"), {"calls booked": calls})
