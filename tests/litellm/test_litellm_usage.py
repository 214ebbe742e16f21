"""What an answer of LiteLLM's says it used is read in full: each count may have a price of its own."""

from __future__ import annotations

from typing import Any

import pytest
from litellm.types.utils import ModelResponse
from litellm.types.utils import Usage as Reported

from tenant_middleware.litellm.usage import usage_of
from tenant_middleware.metering.usage import Usage


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Usage(20, 4)),
        ({"prompt_tokens_details": {"cached_tokens": 5}}, Usage(20, 4, 5)),
        ({"completion_tokens_details": {"reasoning_tokens": 3}}, Usage(20, 4, reasoning_tokens=3)),
        ({"cache_creation_input_tokens": 7, "cache_read_input_tokens": 5}, Usage(20, 4, 5, cache_write_tokens=7)),
    ],
    ids=["plain", "openai cached", "reasoning", "anthropic cache"],
)
def test_every_count_that_a_chat_answer_reports(more: dict[str, Any], expected: Usage) -> None:
    reported = Reported(prompt_tokens=20, completion_tokens=4, total_tokens=24, **more)
    assert usage_of(ModelResponse(usage=reported)) == expected
