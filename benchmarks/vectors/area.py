"""The area's names, and how two queries are timed against each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from benchmarks.entries import Area, Measured
from benchmarks.side_by_side import no_collector

AREA = Area(
    "vectors",
    required=[
        "vectors.redis_vs_raw",
        "vectors.pinecone_vs_raw",
        "vectors.upsert_vs_raw",
        "vectors.langchain_vs_framework",
        "vectors.llamaindex_vs_framework",
        "vectors.langchain_added_us",
        "vectors.recall_100_tenants",
    ],
)


def p50s(ours: Callable[[], object], raw: Callable[[], object], *, calls: int = 300, runs: int = 9) -> Measured:
    """The ratio of medians, run by run; within a run the two take turns, call by call."""
    for _ in range(20):
        ours()
        raw()
    ratios, mine, theirs = [], [], []
    for _ in range(runs):
        times: tuple[list[float], list[float]] = ([], [])
        with no_collector():
            for turn in range(2 * calls):
                first = (turn // 2 + turn) % 2  # who goes first changes with each pair
                began = time.perf_counter()
                (ours, raw)[first]()
                times[first].append(time.perf_counter() - began)
        mine.append(median(times[0]))
        theirs.append(median(times[1]))
        ratios.append(mine[-1] / theirs[-1])
    return Measured(ratios, {"ours us": median(mine) * 1e6, "raw us": median(theirs) * 1e6})
