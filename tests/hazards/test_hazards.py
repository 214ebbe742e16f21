"""Each hazard is real on the bare framework, and none is with us."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NoReturn

import pytest

from tests.hazards import memory_rows
from tests.hazards.page import PAGE, complete
from tests.hazards.page import ROWS as ROW_IDS
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


def test_todays_redis_client_hands_no_reply_to_the_next_request() -> None:
    """What the control of H19 shows of an older one; our own reads would be at stake."""
    assert not memory_rows.on_redis(memory_rows.bare_reply)


def test_every_row_is_there_once_and_on_the_page() -> None:
    assert complete(row.id for row in ROWS) == []
    assert complete([*ROW_IDS[1:], ROW_IDS[1], "H99"]) == [ROW_IDS[0], ROW_IDS[1], "H99"]
    page = PAGE.read_text("utf-8")
    for row in ROWS:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {row.id} |")]
        assert line.startswith(f"| {row.id} | {row.title} |") and line.endswith("| holds |")
