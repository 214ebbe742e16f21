"""Each hazard is real on the bare framework, and none is with us."""

from __future__ import annotations

import warnings

import pytest

from tests.hazards.scoreboard import Hazard, rows

ROWS = rows()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_with_us_nothing_leaks(row: Hazard) -> None:
    assert not row.ours()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.filterwarnings("default::UserWarning")
def test_the_control_leaks(row: Hazard) -> None:
    """A control that no longer leaks is reported, not deleted: the framework may have mended it."""
    if not row.bare():
        warnings.warn(f"{row.id}: the bare framework no longer leaks", UserWarning, stacklevel=1)
