"""Each hazard is real on the bare framework, and none is with us."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NoReturn

import pytest

from tests.hazards.scoreboard import Hazard, NotRun, rows

ROWS = rows()
# Making an environment takes a minute or two; `make hazards` runs those rows too.
CONTROLS = [pytest.param(row, marks=[pytest.mark.services] if row.apart else [], id=row.id) for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_with_us_nothing_leaks(row: Hazard) -> None:
    assert not row.ours()


@pytest.mark.parametrize("row", CONTROLS)
@pytest.mark.filterwarnings("default::UserWarning")
def test_the_control_leaks(row: Hazard, missing_service: Callable[[str], NoReturn]) -> None:
    """A control that no longer leaks is reported, not deleted: the framework may have mended it."""
    try:
        leaks = row.bare()
    except NotRun as reason:
        missing_service(str(reason))
    if not leaks:
        warnings.warn(f"{row.id}: the bare framework no longer leaks", UserWarning, stacklevel=1)
