"""Seven mixes of tenants: floods beside nine light ones, whose calls come spread over a minute."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LIGHT = tuple("BCDEFGHIJ")
LIGHT_CALLS = 8
SPREAD_S = 60.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call to come; `output` is hidden from the queue until it is written, `max_output` is what the caller asks."""

    at: float
    tenant: str
    prompt: int
    output: int
    max_output: int
    weight: float = 1.0
    cancel_at: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """Arrivals in order of time; Jain's index is over `floods`, from `measured_from` until one of them runs dry."""

    name: str
    arrivals: tuple[Arrival, ...]
    floods: tuple[str, ...]
    measured_from: float = 0.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Log-normal sizes around these means."""

    prompt: float
    output: float
    max_output: int = 1024
    sigma: float = 0.5

    def draw(self, rng: random.Random) -> tuple[int, int]:
        return (
            _log_normal(rng, self.prompt, self.sigma, 16_000),
            _log_normal(rng, self.output, self.sigma, self.max_output),
        )


NORMAL = Sizes(500, 200)


def _log_normal(rng: random.Random, mean: float, sigma: float, most: int) -> int:
    return max(1, min(most, round(rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))


def _flood(
    rng: random.Random, tenant: str, calls: int, sizes: Sizes, *, at: float = 0.0, weight: float = 1.0
) -> Iterator[Arrival]:
    for _ in range(calls):
        yield Arrival(at, tenant, *sizes.draw(rng), sizes.max_output, weight)


def _light(rng: random.Random, weight: float = 1.0) -> Iterator[Arrival]:
    for tenant in LIGHT:
        for _ in range(LIGHT_CALLS):
            yield Arrival(rng.uniform(1.0, SPREAD_S), tenant, *NORMAL.draw(rng), NORMAL.max_output, weight)


def _mixed(name: str, *parts: Iterator[Arrival], floods: str, measured_from: float = 0.0) -> Workload:
    arrivals = sorted((arrival for part in parts for arrival in part), key=lambda arrival: arrival.at)
    return Workload(name, tuple(arrivals), tuple(floods), measured_from)


def flood(rng: random.Random) -> Workload:
    return _mixed("flood 1,000", _flood(rng, "A", 1000, NORMAL), _light(rng), floods="A")


def long_prompts(rng: random.Random) -> Workload:
    sizes = Sizes(8000, 600, 2048)
    return _mixed("8k prompts", _flood(rng, "A", 1000, sizes), _light(rng), floods="A")


def two_sizes(rng: random.Random) -> Workload:
    big, small = Sizes(2000, 800, 2048), Sizes(100, 40)
    return _mixed(
        "two floods, 20x sizes", _flood(rng, "A", 200, big), _flood(rng, "K", 4000, small), _light(rng), floods="AK"
    )


def tiers(rng: random.Random) -> Workload:
    floods = [_flood(rng, name, 700, NORMAL, weight=weight) for name, weight in (("A", 1.0), ("K", 2.0), ("L", 4.0))]
    return _mixed("tiers 1:2:4", *floods, _light(rng), floods="AKL")


def long_answers(rng: random.Random) -> Workload:
    answers, prompts = Sizes(50, 800, 2048), Sizes(4000, 50)
    return _mixed(
        "short prompt, long answer",
        _flood(rng, "A", 700, answers),
        _flood(rng, "K", 700, prompts),
        _light(rng),
        floods="AK",
    )


def late_flood(rng: random.Random) -> Workload:
    early, late = _flood(rng, "A", 1500, NORMAL), _flood(rng, "K", 1000, NORMAL, at=60.0)
    first = iter([Arrival(0.0, "K", 500, 200, 1024)])
    return _mixed("late flood", early, late, first, _light(rng), floods="AK", measured_from=60.0)


def cancels(rng: random.Random) -> Workload:
    calls = list(_flood(rng, "A", 2000, NORMAL))
    doomed = [
        Arrival(c.at, c.tenant, c.prompt, c.output, c.max_output, c.weight, cancel_at=rng.uniform(0.0, SPREAD_S))
        if n % 2
        else c
        for n, c in enumerate(calls)
    ]
    return _mixed("cancels", iter(doomed), _light(rng), floods="A")


ALL: tuple[Callable[[random.Random], Workload], ...] = (
    flood,
    long_prompts,
    two_sizes,
    tiers,
    long_answers,
    late_flood,
    cancels,
)
