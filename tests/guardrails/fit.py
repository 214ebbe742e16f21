"""Fit the guard's weights to the tuned rows of the development set and write `rules/weights.yaml`.

`python -m tests.guardrails.fit`, after the words, rules or templates have changed. A logistic regression over
categories; held-out rows are never looked at. The bias is set so that, out of fold, `BLOCK_FPR` of the benign
templates reach the block threshold.
"""

from __future__ import annotations

import itertools
import zlib
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import minimize

from tenant_middleware.guardrails.folding import fold
from tenant_middleware.guardrails.modes import BLOCK_AT, FLAG_AT
from tenant_middleware.guardrails.registry import EMPTY, Known, Registry, registry_of
from tenant_middleware.guardrails.rulebook import Rulebook, default_rulebook
from tenant_middleware.guardrails.scoring import Reading, readings
from tenant_middleware.guardrails.turns import conversation
from tenant_middleware.guardrails.views import plain_view
from tests.guardrails.devset.rows import Row, rows

SETTINGS = {"registry": 1.0, "caller": 0.8, "text": 0.3}
RIDGE = 2.0
ROUNDS = 4
FOLDS = 5
HARDEST = 20
# The share of benign templates that may reach the block threshold, by how much the guard was told.
BLOCK_FPR = {"registry": 0.002, "caller": 0.002, "text": 0.003}
# The situation that marks a setting: its weight takes up the difference between the settings' thresholds.
MARKS = {"caller": "alone", "text": "nobody"}
DISGUISES = ("obfuscated", "disguised")


@dataclass(frozen=True, slots=True)
class Example:
    """Every reading of one row in one setting; the likeliest stands for the row."""

    row: Row
    setting: str
    readings: Any
    weight: float


class Design:
    """Which column of the matrix is which weight."""

    def __init__(self, book: Rulebook) -> None:
        self.names = list(book.bits)
        self.topics = [i for i in range(len(self.names)) if book.topics >> i & 1]
        self.innocent = book.weights.innocent

    def row(self, reading: Reading) -> list[float]:
        clause = [float(reading.mask >> i & 1) for i in range(len(self.names))]
        topic = [float(reading.topics >> i & 1) for i in self.topics]
        bare = not (reading.mask | reading.topics) & self.innocent
        return [*clause, *topic, *(clause if bare else [0.0] * len(clause)), reading.rule_score, 1.0]


def knowledge(row: Row, setting: str) -> tuple[Registry, str | None]:
    """The registry and caller that `scan` would make of the row."""
    if setting == "text":
        return EMPTY, None
    others = tuple(Known(ident, (name,)) for ident, name in row.known) if setting == "registry" else ()
    return registry_of((*others, Known(row.tenant, (row.tenant_name,)))), row.tenant


def all_readings(book: Rulebook, row: Row, setting: str) -> list[Reading]:
    registry, caller = knowledge(row, setting)
    turns = [text for _, text in row.turns]
    context, found = 0, []
    for text in [*turns, row.text]:
        seen, some = readings(book, plain_view(text).text, registry, caller, row.source, text, context)
        found += some
        context |= seen & book.topics
    for _, text in conversation(list(enumerate([*turns, row.text]))) if turns else ():
        found += readings(book, fold(text), registry, caller, row.source, "", context)[1]
    return found or [Reading(0, 0, 0, 0, (), 0.0)]


def examples(book: Rulebook, design: Design) -> list[Example]:
    tuned = [r for r in rows() if not r.held_out and r.family not in DISGUISES]
    share = Counter(r.template for r in tuned)
    alike: dict[tuple[str, str, bytes], Example] = {}  # fills of one template mostly read the same
    for (s, weight), r in itertools.product(SETTINGS.items(), tuned):
        matrix = np.array([design.row(x) for x in all_readings(book, r, s)])
        key = (r.template, s, matrix.tobytes())
        before = alike[key].weight if key in alike else 0.0
        alike[key] = Example(r, s, matrix, before + weight / share[r.template])
    return list(alike.values())


def fit(data: list[Example]) -> Any:
    """Weights and bias; each round takes the reading that the last one found likeliest."""
    y = np.array([e.row.label == "attack" for e in data], float)
    w = np.array([e.weight for e in data])
    picked = [int(np.argmax(e.readings.sum(axis=1))) for e in data]
    beta = np.zeros(data[0].readings.shape[1])
    for _ in range(ROUNDS):
        beta = _regress(np.array([e.readings[k] for e, k in zip(data, picked, strict=True)]), y, w, beta)
        picked = [int(np.argmax(e.readings @ beta)) for e in data]
    return beta


