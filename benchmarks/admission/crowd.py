"""Eight worker processes that begin together and report what they saw."""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Callable
from typing import Any

PROCESSES = 8


def crowd(work: Callable[..., Any], *arguments: Any, processes: int = PROCESSES) -> list[Any]:
    """What `work(number, begin, *arguments)` returns in each process; `begin()` waits until all are there."""
    context = mp.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    jobs = [
        context.Process(target=_report, args=(work, number, barrier, answers, arguments)) for number in range(processes)
    ]
    for job in jobs:
        job.start()
    found = [answers.get(timeout=600) for _ in jobs]
    for job in jobs:
        job.join()
    for answer in found:
        if isinstance(answer, Exception):
            raise answer
    return found


def _report(work: Callable[..., Any], number: int, barrier: Any, answers: Any, arguments: tuple[Any, ...]) -> None:
    try:
        answers.put(work(number, barrier.wait, *arguments))
    except Exception as error:  # noqa: BLE001  the parent raises it
        barrier.abort()
        answers.put(RuntimeError(f"worker {number}: {type(error).__name__}: {error}"))
