"""The rules as data: words by category and language, patterns, joins, rules and mitigations, compiled once.

A category is one bit. A clause is the set of categories found in it; a rule names the categories that make an attack
together, so that a new wording is a new word in a list and not a new rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal

import yaml

from tenant_middleware.errors import ConfigurationError
from tenant_middleware.guardrails.evidence import SITUATIONS, Weights, weights_of
from tenant_middleware.guardrails.folding import fold
from tenant_middleware.guardrails.matching import Engine, Matcher, Term, matcher
from tenant_middleware.guardrails.patterns import PatternSet, pattern_set

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Rule:
    """Categories that together raise a clause's score; `any_of` groups are masks of which one bit each must be there.

    What a `sure` rule scores, less its mitigations, is the least that the clause scores: weights can't talk it away.
    """

    id: str
    family: str
    score: float
    any_of: tuple[int, ...]
    none_of: int = 0
    sources: frozenset[str] = frozenset()
    sure: bool = False
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """Two categories at most `gap` characters apart make a third: "other" beside "customers" is another customer."""

    gives: int
    left: int
    right: int
    gap: int
    ordered: bool


@dataclass(frozen=True, slots=True)
class Mitigation:
    """A category that makes an attack less likely, in its clause or anywhere in the text."""

    id: str
    when: int
    factor: float
    scope: Literal["clause", "text"]
    unless: int = 0
    lacks: int = 0
    families: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Count:
    """A category given to the whole text when it has at least so many hits of others."""

    gives: int
    of: int
    at_least: int


@dataclass(frozen=True, slots=True)
class Rulebook:
    """Everything the scorer needs, compiled."""

    version: str
    bits: Mapping[str, int]
    matcher: Matcher
    term_masks: tuple[int, ...]
    patterns: PatternSet
    pattern_masks: tuple[int, ...]
    joins: tuple[Join, ...]
    counts: tuple[Count, ...]
    rules: tuple[Rule, ...]
    mitigations: tuple[Mitigation, ...]
    verbs: int
    topics: int
    words: frozenset[str]
    longest_word: int
    weights: Weights
    memo: dict[tuple[int, str], tuple[Rule, ...]] = field(default_factory=dict)

    def bit(self, category: str) -> int:
        return self.bits.get(category, 0)


@lru_cache(maxsize=3)
def default_rulebook(engine: Engine = "auto") -> Rulebook:
    """The rules that ship with the library, read and compiled at the first use."""
    return compile_rules(_documents(files("tenant_middleware.guardrails") / "rules"), engine)


def _documents(folder: Traversable) -> Iterable[tuple[str, dict[str, Any]]]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            yield from _documents(entry)
        elif entry.name.endswith(".yaml"):
            yield entry.name, yaml.load(entry.read_text("utf-8"), _LOADER)  # noqa: S506  a safe loader


def compile_rules(documents: Iterable[tuple[str, Mapping[str, Any]]], engine: Engine = "auto") -> Rulebook:
    """A rulebook from parsed YAML documents; an unknown key, category or repeated id is a ConfigurationError."""
    draft = _Draft()
    for name, document in documents:
        draft.add(name, document)
    return draft.compile(engine)


_KEYS = {
    "version",
    "language",
    "about",
    "terms",
    "patterns",
    "joins",
    "counts",
    "groups",
    "rules",
    "mitigations",
    "weights",
}
_RULE_KEYS = {"id", "family", "score", "all", "not", "sources", "sure", "positive", "negative"}


class _Draft:
    def __init__(self) -> None:
        self.version = ""
        self.terms: dict[str, set[str]] = {}
        self.patterns: list[dict[str, Any]] = []
        self.joins: list[dict[str, Any]] = []
        self.counts: list[dict[str, Any]] = []
        self.groups: dict[str, list[str]] = {}
        self.rules: list[dict[str, Any]] = []
        self.mitigations: list[dict[str, Any]] = []
        self.weights: dict[str, Any] = {}

    def add(self, name: str, document: Mapping[str, Any]) -> None:
        unknown = set(document) - _KEYS
        if unknown:
            raise ConfigurationError(f"guard rules {name}: unknown keys {', '.join(sorted(unknown))}")
        self.version = str(document.get("version", self.version))
        for category, written in (document.get("terms") or {}).items():
            for term in written:
                self.terms.setdefault(str(term), set()).add(category)
        self.patterns += document.get("patterns") or []
        self.joins += document.get("joins") or []
        self.counts += document.get("counts") or []
        self.groups.update(document.get("groups") or {})
        self.rules += document.get("rules") or []
        self.mitigations += document.get("mitigations") or []
        self.weights.update(document.get("weights") or {})

    def compile(self, engine: Engine) -> Rulebook:
        bits = self._bits()
        merged: dict[Term, int] = {}
        for written, categories in self.terms.items():
            term = Term.of(_folded(written))
            merged[term] = merged.get(term, 0) | sum(bits[c] for c in categories)
        words = (
            frozenset(part for term in merged if term.text.isascii() for part in term.text.split()) | _common_words()
        )
        innocent = [name for name in self.groups.get("innocent", ()) if name in bits]
        return Rulebook(
            version=self.version,
            bits=bits,
            matcher=matcher(list(merged), engine),
            term_masks=tuple(merged.values()),
            patterns=pattern_set([p["pattern"] for p in self.patterns], engine),
            pattern_masks=tuple(self._mask(bits, p["gives"], "pattern") for p in self.patterns),
            joins=tuple(self._join(bits, j) for j in self.joins),
            counts=tuple(
                Count(bits[c["gives"]], self._mask(bits, c["of"], "count"), c["at_least"]) for c in self.counts
            ),
            rules=tuple(self._rules(bits)),
            mitigations=tuple(self._mitigation(bits, m) for m in self.mitigations),
            verbs=self._mask(bits, self.groups.get("verbs", ()), "verbs"),
            topics=self._topics(bits),
            words=words,
            longest_word=max(map(len, words), default=1),
            weights=weights_of(self.weights, list(bits), self._topics(bits) | self._mask(bits, innocent, "innocent")),
        )

    def _topics(self, bits: Mapping[str, int]) -> int:
        topics = self._mask(bits, [c["gives"] for c in self.counts], "counts")
        for m in self.mitigations:
            topics |= self._mask(bits, m["when"], m["id"]) if m.get("scope") == "text" else 0
        return topics

    def _bits(self) -> dict[str, int]:
        names = {c for categories in self.terms.values() for c in categories}
        names |= {g for p in self.patterns for g in _names(p["gives"])} | {
            j["gives"] for j in [*self.joins, *self.counts]
        }
        names |= {"own", "foreign", "genitive", "named", "named_org", "proper", "proper_owner", "directive", "demand"}
        names |= set(SITUATIONS)
        return {name: 1 << number for number, name in enumerate(sorted(names))}

    def _mask(self, bits: Mapping[str, int], written: object, where: str) -> int:
        mask = 0
        for name in _names(written):
            if name in self.groups:
                mask |= self._mask(bits, self.groups[name], where)
            elif name in bits:
                mask |= bits[name]
            else:
                raise ConfigurationError(f"guard rules {where}: unknown category {name}")
        return mask

    def _join(self, bits: Mapping[str, int], j: Mapping[str, Any]) -> Join:
        left, right = self._mask(bits, j["left"], "join"), self._mask(bits, j["right"], "join")
        return Join(bits[j["gives"]], left, right, int(j.get("gap", 24)), bool(j.get("ordered", False)))

    def _rules(self, bits: Mapping[str, int]) -> Iterable[Rule]:
        seen: set[str] = set()
        for r in self.rules:
            unknown = set(r) - _RULE_KEYS
            if unknown or r["id"] in seen:
                raise ConfigurationError(f"guard rule {r['id']}: repeated id or unknown keys {sorted(unknown)}")
            seen.add(r["id"])
            yield Rule(
                id=r["id"],
                family=r["family"],
                score=float(r["score"]),
                any_of=tuple(self._mask(bits, group, r["id"]) for group in r["all"]),
                none_of=self._mask(bits, r.get("not", ()), r["id"]),
                sources=frozenset(r.get("sources", ())),
                sure=bool(r.get("sure", False)),
                positive=tuple(r.get("positive", ())),
                negative=tuple(r.get("negative", ())),
            )

    def _mitigation(self, bits: Mapping[str, int], m: Mapping[str, Any]) -> Mitigation:
        return Mitigation(
            id=m["id"],
            when=self._mask(bits, m.get("when", ()), m["id"]),
            factor=float(m["factor"]),
            scope=m.get("scope", "clause"),
            unless=self._mask(bits, m.get("unless", ()), m["id"]),
            lacks=self._mask(bits, m.get("lacks", ()), m["id"]),
            families=frozenset(m.get("families", ())),
            sources=frozenset(m.get("sources", ())),
        )


def _common_words() -> frozenset[str]:
    text = (files("tenant_middleware.guardrails") / "rules" / "common_words.txt").read_text("utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


def _names(written: object) -> list[str]:
    if isinstance(written, str):
        return [name.strip() for name in written.split("|")]
    return [str(name) for name in written] if isinstance(written, list | tuple) else []


def _folded(written: str) -> str:
    """The term in the form the text will have, its star kept."""
    return fold(written.removesuffix("*")) + ("*" if written.endswith("*") else "")
