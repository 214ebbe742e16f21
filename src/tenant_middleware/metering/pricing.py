"""What tokens cost. Money is Decimal outside and whole nano-dollars where it is stored; rounding happens once per
attempt, half up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from typing import NamedTuple

from tenant_middleware.metering.usage import NO_MEDIA, Media, Usage

NANO = Decimal(1_000_000_000)


def to_nano(usd: Decimal) -> int:
    """Whole nano-dollars, half up: the one rounding on the way into a store."""
    return int((usd * NANO).to_integral_value(ROUND_HALF_UP))


def to_usd(nano: int) -> Decimal:
    """Exact dollars of stored nano-dollars."""
    return Decimal(nano) / NANO


class MediaRates(NamedTuple):
    """Dollars per token that is no text; None costs what text costs."""

    audio: Decimal | None = None
    image: Decimal | None = None
    video: Decimal | None = None


NO_RATES = MediaRates()


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per token and per call (image, search), with where and when they come from.

    A rate of None is another's: reads and writes of a provider's cache cost what `input` does, writes for an hour what
    other writes do, thinking what `output` does. `tiers` are the prices of prompts longer than so many tokens, shortest
    first; the whole call is charged by its tier. `services` are the prices by what a provider says it served a call by.
    """

    model: str
    input: Decimal
    output: Decimal
    per_call: Decimal
    source: str
    as_of: str
    free: bool = False
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoning: Decimal | None = None
    prompt_media: MediaRates = NO_RATES
    completion_media: MediaRates = NO_RATES
    tiers: tuple[tuple[int, Price], ...] = ()
    services: Mapping[str, Price] = field(default_factory=dict, compare=False, repr=False)

    def for_prompt(self, tokens: int) -> Price:
        """The price of a call with a prompt of so many tokens."""
        found = self
        for above, price in self.tiers:
            if tokens > above:
                found = price
        return found

    def for_usage(self, usage: Usage) -> Price:
        """The price of a call that was served like this, whatever was asked for."""
        return self.services.get(usage.service_tier, self).for_prompt(usage.prompt_tokens)

    def cost(self, usage: Usage, units: int = 1) -> Decimal:
        """Exact dollars of one attempt's usage, which is charged for `units` unless the provider says how many."""
        return self.for_usage(usage)._cost(usage, usage.units or units)

    def _cost(self, usage: Usage, units: int) -> Decimal:
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        written = min(usage.cache_write_tokens, usage.prompt_tokens - cached)
        for_an_hour = min(usage.cache_write_1h_tokens, written)
        thought = min(usage.reasoning_tokens, usage.completion_tokens)
        write = _or(self.cache_write, self.input)
        total = self.per_call * units
        total += _mixed(usage.prompt_tokens - cached - written, self.input, usage.prompt_media, self.prompt_media)
        total += _mixed(usage.completion_tokens - thought, self.output, usage.completion_media, self.completion_media)
        if cached:
            total += cached * _or(self.cached_input, self.input)
        if written:
            total += (written - for_an_hour) * write + for_an_hour * _or(self.cache_write_1h, write)
        if thought:
            total += thought * _or(self.reasoning, self.output)
        return total

    @property
    def input_nano(self) -> int:
        """A bound on one prompt token of text, for reservations: whole nano-dollars, rounded up."""
        return _most(self.input, self.cached_input, self.cache_write, self.cache_write_1h)

    @property
    def media_nano(self) -> int:
        """A bound on one prompt token of a request that holds more than text."""
        return max(self.input_nano, _most(self.input, *self.prompt_media))

    @property
    def output_nano(self) -> int:
        """A bound on one output token, for reservations: whole nano-dollars, rounded up."""
        return _most(self.output, self.reasoning, *self.completion_media)

    @property
    def per_call_nano(self) -> int:
        return to_nano(self.per_call)


def _mixed(tokens: int, rate: Decimal, media: Media, rates: MediaRates) -> Decimal:
    """Tokens of which some are no text."""
    if media == NO_MEDIA:
        return tokens * rate
    total, left = Decimal(0), tokens
    for count, own in zip(media, rates, strict=True):
        count = min(count, left)
        left -= count
        total += count * _or(own, rate)
    return total + left * rate


def _most(rate: Decimal, *others: Decimal | None) -> int:
    for other in others:
        if other is not None and other > rate:
            rate = other
    return int((rate * NANO).to_integral_value(ROUND_CEILING))


def _or(value: Decimal | None, default: Decimal) -> Decimal:
    return default if value is None else value
