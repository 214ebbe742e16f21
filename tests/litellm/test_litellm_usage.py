"""What an answer of LiteLLM's says it used is read in full: each count may have a price of its own."""

from __future__ import annotations

from typing import Any

import pytest
from litellm.types.utils import ImageResponse, ModelResponse
from litellm.types.utils import Usage as Reported

from tenant_middleware.litellm.usage import usage_of, usage_of_images
from tenant_middleware.metering.usage import Media, Usage


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Usage(20, 4)),
        ({"prompt_tokens_details": {"cached_tokens": 5}}, Usage(20, 4, 5)),
        ({"completion_tokens_details": {"reasoning_tokens": 3}}, Usage(20, 4, reasoning_tokens=3)),
        ({"cache_creation_input_tokens": 7, "cache_read_input_tokens": 5}, Usage(20, 4, 5, cache_write_tokens=7)),
        (
            {
                "cache_creation_input_tokens": 7,
                "prompt_tokens_details": {
                    "cache_creation_token_details": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}
                },
            },
            Usage(20, 4, cache_write_tokens=7, cache_write_1h_tokens=4),
        ),
        ({"prompt_tokens_details": {"audio_tokens": 5}}, Usage(20, 4, prompt_media=Media(audio=5))),
        ({"completion_tokens_details": {"image_tokens": 4}}, Usage(20, 4, completion_media=Media(image=4))),
        ({"service_tier": "flex"}, Usage(20, 4, service_tier="flex")),
    ],
    ids=["plain", "openai cached", "reasoning", "anthropic cache", "an hour", "heard", "drawn", "flex"],
)
def test_every_count_that_a_chat_answer_reports(more: dict[str, Any], expected: Usage) -> None:
    reported = Reported(prompt_tokens=20, completion_tokens=4, total_tokens=24, **more)
    assert usage_of(ModelResponse(usage=reported)) == expected


def test_pictures_are_counted_and_their_tokens_are_no_text() -> None:
    told = {"input_tokens": 9, "output_tokens": 400, "total_tokens": 409}
    told["input_tokens_details"] = {"image_tokens": 3, "text_tokens": 6}  # type: ignore[assignment]
    answer = ImageResponse(created=1, data=[{"url": "a"}, {"url": "b"}], usage=told)
    expected = Usage(9, 400, prompt_media=Media(image=3), completion_media=Media(image=400), units=2)
    assert usage_of_images(answer) == expected
    assert usage_of_images({"data": [{}, {}, {}]}) == Usage(0, units=3)
    assert usage_of_images({"data": []}) is None


def test_a_rerankers_searches_are_what_it_charges_for() -> None:
    assert usage_of({"meta": {"billed_units": {"search_units": 3}}}) == Usage(0, units=3)
    assert usage_of({"meta": {"billed_units": None, "tokens": None}}) is None


@pytest.mark.parametrize("count", [-1, 10**12])
def test_counts_that_can_not_be_are_as_if_nothing_was_reported(count: int) -> None:
    """The answer is paid for already: it is charged by estimate rather than withheld."""
    told = {"prompt_tokens": 9, "completion_tokens": count}
    assert usage_of({"usage": told}) is None
    assert usage_of({"usage": {"prompt_tokens": count, "completion_tokens": 1}}) is None
