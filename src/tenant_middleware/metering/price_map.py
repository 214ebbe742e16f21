"""LiteLLM's price map, read from its package without the network and without importing LiteLLM."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from tenant_middleware.metering.pricing import MediaRates, Price

_INPUT, _OUTPUT = "input_cost_per_token", "output_cost_per_token"
_READ, _WRITE = "cache_read_input_token_cost", "cache_creation_input_token_cost"
_HOUR = f"{_WRITE}_above_1hr"
_REASONING = "output_cost_per_reasoning_token"
_LONGER = re.compile(rf"{_INPUT}_above_(\d+)k_tokens")
_STANDARD = ("standard", "default")
# What providers call their ways of serving, and how the map's names end for them.
_SUFFIXES = {
    "batch": "_batches",
    "flex": "_flex",
    "balanced": "_balanced",
    "priority": "_priority",
    "fast": "_priority",
    "ultrafast": "_ultrafast",
}
DEARER = frozenset({"priority", "fast", "ultrafast"})
"""Ways of serving that cost more: without a price of their own their cost is unknown, and not the standard one."""


@lru_cache(maxsize=1)
def packaged_map() -> tuple[Mapping[str, Any], str]:
    """The map of the installed LiteLLM and its hash; empty when it isn't installed."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}, "none"
    raw = (Path(spec.origin).parent / "model_prices_and_context_window_backup.json").read_bytes()
    return json.loads(raw), hashlib.sha256(raw).hexdigest()[:16]


def find_entry(entries: Mapping[str, Any], model: str) -> Mapping[str, Any] | None:
    """The entry of a model by its name, or by its name without the provider that the entry names too."""
    entry = entries.get(model)
    if entry is None and "/" in model:
        provider, _, name = model.partition("/")
        entry = entries.get(name)
        if entry is not None and entry.get("litellm_provider") not in (None, provider):
            entry = None
    return entry


def read_price(entry: Mapping[str, Any], model: str, as_of: str) -> Price | None:
    """The price that an entry tells, with its tiers and ways of serving; None where tokens have none."""
    cost, ladder = _numbers(entry), _ladder(entry.get("tiered_pricing"))
    blank = Price(model, Decimal(0), Decimal(0), _per_call(entry, cost), "litellm", as_of)
    if ladder:
        blank = replace(blank, output=cost.get(_OUTPUT, Decimal(0)))
        steps = [(above, _rates(blank, rates, "", "")) for above, rates in ladder]
        return replace(steps[0][1], tiers=tuple(steps))
    if _INPUT not in cost and _OUTPUT not in cost:
        return None
    provider = entry.get("litellm_provider")
    if provider == "fireworks_ai" and _INPUT in cost:
        cost.setdefault(_READ, cost[_INPUT] / 2)  # its discount where a model's page names none
    services: dict[str, Price] = {}

    def priced(below: Price, suffix: str) -> Price:
        base = last = _rates(below, cost, "", suffix)
        tiers = []
        for thousands in sorted({int(found[1]) for name in cost if (found := _LONGER.fullmatch(name))}):
            last = _rates(last, cost, f"_above_{thousands}k_tokens", suffix)
            # xAI's longer prompts begin at the bound itself.
            tiers.append((thousands * 1000 - (provider == "xai"), last))
        return replace(base, tiers=tuple(tiers), services=services)

    standard = priced(blank, "")
    services.update(dict.fromkeys(_STANDARD, standard))
    for service, suffix in _SUFFIXES.items():
        if f"{_INPUT}{suffix}" in cost or f"{_OUTPUT}{suffix}" in cost:
            services[service] = priced(replace(standard, tiers=(), source=f"litellm {service}"), suffix)
    return standard


def _rates(below: Price, cost: Mapping[str, Decimal], tier: str, service: str) -> Price:
    """The prices whose names end like this; what isn't named so costs what it costs below it."""

    def rate(name: str, default: Decimal | None) -> Decimal | None:
        return cost.get(f"{name}{tier}{service}", cost.get(f"{name}{tier}", default))

    def own(name: str) -> bool:
        return f"{name}{tier}{service}" in cost

    def media(prefix: str, default: MediaRates) -> MediaRates:
        rates = (rate(f"{prefix}_cost_per_{medium}_token", known) for medium, known in default._asdict().items())
        return MediaRates(*rates)

    write, hour = rate(_WRITE, below.cache_write), rate(_HOUR, below.cache_write_1h)
    if hour is not None and write is not None and below.cache_write and not own(_HOUR):
        hour = hour * write / below.cache_write  # a discount or surcharge is one factor on all writes
    completion = media("output", below.completion_media)
    return replace(
        below,
        input=rate(_INPUT, below.input) or Decimal(0),
        # Models that only draw have a price of images alone.
        output=rate(_OUTPUT, below.output) or completion.image or Decimal(0),
        cached_input=rate(_READ, below.cached_input),
        cache_write=write,
        cache_write_1h=hour,
        # Thinking is output: where that has a new price, thinking without one of its own costs the same.
        reasoning=rate(_REASONING, below.reasoning) if own(_REASONING) or not own(_OUTPUT) else None,
        prompt_media=media("input", below.prompt_media),
        completion_media=completion,
    )


def _per_call(entry: Mapping[str, Any], cost: Mapping[str, Decimal]) -> Decimal:
    name = "input_cost_per_query" if entry.get("mode") == "rerank" else "input_cost_per_request"
    return cost.get(name, Decimal(0))


def _ladder(steps: object) -> list[tuple[int, dict[str, Decimal]]]:
    """Prices by the length of a prompt, as some entries list them: all rates, by the tokens that they begin above."""
    found: list[tuple[int, dict[str, Decimal]]] = []
    for step in steps if isinstance(steps, list) else []:
        rates, bounds = _numbers(step), list(step.get("range") or [])
        if _INPUT in rates and len(bounds) == 2:
            found.append((int(bounds[0]), rates))
    return sorted(found, key=lambda step: step[0])


def _numbers(entry: Mapping[str, Any]) -> dict[str, Decimal]:
    return dict(_usable(entry))


def _usable(entry: Mapping[str, Any]) -> Iterator[tuple[str, Decimal]]:
    for name, value in entry.items():
        if "cost" in name and isinstance(value, int | float | str) and not isinstance(value, bool):
            number = _decimal(value)
            if number is not None:
                yield name, number


def _decimal(value: object) -> Decimal | None:
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        return None
    return number if number.is_finite() and number >= 0 else None
