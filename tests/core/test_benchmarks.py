"""The frame of the benchmarks can be lost: a missed target and a missing line both fail."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

import benchmarks.__main__ as frame
from benchmarks import report
from benchmarks.entries import Area, Better, Measured
from benchmarks.side_by_side import interleaved, repeat


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, area: Area) -> tuple[int, dict[str, object]]:
    monkeypatch.setattr(frame, "area", lambda name: area if name == area.name else None)
    # The table goes to the terminal as it does in a run; only the file is somewhere else.
    results = tmp_path / "results.json"
    monkeypatch.setattr(
        frame, "report", types.SimpleNamespace(show=report.show, write=lambda r: report.write(r, results))
    )
    return frame.main(["--only", area.name]), json.loads(results.read_text())


@pytest.mark.parametrize(
    ("value", "better", "target", "limit", "code"),
    [
        (2.0, "higher", 1.0, None, 0),
        (0.5, "higher", 1.0, None, 1),
        (0.5, "lower", 1.0, None, 0),
        (2.0, "lower", 1.0, None, 1),
        (float("nan"), "lower", 1.0, None, 1),
        (0.95, "higher", 0.9, 1.0, 0),
        (1.2, "higher", 0.9, 1.0, 1),
        (99.0, "lower", None, None, 0),
    ],
)
def test_a_missed_target_fails(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    value: float,
    better: Better,
    target: float | None,
    limit: float | None,
    code: int,
) -> None:
    area = Area("gate", required=["gate.x"])
    area.entry("gate.x", unit="us", better=better, target=target, limit=limit)(lambda: Measured([value]))
    got, written = run(monkeypatch, tmp_path, area)
    assert got == code
    line = written["gate.x"]
    assert isinstance(line, dict) and line["unit"] == "us" and line["better"] == better and line["target"] == target


def test_a_declared_name_without_an_entry_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    area = Area("gate", required=["gate.x", "gate.y"])
    area.entry("gate.x", unit="us", better="lower", target=1)(lambda: Measured([0.5]))
    assert run(monkeypatch, tmp_path, area)[0] == 1


def test_names_belong_to_their_area_and_come_once() -> None:
    area = Area("gate", required=[])
    area.entry("gate.x", unit="us", better="lower")(lambda: Measured([1]))
    for name in ("queue.x", "gate.x", "gatex"):
        with pytest.raises(ValueError, match="expected a new name"):
            area.entry(name, unit="us", better="lower")


def test_an_area_that_is_not_there_yet_fails_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "area", lambda name: None)
    assert frame.main(["--only", "telemetry"]) == 1


def test_results_of_other_areas_stay(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for name in ("gate", "queue"):
        area = Area(name, required=[])
        area.entry(f"{name}.x", unit="us", better="lower")(lambda: Measured([1]))
        report.write([(entry, Measured([1])) for entry in area.entries.values()], path)
    assert sorted(json.loads(path.read_text())) == ["gate.x", "queue.x"]


def test_contenders_take_turns() -> None:
    ticks = iter(range(10_000))
    order: list[str] = []
    one, two = repeat(lambda: order.append("one")), repeat(lambda: order.append("two"))
    timings = interleaved({"one": one, "two": two}, loops=1, runs=3, clock=lambda: float(next(ticks)))
    assert order == ["one", "two", "one", "two", "two", "one", "one", "two"]
    assert timings.ratios("one", "two") == [1.0, 1.0, 1.0] and timings.us("one") == 1e6
    assert timings.added_us("one", "two") == [0.0, 0.0, 0.0]
