"""What a model call used, as the provider reported it or as we estimated it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tenant_middleware.errors import InvalidInput

Source = Literal["provider", "estimated"]

# Beyond this a count is a unit mix-up or an attack, not a prompt; it also keeps sums exact in Redis (2**53).
MAX_TOKENS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt. `cached_tokens` (read from a provider's prompt cache) and `cache_write_tokens` (put there)
    are part of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.

    Raises InvalidInput for negative or absurd counts.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    source: Source = "provider"
    cache_write_tokens: int = 0

    def __post_init__(self) -> None:
        check_tokens(self.prompt_tokens, "prompt_tokens")
        check_tokens(self.completion_tokens, "completion_tokens")
        check_tokens(self.cached_tokens, "cached_tokens")
        check_tokens(self.reasoning_tokens, "reasoning_tokens")
        check_tokens(self.cache_write_tokens, "cache_write_tokens")

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            "provider" if self.source == other.source == "provider" else "estimated",
            self.cache_write_tokens + other.cache_write_tokens,
        )


class Tally:
    """Counts a stream as it goes by: the provider's usage where it sends one, else the text, marked as estimated."""

    def __init__(self, prompt: int) -> None:
        self._prompt = prompt
        self._reported: Usage | None = None
        self._bytes = 0
        self._chunks = 0

    def report(self, usage: Usage) -> None:
        """Note what the provider says it has used so far."""
        self._reported = usage

    def text(self, text: str) -> None:
        """Note a piece of text that it has sent."""
        if text:
            self._chunks += 1
            self._bytes += len(text.encode("utf-8", "surrogatepass"))

    @property
    def began(self) -> bool:
        """Whether the provider has sent anything that it charges for."""
        return self._chunks > 0 or self._reported is not None

    def usage(self) -> Usage:
        """What has been used so far; a stream that was cut off before its usage is counted by its text."""
        counted = max(self._chunks, -(-self._bytes // 4))
        if self._reported is not None and (self._reported.completion_tokens or not counted):
            return self._reported
        prompt = self._reported.prompt_tokens if self._reported is not None else self._prompt
        return Usage(prompt, counted, source="estimated")


def check_tokens(value: object, name: str) -> int:
    """A token count, or InvalidInput."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS:
        raise InvalidInput(
            f"{name}: expected a whole number from 0 to {MAX_TOKENS}, got {type(value).__name__} out of range"
        )
    return value
