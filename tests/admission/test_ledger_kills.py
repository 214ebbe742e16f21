"""Calls by eight processes that are killed at random moments: every one that settled is in the ledger, once."""

from __future__ import annotations

import pytest

from benchmarks.admission.ledger import Outcome, run


def check(found: Outcome, calls: int, kills: int) -> None:
    assert found.killed == kills
    assert (found.lost, found.phantoms, found.nano_diff, found.redis_diff) == (0, 0, 0, 0)
    assert found.settled >= calls


@pytest.mark.services
def test_two_thousand_calls() -> None:
    check(run(2_000, kills=4), 2_000, 4)


@pytest.mark.long
def test_a_hundred_thousand_calls() -> None:
    check(run(100_000, kills=20), 100_000, 20)
