"""What a model call used, as the provider reported it or as we estimated it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tenant_middleware.errors import InvalidInput

_log = logging.getLogger(__name__)

Source = Literal["provider", "estimated"]

# Beyond this a count is a unit mix-up or an attack, not a prompt; it also keeps sums exact in Redis (2**53).
MAX_TOKENS = 1_000_000_000


class Media(NamedTuple):
    """Tokens that are no text; models charge them at rates of their own."""

    audio: int = 0
    image: int = 0
    video: int = 0


NO_MEDIA = Media()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt. `cached_tokens` (read from a provider's prompt cache), `cache_write_tokens` (put there)
    and `prompt_media` (neither) are part of `prompt_tokens`; `reasoning_tokens` and `completion_media` of
    `completion_tokens`; `cache_write_1h_tokens`, kept for an hour instead of minutes, of `cache_write_tokens`.

    `service_tier` is what the provider says it served the call by, `units` how many images or searches it charges for.
    Raises InvalidInput for negative or absurd counts.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    source: Source = "provider"
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    prompt_media: Media = NO_MEDIA
    completion_media: Media = NO_MEDIA
    service_tier: str = ""
    units: int | None = None

    def __post_init__(self) -> None:
        check_tokens(self.prompt_tokens, "prompt_tokens")
        check_tokens(self.completion_tokens, "completion_tokens")
        if self.cached_tokens:
            check_tokens(self.cached_tokens, "cached_tokens")
        if self.reasoning_tokens:
            check_tokens(self.reasoning_tokens, "reasoning_tokens")
        if self.cache_write_tokens:
            check_tokens(self.cache_write_tokens, "cache_write_tokens")
        if self.cache_write_1h_tokens:
            check_tokens(self.cache_write_1h_tokens, "cache_write_1h_tokens")
        if self.prompt_media is not NO_MEDIA or self.completion_media is not NO_MEDIA:
            for count in (*self.prompt_media, *self.completion_media):
                check_tokens(count, "media")
        if self.units is not None:
            check_tokens(self.units, "units")

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
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            _sum(self.prompt_media, other.prompt_media),
            _sum(self.completion_media, other.completion_media),
            other.service_tier or self.service_tier,
            self.units if other.units is None else other.units + (self.units or 0),
        )


def reported(prompt_tokens: int, completion_tokens: int, **more: Any) -> Usage | None:
    """What a provider says was used; None for counts that can't be: as if it had said nothing.

    An answer that is paid for is not withheld because its bill makes no sense.
    """
    try:
        return Usage(prompt_tokens, completion_tokens, **more)
    except InvalidInput as error:
        _log.warning("a provider reported usage that can't be; the call is charged by estimate: %s", error)
        return None


def _sum(a: Media, b: Media) -> Media:
    return a if b == NO_MEDIA else Media(*(one + other for one, other in zip(a, b, strict=True)))


class Tally:
    """Counts a stream as it goes by: what the provider reports, and as an estimate the text that came after it.

    A provider's last word comes at the end, when nothing follows; what it says on the way is what it has used so far.
    """

    def __init__(self, prompt: int) -> None:
        self._prompt = prompt
        self._reported: Usage | None = None
        self._bytes = 0
        self._chunks = 0

    def report(self, usage: Usage) -> None:
        """Note what the provider says it has used so far, with the text that has been noted before."""
        self._reported = usage
        if usage.completion_tokens:
            self._bytes = self._chunks = 0

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
        """What has been used so far; what wasn't reported is counted by its text."""
        counted = max(self._chunks, -(-self._bytes // 4))
        if self._reported is None:
            return Usage(self._prompt, counted, source="estimated")
        return self._reported + Usage(0, counted, source="estimated") if counted else self._reported


def check_tokens(value: object, name: str) -> int:
    """A token count, or InvalidInput."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS:
        raise InvalidInput(
            f"{name}: expected a whole number from 0 to {MAX_TOKENS}, got {type(value).__name__} out of range"
        )
    return value
