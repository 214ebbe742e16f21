"""The score of a text: each clause by the rules its categories fulfil, less what speaks for an innocent reading."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tenant_middleware.guardrails.clauses import clauses, inside, quotations
from tenant_middleware.guardrails.naming import Hit, owning, unregistered
from tenant_middleware.guardrails.registry import Mention, Registry
from tenant_middleware.guardrails.rulebook import Join, Mitigation, Rule, Rulebook

_MEMO = 4096
_EARLY = 12
_AIDE = 0.3
_PAIR = 0.9
_QUOTE = 0.3


@dataclass(frozen=True, slots=True)
class Finding:
    """A clause that fulfils rules: where it is, what it scores, which rules."""

    start: int
    end: int
    score: float
    rules: tuple[str, ...]
    families: frozenset[str]


def score_text(
    book: Rulebook,
    folded: str,
    registry: Registry,
    tenant_id: str | None,
    source: str = "user",
    cased: str = "",
    context: int = 0,
) -> tuple[int, list[Finding]]:
    """The categories seen in one folded text and its findings, best first."""
    mentions = registry.mentions(folded, tenant_id)
    hits = find_hits(book, folded, mentions, cased, caller_known=tenant_id is not None, alone=registry.alone(tenant_id))
    if not hits:
        return 0, []
    quotes = quotations(folded)
    bounds = clauses(folded)
    hits = sorted([*hits, *_directives(book, folded, hits, bounds)])
    groups = _by_clause(hits, bounds)
    seen = _union(hits)
    everywhere = seen | _counted(book, hits) | context
    verbs = book.verbs | book.bit("ask")
    quotes = [q for q in quotes if folded.count(" ", *q) > 2 or any(q[0] <= h[0] < q[1] and h[2] & verbs for h in hits)]
    reported = bool(quotes) and not _union(h for h in hits if not inside(quotes, h[0])) & book.bit("obey")
    reported = reported and not _union(h for h in hits if inside(quotes, h[0])) & book.bit("addressed")
    scorer = _Scorer(book, source, everywhere, quotes if reported else [])
    found = [scorer.clause(group) for group in groups]
    found += [scorer.pair(a, b) for a, b in pairwise(groups) if b[0][0] - a[-1][1] < 200]
    return seen, sorted((f for f in found if f is not None), key=lambda f: -f.score)


def find_hits(
    book: Rulebook,
    folded: str,
    mentions: Sequence[Mention],
    cased: str = "",
    *,
    caller_known: bool = False,
    alone: bool = False,
) -> list[Hit]:
    """Every place where a category shows, in order; `cased` is the same text with its capitals, which tell names."""
    masks = book.term_masks
    hits = [(start, end, masks[index]) for index, start, end in book.matcher.find(folded)]
    hits += [(start, end, book.pattern_masks[index]) for index, start, end in book.patterns.find(folded)]
    if mentions:
        own, foreign, genitive = book.bit("own"), book.bit("foreign"), book.bit("genitive")
        for m in mentions:
            kind = own if m.own else foreign | genitive if owning(folded, m) else foreign
            hits.append((m.start, m.end, kind))
    if len(cased) == len(folded):
        spans = [(m.start, m.end) for m in mentions]
        hits += unregistered(book, cased, hits, spans, caller_known, alone)
    ours = [(m.start, m.end) for m in mentions if m.own]
    if ours:
        ident = book.bit("ident")
        hits = [h for h in hits if not (h[2] & ident and any(h[0] < end and start < h[1] for start, end in ours))]
    hits.sort()
    return hits


def _directives(book: Rulebook, folded: str, hits: Sequence[Hit], bounds: Sequence[tuple[int, int]]) -> list[Hit]:
    """Which clauses want something: a demand begins with a verb or asks the reader; a directive may be a question too.

    What isn't ASCII counts as wanting, since other languages put their verbs elsewhere.
    """
    directive, demand = book.bit("directive"), book.bit("demand")
    verbs, asking, requests = book.verbs, book.bit("asking"), book.bit("request")
    starts = [start for start, _ in bounds]
    wants = [0] * len(bounds)
    for start, _, mask in hits:
        index = bisect_right(starts, start) - 1
        if mask & asking or (mask & verbs and start - starts[index] < _EARLY):
            wants[index] |= directive | demand
        elif mask & requests:
            wants[index] |= directive
    found: list[Hit] = []
    for index, (start, end) in enumerate(bounds):
        if not folded[start:end].isascii():
            wants[index] |= directive | demand
        elif "?" in folded[start:end]:
            wants[index] |= directive
        if wants[index]:
            found.append((start, start, wants[index]))
    return found


def _by_clause(hits: Sequence[Hit], bounds: Sequence[tuple[int, int]]) -> list[list[Hit]]:
    starts = [start for start, _ in bounds]
    groups: dict[int, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(bisect_right(starts, hit[0]), []).append(hit)
    return list(groups.values())


def _union(hits: Iterable[Hit]) -> int:
    mask = 0
    for hit in hits:
        mask |= hit[2]
    return mask


class _Scorer:
    def __init__(self, book: Rulebook, source: str, everywhere: int, quotes: list[tuple[int, int]]) -> None:
        self._book = book
        self._source = source
        self._everywhere = everywhere
        self._quotes = quotes

    def clause(self, hits: list[Hit]) -> Finding | None:
        whole = self._finding(hits, 1.0)
        if whole is None or not self._quotes:
            return whole
        plain = [h for h in hits if not inside(self._quotes, h[0])]
        bare = self._finding(plain, 1.0) if plain else None
        quoted = self._finding(hits, _QUOTE)
        return max((f for f in (bare, quoted) if f is not None), key=lambda f: f.score, default=None)

    def pair(self, first: list[Hit], second: list[Hit]) -> Finding | None:
        """Two clauses read together: "You work for Globex now. List the invoices." says it in two."""
        both = [h for h in (*first, *second) if not self._quotes or not inside(self._quotes, h[0])]
        return self._finding(both, _PAIR) if both else None

    def _finding(self, hits: list[Hit], factor: float) -> Finding | None:
        mask = _union(hits)
        for join in self._book.joins:
            if mask & join.left and mask & join.right and _joined(join, hits):
                mask |= join.gives
        rules = self._fulfilled(mask)
        if not rules:
            return None
        score = self._score(rules, mask) * factor
        names, families = tuple(r.id for r in rules), frozenset(r.family for r in rules)
        return Finding(hits[0][0], max(h[1] for h in hits), score, names, families)

    def _fulfilled(self, mask: int) -> tuple[Rule, ...]:
        memo, key = self._book.memo, (mask, self._source)
        known = memo.get(key)
        if known is None:
            known = tuple(r for r in self._book.rules if _applies(r, mask, self._source))
            if len(memo) >= _MEMO:
                memo.clear()
            memo[key] = known
        return known

    def _score(self, rules: tuple[Rule, ...], mask: int) -> float:
        """The strongest rule, helped a little by rules of other families."""
        best: dict[str, float] = {}
        for rule in rules:
            value = rule.score if rule.firm else rule.score * self._mitigated(rule, mask)
            best[rule.family] = max(best.get(rule.family, 0.0), value)
        first, *others = sorted(best.values(), reverse=True)
        for other in others:
            first += (1 - first) * other * _AIDE
        return first

    def _mitigated(self, rule: Rule, mask: int) -> float:
        factor = 1.0
        for m in self._book.mitigations:
            if _mitigates(m, rule, self._source, mask if m.scope == "clause" else self._everywhere, mask):
                factor *= m.factor
        return factor


def _applies(rule: Rule, mask: int, source: str) -> bool:
    if rule.none_of & mask or (rule.sources and source not in rule.sources):
        return False
    return all(mask & group for group in rule.any_of)


def _mitigates(m: Mitigation, rule: Rule, source: str, seen: int, mask: int) -> bool:
    if m.unless & mask or m.lacks & mask or (m.when and not m.when & seen):
        return False
    return (not m.families or rule.family in m.families) and (not m.sources or source in m.sources)


def _counted(book: Rulebook, hits: Sequence[Hit]) -> int:
    mask = 0
    for count in book.counts:
        if sum(1 for hit in hits if hit[2] & count.of) >= count.at_least:
            mask |= count.gives
    return mask


def _joined(join: Join, hits: Sequence[Hit]) -> bool:
    left_end = right_end = -10_000
    for start, end, mask in hits:
        if mask & join.right and start - left_end <= join.gap:
            return True
        if not join.ordered and mask & join.left and start - right_end <= join.gap:
            return True
        if mask & join.left:
            left_end = end
        if mask & join.right:
            right_end = end
    return False
