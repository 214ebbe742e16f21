"""Ours and the bare operation in the same run, taking turns, so that a busy machine slows both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

Loop = Callable[[int], object]
"""Does the operation n times; what isn't measured belongs before the loop."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per operation of each contender, one figure per run."""

    seconds: Mapping[str, list[float]]

    def us(self, name: str) -> float:
        """The median in microseconds."""
        return median(self.seconds[name]) * 1e6

    def ratios(self, name: str, to: str) -> list[float]:
        """Time of `name` over time of `to`, run by run: both had the same weather."""
        return [one / other for one, other in zip(self.seconds[name], self.seconds[to], strict=True)]

    def added_us(self, name: str, *less: str) -> list[float]:
        """What `name` costs more than the others together, run by run, in microseconds."""
        others = [sum(costs) for costs in zip(*(self.seconds[other] for other in less), strict=True)]
        return [(one - other) * 1e6 for one, other in zip(self.seconds[name], others, strict=True)]


def interleaved(
    contenders: Mapping[str, Loop],
    *,
    loops: int,
    runs: int = 15,
    warm_up: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time each contender `runs` times for `loops` operations; who goes first changes with each run.

    What only computes is timed by `time.process_time`: all of its threads, and no other program's.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for loop in contenders.values():
        loop(loops if warm_up is None else warm_up)
    for run in range(runs):
        shift = run % len(names)
        for name in names[shift:] + names[:shift]:
            with no_collector():
                began = clock()
                contenders[name](loops)
                seconds[name].append((clock() - began) / loops)
    return Timings(seconds)


def repeat(operation: Callable[[], object]) -> Loop:
    """A loop around an operation without arguments; the empty loop costs about 20 ns."""

    def loop(times: int) -> None:
        for _ in range(times):
            operation()

    return loop


@contextmanager
def no_collector() -> Iterator[None]:
    """Collect before, and not while, something is timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
