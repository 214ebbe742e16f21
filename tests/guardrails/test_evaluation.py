"""The evaluation itself: its sets are apart, and its figures are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tenant_middleware.guardrails import Verdict
from tests.guardrails import evaluate
from tests.guardrails.devset.rows import Row, rows
from tests.guardrails.evaluate import Scored, Share, auroc, blocked, public_rows, recall_at


def scored(label: str, score: float, template: str) -> Scored:
    row = Row("id", label, "family", template, False, "text", (), "acme", "Acme", ())
    return Scored(row, Verdict("block" if score >= 0.6 else "allow", score), 1.0)


def test_development_set_is_large_and_its_parts_are_apart() -> None:
    data = rows()
    assert len(data) > 2_000 and len({r.id for r in data}) == len(data)
    held, tuned = ({r.text for r in data if r.held_out == part and r.source == "user"} for part in (True, False))
    assert len(held) > 500
    assert len(held & tuned) <= 0.01 * len(held)
    assert {r.family for r in data if r.held_out and r.label == "attack"} >= set(evaluate.STRONG)
    assert rows() == data, "the same at every run"


def test_auroc_and_recall_at_a_false_positive_rate() -> None:
    some = [scored("attack", s, f"a{s}") for s in (0.9, 0.8, 0.4)] + [
        scored("benign", s, f"b{s}") for s in (0.5, 0.1, 0.0)
    ]
    assert auroc(some) == pytest.approx(8 / 9)
    assert recall_at(some, 0.0) == pytest.approx(2 / 3)
    assert recall_at(some, 0.34) == 1.0
    assert auroc([scored("attack", 0.5, "a"), scored("benign", 0.5, "b")]) == 0.5


def test_interval_counts_templates_and_not_rows() -> None:
    few = Share.of_rows([scored("attack", 0.9, "one")] * 100, blocked)
    many = Share.of_rows([scored("attack", 0.9, str(i)) for i in range(100)], blocked)
    assert few.value == many.value == 1.0
    assert few.interval[0] < 0.3 < 0.9 < many.interval[0]


def test_public_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "public.jsonl"
    entries = [{"text": "one\u2028line", "label": "benign", "family": "notinject_one"}] * 2
    path.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in entries), "utf-8")
    assert [r.text for r in public_rows(path)] == ["one\u2028line"] * 2
    assert evaluate.evaluate_public(path) == []
