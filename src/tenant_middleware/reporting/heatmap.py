"""Tenant by time: where the money went, who was refused, and who waited when."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tenant_middleware.clock import utc
from tenant_middleware.errors import missing_extra
from tenant_middleware.metering.ledger import Totals
from tenant_middleware.metering.observations import REFUSAL, STAGE, Observed, quantile
from tenant_middleware.telemetry import CALL

if TYPE_CHECKING:
    from rich.table import Table

Measure = Literal["cost", "tokens", "refusals", "queue", "p95"]
MEASURES: dict[Measure, tuple[str, str]] = {
    "cost": ("Cost", "USD"),
    "tokens": ("Tokens", "tokens"),
    "refusals": ("Refusals", "refusals"),
    "queue": ("Wait in the queue, p95", "s"),
    "p95": ("Model call, p95", "s"),
}
_SHADES = ("#f1f4f9", "#cfe0f5", "#9cc3ec", "#5c9ddd", "#2a72b8", "#134a80")
_SUMMED: tuple[Measure, ...] = ("cost", "tokens", "refusals")


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One measure for tenants (rows, the largest first) over stretches of `width` seconds (columns).

    A value is NaN where a tenant had nothing to measure; `left_out` counts tenants that were too many to show.
    """

    measure: Measure
    tenants: tuple[str, ...]
    starts: tuple[int, ...]
    width: int
    values: tuple[tuple[float, ...], ...]
    left_out: int = 0

    @property
    def title(self) -> str:
        return MEASURES[self.measure][0]

    @property
    def unit(self) -> str:
        return MEASURES[self.measure][1]

    @property
    def highest(self) -> float:
        return max((value for row in self.values for value in _known(row)), default=0.0)

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        to_png(self, picture)
        return picture.getvalue()


def stretch(seconds: float, *, columns: int = 48) -> int:
    """A width in seconds that divides a period into about `columns` parts people know: minutes, hours, days."""
    wanted = max(seconds, 1.0) / columns
    known = (60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 7 * 86_400)
    return next((width for width in known if width >= wanted), known[-1])


def heat_map(
    measure: Measure,
    *,
    since: float,
    until: float,
    width: int,
    timeline: Mapping[tuple[int, str], Totals],
    observed: Iterable[Observed] = (),
    most: int = 30,
) -> HeatMap:
    """Draw up one measure from the ledger's timeline (cost, tokens) or from observations (the others)."""
    first = int(since // width) * width
    starts = tuple(range(first, math.ceil(until / width) * width, width))
    cells = _from_ledger(measure, timeline) if measure in ("cost", "tokens") else _observed(measure, observed, width)
    rows = {tenant: tuple(row.get(start, math.nan) for start in starts) for tenant, row in cells.items()}
    rows = {tenant: row for tenant, row in rows.items() if _known(row)}
    order = sorted(rows, key=lambda tenant: (-_size(measure, rows[tenant]), tenant))
    shown = tuple(order[:most])
    return HeatMap(measure, shown, starts, width, tuple(rows[t] for t in shown), len(order) - len(shown))


def _size(measure: Measure, row: Sequence[float]) -> float:
    return sum(_known(row)) if measure in _SUMMED else max(_known(row))


def _known(row: Iterable[float]) -> list[float]:
    """What was measured."""
    return [value for value in row if not math.isnan(value)]


def _from_ledger(measure: Measure, timeline: Mapping[tuple[int, str], Totals]) -> dict[str, dict[int, float]]:
    cells: dict[str, dict[int, float]] = defaultdict(dict)
    for (start, tenant), totals in timeline.items():
        tokens = totals.prompt_tokens + totals.completion_tokens
        cells[tenant][start] = float(totals.cost_usd) if measure == "cost" else float(tokens)
    return cells


def _observed(measure: Measure, observed: Iterable[Observed], width: int) -> dict[str, dict[int, float]]:
    wanted = {"refusals": REFUSAL, "queue": STAGE + "queue", "p95": STAGE + CALL}[measure]
    counts: dict[str, dict[int, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    for row in observed:
        if row.name == wanted or (measure == "refusals" and row.name.startswith(REFUSAL)):
            counts[row.tenant_id][row.window // width * width][row.bucket] += row.times
    if measure == "refusals":
        return {tenant: {at: float(c.total()) for at, c in row.items()} for tenant, row in counts.items()}
    return {tenant: {at: quantile(c, 0.95) for at, c in row.items()} for tenant, row in counts.items()}


def shade(value: float, highest: float) -> int:
    """Which of six shades: by square root, so that a flood doesn't make all others white."""
    if not value > 0 or not highest > 0:
        return 0
    return min(1 + int(math.sqrt(value / highest) * (len(_SHADES) - 1)), len(_SHADES) - 1)


def to_table(heat: HeatMap) -> Table:
    """The map for a terminal, with Rich."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{heat.title} ({heat.unit})", box=None, pad_edge=False, title_justify="left")
    table.add_column("tenant", overflow="fold")
    table.add_column(_axis(heat), no_wrap=True)
    table.add_column("most", justify="right")
    for tenant, row in zip(heat.tenants, heat.values, strict=True):
        cells = Text()
        for value in row:
            known = not math.isnan(value)
            cells.append("█" if known else "·", style=_SHADES[shade(value, heat.highest)] if known else "dim")
        table.add_row(tenant, cells, f"{max(_known(row)):.3g}")
    if heat.left_out:
        table.caption = f"and {heat.left_out} tenants more"
    return table


def _axis(heat: HeatMap) -> str:
    if not heat.starts:
        return ""
    left, right = (utc(at).strftime("%d %b %H:%M") for at in (heat.starts[0], heat.starts[-1] + heat.width))
    gap = max(len(heat.starts) - len(left) - len(right), 1)
    return left + " " * gap + right


def to_png(heat: HeatMap, out: Path | BytesIO) -> None:
    """The map as a picture, with matplotlib; raises ImportError that names the extra without it."""
    try:
        from matplotlib.colors import ListedColormap, PowerNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("plots", "a heat map as a picture") from error
    figure = Figure(figsize=(10, 1.2 + 0.3 * max(len(heat.tenants), 1)), layout="constrained")
    axes = figure.add_subplot()
    colours = ListedColormap(_SHADES).with_extremes(bad="#ffffff")
    norm = PowerNorm(0.5, vmin=0, vmax=heat.highest or 1.0)
    rows = [list(row) for row in heat.values] or [[math.nan]]
    image = axes.imshow(rows, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    axes.set_yticks(range(len(heat.tenants)), heat.tenants)
    every = max(len(heat.starts) // 8, 1)
    places = range(0, len(heat.starts), every)
    axes.set_xticks(list(places), [utc(heat.starts[place]).strftime("%d %b\n%H:%M") for place in places])
    axes.set_title(heat.title, loc="left")
    figure.colorbar(image, ax=axes, label=heat.unit)
    figure.savefig(out, dpi=110, format="png")
