"""What a call costs: the policy's price first, then the map's with its tiers, caches, reasoning and batches."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tenant_middleware.errors import UnpricedModel
from tenant_middleware.metering.price_book import PriceBook
from tenant_middleware.metering.price_map import packaged_map
from tenant_middleware.metering.pricing import to_nano, to_usd
from tenant_middleware.metering.usage import Media, Usage
from tenant_middleware.policy import PriceRule

MAP: dict[str, Any] = {
    "plain": {"input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06},
    "cached": {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
        "cache_read_input_token_cost": 1e-07,
        "cache_creation_input_token_cost": 1.25e-06,
    },
    "thinks": {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
        "output_cost_per_reasoning_token": 7e-06,
    },
    "tiered": {
        "input_cost_per_token": 1e-06,
        "input_cost_per_token_above_128k_tokens": 2e-06,
        "input_cost_per_token_above_200k_tokens": 3e-06,
        "output_cost_per_token": 4e-06,
        "output_cost_per_token_above_200k_tokens": 6e-06,
        "cache_read_input_token_cost": 1e-07,
    },
    "batched": {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
        "cache_read_input_token_cost": 2e-07,
        "input_cost_per_token_batches": 5e-07,
        "output_cost_per_token_batches": 2e-06,
    },
    "hours": {
        "input_cost_per_token": 3e-06,
        "input_cost_per_token_above_200k_tokens": 6e-06,
        "output_cost_per_token": 15e-06,
        "cache_read_input_token_cost": 3e-07,
        "cache_creation_input_token_cost": 3.75e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
        "cache_creation_input_token_cost_above_200k_tokens": 7.5e-06,
        "cache_creation_input_token_cost_batches": 1.875e-06,
        "input_cost_per_token_batches": 1.5e-06,
    },
    "priority": {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 4e-06,
        "output_cost_per_reasoning_token": 5e-06,
        "input_cost_per_token_priority": 2e-06,
        "output_cost_per_token_priority": 8e-06,
        "input_cost_per_token_flex": 5e-07,
    },
    "speaks": {
        "input_cost_per_token": 1e-06,
        "input_cost_per_audio_token": 9e-06,
        "output_cost_per_token": 4e-06,
        "output_cost_per_audio_token": 2e-05,
    },
    "draws": {"input_cost_per_token": 1e-06, "output_cost_per_image_token": 4e-05, "mode": "image_generation"},
    "ranks": {"input_cost_per_token": 0.0, "input_cost_per_query": 0.002, "mode": "rerank"},
    "ladder": {
        "output_cost_per_token": 4e-06,
        "tiered_pricing": [
            {"range": [32000, 128000], "input_cost_per_token": 2e-06, "output_cost_per_token": 8e-06},
            {"range": [0, 32000], "input_cost_per_token": 1e-06},
        ],
    },
    "zero": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
    "other": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06, "litellm_provider": "openai"},
    "spoilt": {"input_cost_per_token": float("nan"), "output_cost_per_token": -1},
}


def book(**rules: dict[str, Any]) -> PriceBook:
    return PriceBook({name: PriceRule.model_validate(rule) for name, rule in rules.items()}, MAP)


@pytest.mark.parametrize(
    ("model", "usage", "usd"),
    [
        ("plain", Usage(1_000, 100), "0.0014"),
        ("plain", Usage(1_000, 100, cached_tokens=800, reasoning_tokens=50), "0.0014"),
        ("cached", Usage(1_000, 0, cached_tokens=800), "0.00028"),
        ("cached", Usage(1_000, 0, cached_tokens=200, cache_write_tokens=600), "0.00097"),
        ("cached", Usage(1_000, 0, cached_tokens=5_000), "0.0001"),
        ("hours", Usage(1_000, 0, cache_write_tokens=600, cache_write_1h_tokens=200), "0.0039"),
        ("hours", Usage(1_000, 0, cache_write_tokens=600, cache_write_1h_tokens=900), "0.0048"),
        ("hours", Usage(200_001, 0, cache_write_tokens=200_001, cache_write_1h_tokens=200_001), "2.400012"),
        ("cached", Usage(1_000, 0, cache_write_tokens=600, cache_write_1h_tokens=200), "0.00115"),
        ("priority", Usage(1_000, 100, service_tier="priority"), "0.0028"),
        ("priority", Usage(1_000, 100, reasoning_tokens=100, service_tier="priority"), "0.0028"),
        ("priority", Usage(1_000, 100, reasoning_tokens=100, service_tier="flex"), "0.001"),
        ("priority", Usage(1_000, 100, service_tier="default"), "0.0014"),
        ("speaks", Usage(1_000, 100, prompt_media=Media(audio=100), completion_media=Media(audio=90)), "0.00364"),
        ("speaks", Usage(1_000, 100, prompt_media=Media(image=9_000), completion_media=Media(video=9)), "0.0014"),
        ("draws", Usage(100, 4_000, completion_media=Media(image=4_000)), "0.1601"),
        ("draws", Usage(100, 4_000), "0.1601"),
        ("ranks", Usage(0, units=3), "0.006"),
        ("ladder", Usage(32_000, 100), "0.0324"),
        ("ladder", Usage(32_001, 100), "0.064802"),
        ("thinks", Usage(0, 100, reasoning_tokens=60), "0.00058"),
        ("tiered", Usage(128_000, 10), "0.12804"),
        ("tiered", Usage(128_001, 10), "0.256042"),
        ("tiered", Usage(200_001, 10, cached_tokens=100_001), "0.3100601"),
    ],
)
def test_a_call_costs_what_the_map_says(model: str, usage: Usage, usd: str) -> None:
    assert book().price(model).cost(usage) == Decimal(usd)


def test_a_batch_has_its_own_price_where_the_map_has_one() -> None:
    full, batch = book().price("batched"), book().price("batched", service_tier="batch")
    usage = Usage(1_000, 100, cached_tokens=500)
    assert full.cost(usage) == Decimal("0.001")
    assert batch.cost(usage) == Decimal("0.00055")
    assert (full.source, batch.source) == ("litellm", "litellm batch")
    assert book().price("plain", service_tier="batch") == book().price("plain")


@pytest.mark.parametrize("model", [name for name in MAP if name not in ("zero", "spoilt")])
@pytest.mark.parametrize("prompt", [1, 128_001, 200_001])
def test_a_reservation_is_never_less_than_the_cost(model: str, prompt: int) -> None:
    """Whatever the provider says was cached, written to a cache or thought."""
    price = book().price(model)
    bound = price.for_prompt(prompt)
    for cached, written, hour, thought in ((0, 0, 0, 0), (1, 0, 0, 9), (0, prompt, 0, 9), (0, prompt, prompt, 0)):
        usage = Usage(prompt, 9, cached, thought, "provider", written, hour)
        assert to_nano(price.cost(usage)) <= prompt * bound.input_nano + 9 * bound.output_nano + price.per_call_nano
    heard = Usage(prompt, 9, prompt_media=Media(prompt), completion_media=Media(0, 9))
    spoken = Usage(prompt, 9, prompt_media=Media(0, prompt), completion_media=Media(9))
    for usage in (heard, spoken):
        assert to_nano(price.cost(usage)) <= prompt * bound.media_nano + 9 * bound.output_nano + price.per_call_nano


def test_a_batch_writes_for_an_hour_at_its_discount_too() -> None:
    """Half the price of everything; the map names it for some of the counts alone."""
    usage = Usage(1_000, 0, cache_write_tokens=1_000, cache_write_1h_tokens=1_000)
    assert book().price("hours", service_tier="batch").cost(usage) == Decimal("0.003")


def test_a_dearer_way_of_serving_without_a_price_is_refused_and_a_cheaper_one_costs_the_standard() -> None:
    for tier in ("priority", "fast", "ultrafast"):
        with pytest.raises(UnpricedModel, match="service tier"):
            book().price("plain", service_tier=tier)
        assert book(plain={"input_usd_per_million": "3"}).price("plain", service_tier=tier).source == "policy"
    for tier in ("flex", "batch", "auto", "default", "what?"):
        assert book().price("plain", service_tier=tier) == book().price("plain")
    assert book().price("priority", service_tier="priority").source == "litellm priority"


def test_what_the_provider_served_by_is_charged_not_what_was_asked_for() -> None:
    asked = book().price("priority", service_tier="priority")
    assert asked.cost(Usage(1_000, 0, service_tier="default")) == Decimal("0.001")
    assert asked.cost(Usage(1_000, 0)) == Decimal("0.002")
    assert asked.for_usage(Usage(1_000, 0, service_tier="default")).source == "litellm"


def test_a_group_of_deployments_is_priced_like_a_model_of_the_map() -> None:
    prices = book(group={"like": "hours"})
    assert prices.price("group").cost(Usage(10, 0, cache_write_tokens=10, cache_write_1h_tokens=10)) == Decimal(
        "0.00006"
    )
    assert prices.price("group").model == "hours"
    with pytest.raises(UnpricedModel):
        book(group={"like": "unknown"}).price("group")
    with pytest.raises(ValueError, match="like"):
        book(group={"like": "hours", "output_usd_per_million": "1"})


def test_the_policy_prices_writes_by_how_long_they_are_kept() -> None:
    rule = {"input_usd_per_million": "1", "cache_write_usd_per_million": "2", "cache_write_1h_usd_per_million": "3"}
    usage = Usage(1_000_000, 0, cache_write_tokens=500_000, cache_write_1h_tokens=200_000)
    assert book(plain=rule).price("plain").cost(usage) == Decimal("1.7")
    assert book(plain=rule).price("plain").input_nano == 3_000


@pytest.mark.parametrize("model", ["zero", "unknown", "spoilt", "anthropic/other"])
def test_a_model_without_a_price_is_refused(model: str) -> None:
    with pytest.raises(UnpricedModel):
        book().price(model)


def test_zero_is_a_price_when_the_policy_says_free() -> None:
    assert book(zero={"free": True}).price("zero").cost(Usage(10, 10)) == 0
    with pytest.raises(UnpricedModel, match="free = true"):
        book(zero={}).price("zero")


def test_a_providers_prefix_finds_the_plain_name() -> None:
    assert book().price("openai/other").input == Decimal("0.000001")


def test_the_policys_price_wins_and_names_its_date() -> None:
    price = book(
        plain={"input_usd_per_million": "3", "cached_input_usd_per_million": "1", "as_of": "2026-01-31"}
    ).price("plain")
    assert price.cost(Usage(1_000_000, 5, cached_tokens=400_000)) == Decimal("2.2")
    assert (price.source, price.as_of) == ("policy", "2026-01-31")


def test_a_price_names_the_map_it_comes_from() -> None:
    packaged = PriceBook({})
    assert packaged.price("gpt-4o-mini").as_of == packaged.snapshot == packaged_map()[1]
    assert len(packaged.snapshot) == 16
    changed = PriceBook({}, MAP | {"plain": {"input_cost_per_token": 2e-06}})
    assert changed.snapshot != book().snapshot
    assert changed.price("plain").as_of == changed.snapshot


def test_every_model_of_the_packaged_map_has_a_usable_price_or_none() -> None:
    prices = PriceBook({})
    found = 0
    for model in packaged_map()[0]:
        try:
            price = prices.price(model)
        except UnpricedModel:
            continue
        found += 1
        assert to_nano(price.cost(Usage(300_000, 500, 1_000, 100))) > 0
    assert found > 2_000


def test_money_is_rounded_once_and_half_up() -> None:
    assert to_nano(Decimal("0.0000000005")) == 1
    assert to_nano(Decimal("0.0000000004999")) == 0
    assert to_usd(1) == Decimal("0.000000001")
