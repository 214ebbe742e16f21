"""What we charge, beside LiteLLM's own calculation, for every model of its map and many shapes of usage."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litellm import completion_cost
from litellm.litellm_core_utils.llm_cost_calc.utils import generic_cost_per_token
from litellm.types.utils import ModelResponse
from litellm.types.utils import Usage as Reported

from tenant_middleware.errors import UnpricedModel
from tenant_middleware.litellm.usage import usage_of
from tenant_middleware.metering.price_book import PriceBook
from tenant_middleware.metering.price_map import packaged_map

BOOK = PriceBook({})
NOON = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
SERVICES = ("", "flex", "priority", "balanced", "ultrafast")


def _priced(name: str) -> bool:
    try:
        BOOK.price(name)
    except UnpricedModel:
        return False
    return True


def _compared(name: str, entry: dict[str, Any]) -> bool:
    """Off-peak hours are none of ours (we charge the standard price), and LiteLLM's general calculation leaves out
    what is paid per request.
    """
    special = entry.get("off_peak_pricing") or entry.get("input_cost_per_request") or entry.get("mode") == "rerank"
    return not special and _priced(name)


MODELS = sorted(name for name, entry in packaged_map()[0].items() if _compared(name, entry))


@st.composite
def reports(draw: st.DrawFn) -> Reported:
    """Usage as LiteLLM hands it on: every part, and around the bounds where prices change."""
    prompt = draw(st.integers(1, 5_000) | st.sampled_from([100_000, 128_001, 200_000, 200_001, 272_001, 512_001]))
    left = prompt
    parts = []
    for _ in range(6):
        parts.append(draw(st.sampled_from([0, left // 2, left])))
        left -= parts[-1]
    cached, minutes, hour, audio, image, video = parts
    answer = draw(st.integers(0, 3_000))
    thought = draw(st.integers(0, answer))
    said = draw(st.integers(0, answer - thought))
    return Reported(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=prompt + answer,
        prompt_tokens_details={
            "cached_tokens": cached,
            "cache_creation_tokens": minutes + hour,
            "cache_creation_token_details": {"ephemeral_5m_input_tokens": minutes, "ephemeral_1h_input_tokens": hour},
            "audio_tokens": audio,
            "image_tokens": image,
            "video_tokens": video,
            "text_tokens": left,
        },
        completion_tokens_details={
            "reasoning_tokens": thought,
            "audio_tokens": said,
            "text_tokens": answer - thought - said,
        },
    )


def test_the_map_prices_thousands_of_models() -> None:
    assert len(MODELS) > 2_500


@pytest.mark.parametrize("service", SERVICES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(told=reports(), model=st.sampled_from(MODELS))
def test_every_price_is_litellms(service: str, told: Reported, model: str) -> None:
    entry = packaged_map()[0][model]
    if service and service not in BOOK.price(model).services:
        service = ""
    used = usage_of(ModelResponse(usage=told))
    assert used is not None
    parts = generic_cost_per_token(
        model, told, entry["litellm_provider"], service_tier=service or None, model_info=entry, current_time=NOON
    )
    assert float(BOOK.price(model, service_tier=service).cost(used)) == pytest.approx(sum(parts), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "gpt-5", "gemini/gemini-2.5-flash", "gpt-audio"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(told=reports())
def test_every_price_is_what_litellm_would_log(model: str, told: Reported) -> None:
    answer = ModelResponse(model=model, usage=told)
    used = usage_of(answer)
    assert used is not None
    assert float(BOOK.price(model).cost(used)) == pytest.approx(completion_cost(answer, model=model), rel=1e-9)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(told=reports(), model=st.sampled_from(MODELS))
def test_a_reservation_covers_whatever_is_reported(told: Reported, model: str) -> None:
    price, used = BOOK.price(model), usage_of(ModelResponse(usage=told))
    assert used is not None
    bound = price.for_prompt(used.prompt_tokens)
    held = used.prompt_tokens * bound.media_nano + used.completion_tokens * bound.output_nano + price.per_call_nano
    assert price.cost(used) * 1_000_000_000 <= held


def test_an_hours_writes_of_claude_cost_twice_the_input() -> None:
    """The figure of Anthropic's price list, beside the map."""
    told = Reported(
        prompt_tokens=1_000_000,
        completion_tokens=0,
        total_tokens=1_000_000,
        cache_creation_input_tokens=1_000_000,
        prompt_tokens_details={"cache_creation_token_details": {"ephemeral_1h_input_tokens": 1_000_000}},
    )
    used = usage_of(ModelResponse(usage=told))
    assert used is not None
    assert BOOK.price("claude-sonnet-4-5").cost(used) == 6
