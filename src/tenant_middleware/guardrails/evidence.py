"""Weighed evidence: every category speaks for or against an attack, and the sum becomes a probability.

The weights are data (`rules/weights.yaml`), fitted to the development set and, like the words, read by people: each is
one number beside the name of a category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp

from tenant_middleware.errors import ConfigurationError

SITUATIONS = ("quoted", "paired", "found", "alone", "nobody", "brief", "told")
_MEMO = 8192
_REASONS = 3


@dataclass(frozen=True, slots=True)
class Weights:
    """What each category in a clause and each topic of the whole text adds, and what the best rule's score is worth.

    `bare` counts on top where nothing `innocent` is near: "list all tenants" means one thing in a text on rents or
    code, and another in one that is about nothing else.
    """

    names: tuple[str, ...]
    bias: float
    rule: float
    clause: tuple[float, ...]
    topic: tuple[float, ...]
    bare: tuple[float, ...]
    innocent: int
    memo: dict[tuple[int, int], float] = field(default_factory=dict)

    def probability(self, mask: int, topics: int, rule_score: float) -> float:
        key = (mask, topics)
        total = self.memo.get(key)
        if total is None:
            total = self.bias + _sum(self.clause, mask) + _sum(self.topic, topics)
            if not (mask | topics) & self.innocent:
                total += _sum(self.bare, mask)
            if len(self.memo) >= _MEMO:
                self.memo.clear()
            self.memo[key] = total
        return 1 / (1 + exp(-max(-30.0, min(30.0, total + self.rule * rule_score))))

    def because(self, mask: int) -> str:
        """A rule id for a clause that fulfils no rule: the categories that weighed most."""
        weighed = sorted((-w, self.names[i]) for i, w in enumerate(self.clause) if mask >> i & 1 and w > 0)
        return "evidence:" + "+".join(name for _, name in weighed[:_REASONS])


def weights_of(document: Mapping[str, object], names: Sequence[str], innocent: int) -> Weights:
    """Weights from their YAML form; a category that doesn't exist is a ConfigurationError, one without a weight has 0."""
    clause, topic, bare = (_table(document, key, names) for key in ("clause", "topic", "bare"))
    return Weights(tuple(names), _number(document, "bias"), _number(document, "rule"), clause, topic, bare, innocent)


def _table(document: Mapping[str, object], key: str, names: Sequence[str]) -> tuple[float, ...]:
    table = document.get(key) or {}
    if not isinstance(table, Mapping) or set(table) - set(names):
        unknown = sorted(set(table) - set(names)) if isinstance(table, Mapping) else [key]
        raise ConfigurationError(f"guard weights {key}: unknown categories {', '.join(map(str, unknown))}")
    return tuple(float(table.get(name, 0.0)) for name in names)


def _number(document: Mapping[str, object], key: str) -> float:
    value = document.get(key, 0.0)
    if not isinstance(value, int | float):
        raise ConfigurationError(f"guard weights {key}: expected a number, got {type(value).__name__}")
    return float(value)


def _sum(weights: tuple[float, ...], mask: int) -> float:
    total = 0.0
    while mask:
        low = mask & -mask
        total += weights[low.bit_length() - 1]
        mask ^= low
    return total
