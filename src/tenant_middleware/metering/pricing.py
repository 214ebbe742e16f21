"""What a call costs: the policy's prices first, then LiteLLM's price map, read from its package without the network.

Money is Decimal outside and whole nano-dollars where it is stored; rounding happens once per attempt, half up.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from tenant_middleware.errors import UnpricedModel
from tenant_middleware.metering.usage import Usage
from tenant_middleware.policy import PriceRule

D = TypeVar("D")
NANO = Decimal(1_000_000_000)
_MILLION = Decimal(1_000_000)
_INPUT = "input_cost_per_token"
_TIER = re.compile(rf"{_INPUT}_above_(\d+)k_tokens")


def to_nano(usd: Decimal) -> int:
    """Whole nano-dollars, half up: the one rounding on the way into a store."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_UP))


def to_usd(nano: int) -> Decimal:
    """Exact dollars of stored nano-dollars."""
    return Decimal(nano) / NANO


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per token and per call, with where and when they come from.

    `tiers` are the prices of prompts longer than so many tokens, shortest first; the whole call is charged by its tier.
    """

    model: str
    input: Decimal
    output: Decimal
    cached_input: Decimal
    per_call: Decimal
    source: str
    as_of: str
    free: bool = False
    reasoning: Decimal | None = None
    cache_write: Decimal | None = None
    tiers: tuple[tuple[int, Price], ...] = ()

    def for_prompt(self, tokens: int) -> Price:
        """The price of a call with a prompt of so many tokens."""
        found = self
        for above, price in self.tiers:
            if tokens > above:
                found = price
        return found

    def cost(self, usage: Usage) -> Decimal:
        """Exact dollars of one attempt's usage."""
        if self.tiers:
            return replace(self.for_prompt(usage.prompt_tokens), tiers=()).cost(usage)
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        cached = min(usage.cached_tokens, prompt)
        written = min(usage.cache_write_tokens, prompt - cached)
        thought = min(usage.reasoning_tokens, completion)
        total = (prompt - cached) * self.input + cached * self.cached_input + completion * self.output + self.per_call
        if written and self.cache_write is not None:
            total += written * (self.cache_write - self.input)
        if thought and self.reasoning is not None:
            total += thought * (self.reasoning - self.output)
        return total

    @property
    def input_nano(self) -> int:
        """A bound on one prompt token, for reservations: whole nano-dollars, rounded up."""
        return _ceil(max(self.input, self.cached_input, self.cache_write or self.input))

    @property
    def output_nano(self) -> int:
        """A bound on one output token, for reservations: whole nano-dollars, rounded up."""
        return _ceil(max(self.output, self.reasoning or self.output))

    @property
    def per_call_nano(self) -> int:
        return to_nano(self.per_call)


def _ceil(usd: Decimal) -> int:
    return int((usd * NANO).to_integral_value(ROUND_CEILING))


class PriceBook:
    """Prices by model name; the policy's win over the map's. A model without a price raises UnpricedModel."""

    def __init__(self, rules: Mapping[str, PriceRule], price_map: Mapping[str, Any] | None = None) -> None:
        self._rules = dict(rules)
        self._map = price_map
        self._found: dict[tuple[str, bool], Price] = {}

    def price(self, model: str, *, batch: bool = False) -> Price:
        """The price of a model; raises UnpricedModel when neither the policy nor the map knows one.

        `batch` asks for a batch API's discount, where the map has one; else the full price counts.
        """
        found = self._found.get((model, batch))
        if found is None:
            found = self._look_up(model, batch)
            if len(self._found) < 4096:
                self._found[model, batch] = found
        return found

    def _look_up(self, model: str, batch: bool) -> Price:
        rule = self._rules.get(model)
        price = _from_rule(model, rule) if rule is not None else self._from_map(model, batch)
        if price is None:
            raise UnpricedModel(
                "this model has no price, so its calls would silently cost nothing: add "
                f'[prices."{model}"] to the policy (free = true if 0 is meant), or install the extra "litellm" '
                "for its map",
                model=model,
            )
        if not (price.free or price.input or price.output or price.per_call):
            raise UnpricedModel("this model's price is 0: say free = true in [prices] if that is meant", model=model)
        return price

    def _from_map(self, model: str, batch: bool) -> Price | None:
        entry = self._entry_of(model)
        if entry is None or ("input_cost_per_token" not in entry and "output_cost_per_token" not in entry):
            return None
        cost = {name: Decimal(str(value)) for name, value in entry.items() if "cost" in name and _is_number(value)}
        listed = _Listed(model, cost, self.snapshot, batch and f"{_INPUT}_batches" in cost)
        price = listed.price()
        tiers: list[tuple[int, Price]] = []
        for above in sorted({int(found[1]) for name in cost if (found := _TIER.fullmatch(name))}):
            below = tiers[-1][1] if tiers else price
            tiers.append((above * 1000, listed.price(f"_above_{above}k_tokens", below)))
        return replace(price, tiers=tuple(tiers))

    def _entry_of(self, model: str) -> Mapping[str, Any] | None:
        """By the whole name, else by the name alone where the entry is of the provider in front of it."""
        entry: Mapping[str, Any] | None = self._entries.get(model)
        if entry is not None or "/" not in model:
            return entry
        provider, _, name = model.partition("/")
        entry = self._entries.get(name)
        return entry if entry is not None and entry.get("litellm_provider") in (None, provider) else None

    @property
    def _entries(self) -> Mapping[str, Any]:
        if self._map is None:
            self._map = packaged_map()[0]
        return self._map

    @property
    def snapshot(self) -> str:
        """A hash that names the price map in force, so that a figure can be reproduced."""
        return packaged_map()[1] if self._map is None or self._map is packaged_map()[0] else _hash_of(self._map)


@dataclass(frozen=True, slots=True)
class _Listed:
    """One entry of the price map: its costs by LiteLLM's names for them, and whether a batch API's are wanted."""

    model: str
    cost: Mapping[str, Decimal]
    snapshot: str
    batch: bool

    def price(self, tier: str = "", below: Price | None = None) -> Price:
        """The prices with a suffix; what a tier doesn't name costs what it costs below it."""
        zero = Decimal(0)
        paid = self._rate(_INPUT, tier, below.input if below else zero)
        cached = self._rate("cache_read_input_token_cost", tier, below.cached_input if below else None)
        return Price(
            model=self.model,
            input=paid,
            output=self._rate("output_cost_per_token", tier, below.output if below else zero),
            cached_input=paid if cached is None else cached,
            per_call=self.cost.get("input_cost_per_request", zero),
            source="litellm batch" if self.batch else "litellm",
            as_of=self.snapshot,
            reasoning=self._rate("output_cost_per_reasoning_token", tier, below.reasoning if below else None),
            cache_write=self._rate("cache_creation_input_token_cost", tier, below.cache_write if below else None),
        )

    def _rate(self, name: str, tier: str, default: D) -> Decimal | D:
        plain = self.cost.get(f"{name}{tier}", default)
        return self.cost.get(f"{name}{tier}_batches", plain) if self.batch else plain


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
