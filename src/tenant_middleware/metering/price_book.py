"""What a model costs: the policy's prices first, then LiteLLM's price map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tenant_middleware.errors import UnpricedModel
from tenant_middleware.metering.price_map import DEARER, find_entry, packaged_map, read_price
from tenant_middleware.metering.pricing import Price
from tenant_middleware.policy import PriceRule

_MILLION = Decimal(1_000_000)


class PriceBook:
    """Prices by model name; the policy's win over the map's. A model without a price raises UnpricedModel."""

    def __init__(self, rules: Mapping[str, PriceRule], price_map: Mapping[str, Any] | None = None) -> None:
        self._rules = dict(rules)
        self._map = price_map
        self._found: dict[tuple[str, str], Price] = {}

    def price(self, model: str, *, service_tier: str = "") -> Price:
        """The price of a model; raises UnpricedModel when neither the policy nor the map knows one.

        `service_tier` is how the provider is asked to serve the call (batch, flex, priority). A cheaper one without a
        price of its own costs the standard one, a dearer one is refused. The policy's price counts for all of them.
        """
        found = self._found.get((model, service_tier))
        if found is None:
            found = self._look_up(model, service_tier)
            if len(self._found) < 4096:
                self._found[model, service_tier] = found
        return found

    def _look_up(self, model: str, service_tier: str) -> Price:
        rule = self._rules.get(model)
        if rule is None or rule.like is not None:
            price = self._from_map(model if rule is None or rule.like is None else rule.like)
        else:
            price = _from_rule(model, rule)
        if price is None:
            raise UnpricedModel(
                "this model has no price, so its calls would silently cost nothing: add "
                f'[prices."{model}"] to the policy (free = true if 0 is meant), or install the extra "litellm" '
                "for its map",
                model=model,
            )
        if not (price.free or price.input or price.output or price.per_call):
            raise UnpricedModel("this model's price is 0: say free = true in [prices] if that is meant", model=model)
        if service_tier in DEARER and price.source != "policy" and service_tier not in price.services:
            raise UnpricedModel(
                f"this model has no price for the service tier {service_tier!r}, which costs more than the standard "
                'one: leave service_tier out, or add [prices."MODEL"] to the policy',
                model=model,
            )
        return price.services.get(service_tier, price)

    def _from_map(self, model: str) -> Price | None:
        if self._map is None:
            self._map = packaged_map()[0]
        entry = find_entry(self._map, model)
        return None if entry is None else read_price(entry, model, self.snapshot)

    @property
    def snapshot(self) -> str:
        """A hash that names the price map in force, so that a figure can be reproduced."""
        packaged = packaged_map()
        return packaged[1] if self._map is None or self._map is packaged[0] else _hash_of(self._map)


def _from_rule(model: str, rule: PriceRule) -> Price:
    def rate(usd: Decimal | None) -> Decimal | None:
        return None if usd is None else usd / _MILLION

    return Price(
        model=model,
        input=rule.input_usd_per_million / _MILLION,
        output=rule.output_usd_per_million / _MILLION,
        per_call=rule.per_call_usd,
        source="policy",
        as_of=rule.as_of.isoformat() if rule.as_of else "",
        free=rule.free,
        cached_input=rate(rule.cached_input_usd_per_million),
        cache_write=rate(rule.cache_write_usd_per_million),
        cache_write_1h=rate(rule.cache_write_1h_usd_per_million),
    )


def _hash_of(price_map: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(price_map, sort_keys=True).encode()).hexdigest()[:16]
