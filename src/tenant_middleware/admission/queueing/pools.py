"""Which pool of slots a model's calls draw from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tenant_middleware.admission.queueing.order import FirstInFirstOut, Order, VirtualTokens, WeightedRoundRobin
from tenant_middleware.admission.queueing.terms import LaneCaps, PoolTerms
from tenant_middleware.errors import ConfigurationError
from tenant_middleware.patterns import matches
from tenant_middleware.settings import PoolSettings, QueueSettings

OrderName = Literal["vtc", "wrr", "fifo"]
ORDERS: dict[OrderName, Callable[[], Order]] = {
    "vtc": VirtualTokens,
    "wrr": WeightedRoundRobin,
    "fifo": FirstInFirstOut,
}
# The pool of models that no rule names: no end of slots, and denied calls wait in line.
OPEN = "open"


@dataclass(frozen=True, slots=True)
class PoolRule:
    """A pool, the models (patterns with `*`) that share its slots, and the order in which tenants get them."""

    name: str
    models: tuple[str, ...]
    terms: PoolTerms
    order: OrderName = "vtc"


class Pools:
    """The pools of an application: a model draws from the first one that names it, else from one without end."""

    def __init__(self, rules: Iterable[PoolRule] = ()) -> None:
        self.rules = tuple(rules)
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names) or OPEN in names:
            raise ConfigurationError(f"queue: pool names must differ from each other and from {OPEN!r}")
        self._open = PoolRule(OPEN, ("*",), PoolTerms(None))
        self._found: dict[str, PoolRule] = {}

    @classmethod
    def configured(cls, settings: QueueSettings) -> Pools:
        """The pools of a policy file."""
        return cls(_rule(name, pool) for name, pool in settings.pools.items())

    def of(self, model: str) -> PoolRule:
        """The rule of a model's pool."""
        rule = self._found.get(model)
        if rule is None:
            rule = next((r for r in self.rules if any(matches(p, model) for p in r.models)), self._open)
            if len(self._found) < 4096:  # a caller may invent names without end
                self._found[model] = rule
        return rule


def _rule(name: str, pool: PoolSettings) -> PoolRule:
    caps = LaneCaps(pool.max_running, pool.max_tokens, pool.max_length, pool.max_age)
    terms = PoolTerms(
        slots=pool.slots,
        reserve_slots=pool.reserve_slots,
        output_weight=pool.output_weight,
        prior_output=pool.prior_output,
        max_wait=pool.max_wait,
        max_runtime=pool.max_runtime,
        caps=caps,
    )
    return PoolRule(name, pool.models, terms, pool.policy)
