"""One text from one source: bounded, seen in all its views, scored in each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tenant_middleware.guardrails.registry import Registry
from tenant_middleware.guardrails.rulebook import Rulebook
from tenant_middleware.guardrails.scoring import Finding, score_text
from tenant_middleware.guardrails.views import View, hidden_views, plain_view, windows

# What it adds to the odds that somebody hid the text, and from where on a hidden reading counts.
_HIDDEN = 1.6
_WORTH = 0.02
# Spellings that ordinary text has too: seeing through them proves nothing by itself.
_WEAK = frozenset({"chained", "glued", "closed", "leet", "invisible", "lookalikes", "url", "html"})


@dataclass(frozen=True, slots=True)
class Scan:
    """What the rules found in one text."""

    score: float = 0.0
    rules: tuple[str, ...] = ()
    spans: tuple[tuple[int, int, str], ...] = ()
    truncated: bool = False
    seen: int = 0

    def without_spans(self, length: int) -> Scan:
        """The same with one span over the whole text: for texts that were put together and have no place of their own."""
        return replace(self, spans=tuple((0, length, rule) for rule in self.rules))


NOTHING = Scan()


def scan_text(
    book: Rulebook, text: str, registry: Registry, tenant_id: str | None, source: str = "user", context: int = 0
) -> Scan:
    """The strongest finding over all windows and views; the system's own text is trusted and not scanned.

    `context` are categories seen earlier in the conversation: a flat that was let two turns ago still is one.
    """
    if source == "system" or not text:
        return NOTHING
    parts, truncated = windows(text)
    best, seen = NOTHING, 0
    for offset, part in parts:
        found = _window(book, part, registry, tenant_id, source, context)
        seen |= found.seen
        if found.score > best.score:
            best = replace(found, spans=tuple((s + offset, e + offset, r) for s, e, r in found.spans))
    return replace(best, truncated=truncated, seen=seen)


def _window(book: Rulebook, text: str, registry: Registry, tenant_id: str | None, source: str, context: int) -> Scan:
    plain = plain_view(text)
    seen, finding = score_text(book, plain.text, registry, tenant_id, source, text, context)
    best = _scan(plain, finding)
    for view in hidden_views(text, plain, seen, book):
        _, hidden = score_text(book, view.text, registry, tenant_id, source, "", context)
        found = _scan(view, hidden)
        if found.score > max(best.score, _WORTH):
            score = found.score if view.kind in _WEAK else _with_odds(found.score, _HIDDEN)
            best = replace(found, score=score, rules=(*found.rules, f"hidden-{view.kind}"))
    return replace(best, seen=seen)


def _scan(view: View, finding: Finding | None) -> Scan:
    if finding is None:
        return NOTHING
    spans = tuple((*view.locate(finding.start, finding.end), rule) for rule in finding.rules)
    return Scan(finding.score, finding.rules, spans)


def _with_odds(score: float, factor: float) -> float:
    return score * factor / (1 - score + score * factor)
