"""What a call costs: the policy's prices first, then LiteLLM's price map, read from its package without the network.

Money is Decimal outside and whole nano-dollars where it is stored; rounding happens once per attempt, half up.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from tenant_middleware.errors import UnpricedModel
from tenant_middleware.metering.usage import Usage
from tenant_middleware.policy import PriceRule

NANO = Decimal(1_000_000_000)
_MILLION = Decimal(1_000_000)


def to_nano(usd: Decimal) -> int:
    """Whole nano-dollars, half up: the one rounding on the way into a store."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_UP))


def to_usd(nano: int) -> Decimal:
    """Exact dollars of stored nano-dollars."""
    return Decimal(nano) / NANO


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per token and per call, with where and when they come from."""

    model: str
    input: Decimal
    output: Decimal
    cached_input: Decimal
    per_call: Decimal
    source: str
    as_of: str
    free: bool = False

    def cost(self, usage: Usage) -> Decimal:
        """Exact dollars of one attempt's usage."""
        fresh = usage.prompt_tokens - min(usage.cached_tokens, usage.prompt_tokens)
        cached = usage.prompt_tokens - fresh
        return fresh * self.input + cached * self.cached_input + usage.completion_tokens * self.output + self.per_call

    @property
    def input_nano(self) -> int:
        """A bound on one prompt token, for reservations: whole nano-dollars, rounded up."""
        return int((max(self.input, self.cached_input) * NANO).to_integral_value(ROUND_CEILING))

    @property
    def output_nano(self) -> int:
        """A bound on one output token, for reservations: whole nano-dollars, rounded up."""
        return int((self.output * NANO).to_integral_value(ROUND_CEILING))

    @property
    def per_call_nano(self) -> int:
        return to_nano(self.per_call)


class PriceBook:
    """Prices by model name; the policy's win over the map's. A model without a price raises UnpricedModel."""

    def __init__(self, rules: Mapping[str, PriceRule], price_map: Mapping[str, Any] | None = None) -> None:
        self._rules = dict(rules)
        self._map = price_map
        self._found: dict[str, Price] = {}

    def price(self, model: str) -> Price:
        """The price of a model; raises UnpricedModel when neither the policy nor the map knows one."""
        found = self._found.get(model)
        if found is None:
            found = self._look_up(model)
            if len(self._found) < 4096:
                self._found[model] = found
        return found

    def _look_up(self, model: str) -> Price:
        rule = self._rules.get(model)
        price = _from_rule(model, rule) if rule is not None else self._from_map(model)
        if price is None:
            raise UnpricedModel(
                "this model has no price, so its calls would silently cost nothing: add "
                '[prices."MODEL"] to the policy (free = true if 0 is meant) or install the extra "litellm" for its map',
                model=model,
            )
        if not (price.free or price.input or price.output or price.per_call):
            raise UnpricedModel("this model's price is 0: say free = true in [prices] if that is meant", model=model)
        return price

    def _from_map(self, model: str) -> Price | None:
        entry = self._entries.get(model)
        if entry is None and "/" in model:
            provider, _, name = model.partition("/")
            entry = self._entries.get(name)
            if entry is not None and entry.get("litellm_provider") not in (None, provider):
                entry = None
        if entry is None or ("input_cost_per_token" not in entry and "output_cost_per_token" not in entry):
            return None
        cost = {name: Decimal(str(value)) for name, value in entry.items() if "cost" in name and _is_number(value)}
        return Price(
            model=model,
            input=cost.get("input_cost_per_token", Decimal(0)),
            output=cost.get("output_cost_per_token", Decimal(0)),
            cached_input=cost.get("cache_read_input_token_cost", cost.get("input_cost_per_token", Decimal(0))),
            per_call=cost.get("input_cost_per_request", Decimal(0)),
            source="litellm",
            as_of=self.snapshot,
        )

    @property
    def _entries(self) -> Mapping[str, Any]:
        if self._map is None:
            self._map = packaged_map()[0]
        return self._map

    @property
    def snapshot(self) -> str:
        """A hash that names the price map in force, so that a figure can be reproduced."""
        return packaged_map()[1] if self._map is None or self._map is packaged_map()[0] else _hash_of(self._map)


def _from_rule(model: str, rule: PriceRule) -> Price:
    per_token = rule.input_usd_per_million / _MILLION
    cached = rule.cached_input_usd_per_million
    return Price(
        model=model,
        input=per_token,
        output=rule.output_usd_per_million / _MILLION,
        cached_input=per_token if cached is None else cached / _MILLION,
        per_call=rule.per_call_usd,
        source="policy",
        as_of=rule.as_of.isoformat() if rule.as_of else "",
        free=rule.free,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool) and _decimal(value) is not None


def _decimal(value: object) -> Decimal | None:
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        return None
    return number if number.is_finite() and number >= 0 else None


@lru_cache(maxsize=1)
def packaged_map() -> tuple[Mapping[str, Any], str]:
    """LiteLLM's own price map and its hash, found without importing LiteLLM; empty when it isn't installed."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}, "none"
    raw = (Path(spec.origin).parent / "model_prices_and_context_window_backup.json").read_bytes()
    return json.loads(raw), hashlib.sha256(raw).hexdigest()[:16]


def _hash_of(price_map: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(price_map, sort_keys=True).encode()).hexdigest()[:16]
