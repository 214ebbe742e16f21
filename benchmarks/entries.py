"""What an area measures: named entries with a unit, a direction and a target, and the names it has to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure: the median of its runs, and beside it what it was compared with, in any unit that reads well."""

    runs: Sequence[float]
    beside: Mapping[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return median(self.runs)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table: without a target it only reports, with a `limit` too it has to stay between both."""

    name: str
    unit: str
    better: Better
    target: float | None
    limit: float | None
    measure: Callable[[], Measured]

    def met(self, value: float) -> bool:
        """Whether the target holds; a figure that isn't a number holds none."""
        return (
            (value == value)
            and _holds(value, self.target, self.better)
            and _holds(value, self.limit, "lower" if self.better == "higher" else "higher")
        )


def _holds(value: float, bound: float | None, better: Better) -> bool:
    if bound is None:
        return True
    return value >= bound if better == "higher" else value <= bound


class Area:
    """The entries of one module, `benchmarks.<area>`, which keeps it as `AREA`.

    `required` are the names that have to be there: a name without an entry fails the run, so that no line is lost.
    """

    def __init__(self, name: str, required: Sequence[str]) -> None:
        self.name = name
        self.required = tuple(required)
        self.entries: dict[str, Entry] = {}

    def entry(
        self, name: str, *, unit: str, better: Better, target: float | None = None, limit: float | None = None
    ) -> Callable[[Callable[[], Measured]], Callable[[], Measured]]:
        """Register the function that measures `name`, which begins with the area's."""
        if not name.startswith(f"{self.name}.") or name in self.entries:
            raise ValueError(f"{name}: expected a new name that begins with {self.name!r} and a dot")

        def register(measure: Callable[[], Measured]) -> Callable[[], Measured]:
            self.entries[name] = Entry(name, unit, better, target, limit, measure)
            return measure

        return register

    @property
    def missing(self) -> list[str]:
        return [name for name in self.required if name not in self.entries]