def _regress(x: Any, y: Any, w: Any, beta: Any) -> Any:
    ridge = np.full(x.shape[1], RIDGE)
    ridge[-1] = 1e-3

    def loss(b: Any) -> tuple[float, Any]:
        margin = x @ b
        wrong = w * (1 / (1 + np.exp(-np.clip(margin, -30, 30))) - y)
        return float(w @ np.logaddexp(0, (1 - 2 * y) * margin) + (ridge * b) @ b / 2), x.T @ wrong + ridge * b

    return minimize(loss, beta, jac=True, method="L-BFGS-B", options={"maxiter": 80}).x


def out_of_fold(data: list[Example]) -> Any:
    """Every row's margin by weights that haven't seen its template."""
    fold_of = [zlib.crc32(e.row.template.encode()) % FOLDS for e in data]
    margins = np.zeros(len(data))
    for number in range(FOLDS):
        beta = fit([e for e, f in zip(data, fold_of, strict=True) if f != number])
        for i, (example, at) in enumerate(zip(data, fold_of, strict=True)):
            if at == number:
                margins[i] = (example.readings @ beta).max()
    return margins


def of(margins: Any, data: list[Example], label: str, settings: tuple[str, ...]) -> list[tuple[float, float]]:
    """Margin and weight of the rows of one label in these settings."""
    pairs = zip(margins, data, strict=True)
    return [(float(m), e.weight) for m, e in pairs if e.row.label == label and e.setting in settings]


def threshold(margins: Any, data: list[Example], setting: str) -> float:
    """The margin that as many of the benign templates exceed as may, in one setting."""
    benign, fpr = of(margins, data, "benign", (setting,)), BLOCK_FPR[setting]
    total, over = sum(w for _, w in benign), 0.0
    for margin, weight in sorted(benign, reverse=True):
        over += weight
        if over > fpr * total:
            return float(margin)
    raise ValueError("no benign rows")


def hardest(margins: Any, data: list[Example], block: dict[str, float]) -> list[tuple[float, str]]:
    """The benign templates nearest to an attack, or past it: what to look at next."""
    worst: dict[str, float] = {}
    for margin, e in zip(margins, data, strict=True):
        if e.row.label == "benign":
            key = f"{e.setting}: {e.row.text[:100]}"
            worst[key] = max(worst.get(key, -99.0), float(margin) - block[e.setting])
    return sorted(((m, k) for k, m in worst.items()), reverse=True)[:HARDEST]


def _logit(p: float) -> float:
    return log(p / (1 - p))


def write(book: Rulebook, design: Design, beta: Any, block: dict[str, float], path: Path) -> None:
    """Write the weights by name, shifted so that the margins `block` lie at the block threshold."""
    for setting, mark in MARKS.items():
        beta[design.names.index(mark)] += block["registry"] - block[setting]
    topics = [design.names[i] for i in design.topics]
    middle = len(design.names) + len(topics)
    tables = {
        "clause": (design.names, beta[: len(design.names)]),
        "topic": (topics, beta[len(design.names) : middle]),
        "bare": (design.names, beta[middle:-2]),
    }
    table: dict[str, Any] = {
        "bias": round(float(beta[-1] - block["registry"]) + _logit(BLOCK_AT), 3),
        "rule": round(float(beta[-2]), 3),
    }
    for key, (names, values) in tables.items():
        table[key] = {n: round(float(v), 3) for n, v in zip(names, values, strict=True) if abs(v) >= 0.005}
    about = "Written by tests/guardrails/fit.py: what each category adds to the log odds of an attack.\n"
    document = {"version": book.version, "about": about, "weights": table}
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=120), "utf-8")


def main() -> None:
    book = default_rulebook()
    design = Design(book)
    data = examples(book, design)
    margins = out_of_fold(data)
    block = {setting: threshold(margins, data, setting) for setting in SETTINGS}
    tips = _logit(FLAG_AT) - _logit(BLOCK_AT)
    for setting, label in itertools.product(SETTINGS, ("attack", "benign")):
        some = of(margins, data, label, (setting,))
        at = [
            sum(w for m, w in some if m > t) / sum(w for _, w in some) for t in (block[setting], block[setting] + tips)
        ]
        print(f"out of fold, {label}, {setting}: blocked {at[0]:.1%}, flagged {at[1]:.1%}")
    print("hardest benign templates:")
    for margin, template in hardest(margins, data, block):
        print(f"  {margin:+.2f} {template}")
    path = Path(str(files("tenant_middleware.guardrails") / "rules" / "weights.yaml"))
    write(book, design, fit(data), block, path)


if __name__ == "__main__":
    main()
