"""The input guard: a pure function from segments and a tenant to a verdict, and the refusal made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tenant_middleware import telemetry
from tenant_middleware.errors import GuardrailBlocked, InvalidInput
from tenant_middleware.guardrails.classifier import GreyBand
from tenant_middleware.guardrails.modes import GuardPolicy, Thresholds, check_mode
from tenant_middleware.guardrails.registry import EMPTY, Registry
from tenant_middleware.guardrails.rulebook import Rulebook, default_rulebook
from tenant_middleware.guardrails.scan_text import Scan, scan_text
from tenant_middleware.guardrails.turns import conversation
from tenant_middleware.guardrails.verdict import ALLOW, Segment, Span, Verdict, at_least, at_most
from tenant_middleware.tenant import Tenant


class InputGuard:
    """Compares what a prompt asks for with who asks, and with where each piece of it came from.

    `check` decides and has no side effect; `enforce` counts what it flags and raises what it blocks. A classifier, if there is one, is loaded here: one that
    can't be is a ConfigurationError now, never a silent "safe" later.
    """

    def __init__(
        self,
        policy: GuardPolicy,
        registry: Registry = EMPTY,
        *,
        grey_band: GreyBand | None = None,
        thresholds: Thresholds | None = None,
        rulebook: Rulebook | None = None,
    ) -> None:
        self._policy = policy
        self._registry = registry
        self._grey_band = grey_band
        self._thresholds = thresholds or Thresholds()
        self._book = rulebook or default_rulebook()
        if grey_band is not None:
            grey_band.load()

    def check(self, segments: Sequence[Segment] | str, tenant: Tenant) -> Verdict:
        """The verdict on these segments for this tenant; in mode `off` nothing is looked at."""
        mode = check_mode(self._policy.mode(tenant))
        if mode == "off":
            return ALLOW
        pieces = _segments(segments)
        verdict = judge(self._book, pieces, self._registry, tenant.id, self._thresholds)
        if self._grey_band is not None:
            verdict = self._grey_band.refine(verdict, pieces, tenant)
        return self._capped(verdict, mode, tenant)

    async def acheck(self, segments: Sequence[Segment] | str, tenant: Tenant) -> Verdict:
        """As `check`, with the classifier awaited; the rules themselves take microseconds."""
        mode = check_mode(self._policy.mode(tenant))
        if mode == "off":
            return ALLOW
        pieces = _segments(segments)
        verdict = judge(self._book, pieces, self._registry, tenant.id, self._thresholds)
        if self._grey_band is not None:
            verdict = await self._grey_band.arefine(verdict, pieces, tenant)
        return self._capped(verdict, mode, tenant)

    def enforce(self, segments: Sequence[Segment] | str, tenant: Tenant) -> Verdict:
        """The verdict when the text may go on; raises GuardrailBlocked when it may not."""
        return enforced(self.check(segments, tenant), tenant)

    async def aenforce(self, segments: Sequence[Segment] | str, tenant: Tenant) -> Verdict:
        """As `enforce`, with the classifier awaited."""
        return enforced(await self.acheck(segments, tenant), tenant)

    def _capped(self, verdict: Verdict, mode: str, tenant: Tenant) -> Verdict:
        flag_only = mode == "flag" or tenant.id in self._registry.operators
        return at_most(verdict, "flag") if flag_only else verdict


def judge(
    book: Rulebook, segments: Sequence[Segment], registry: Registry, tenant_id: str | None, thresholds: Thresholds
) -> Verdict:
    """The verdict of the rules alone, before any mode."""
    scans: list[tuple[int, Scan]] = []
    context = 0
    for i, s in enumerate(segments):
        scan = scan_text(book, s.text, registry, tenant_id, s.source, context)
        scans.append((i, scan))
        context |= scan.seen & book.topics if s.source == "user" else 0
    turns = [(i, s.text) for i, s in enumerate(segments) if s.source == "user"]
    for index, text in conversation(turns):
        scans.append(
            (
                index,
                scan_text(book, text, registry, tenant_id, "user", context).without_spans(len(segments[index].text)),
            )
        )
    return _verdict(scans, thresholds)


def _verdict(scans: Iterable[tuple[int, Scan]], thresholds: Thresholds) -> Verdict:
    score, truncated = 0.0, False
    rules: dict[str, None] = {}
    spans: dict[Span, None] = {}
    for index, scan in scans:
        score, truncated = max(score, scan.score), truncated or scan.truncated
        if scan.score >= thresholds.flag:
            rules.update(dict.fromkeys(scan.rules))
            spans.update((Span(start, end, rule, index), None) for start, end, rule in scan.spans)
    verdict = Verdict(thresholds.action(score), round(score, 6), tuple(rules), tuple(spans))
    return at_least(verdict, thresholds.oversize, "oversize") if truncated else verdict


def enforced(verdict: Verdict, tenant: Tenant) -> Verdict:
    """The verdict itself, unless it blocks: then GuardrailBlocked, which names rules and never the text."""
    if verdict.flagged:
        telemetry.guarded(tenant, "input", verdict.action, verdict.rules)
    if not verdict.blocked:
        return verdict
    rule = ",".join(verdict.rules)
    raise GuardrailBlocked(
        f"the input was blocked by a guardrail ({rule}): it reads like a request for another tenant's data or a change "
        "of tenant; ask for your own tenant's data, or have the tier's `guard` set to flag",
        rule=rule,
        tenant_id=tenant.id,
    )


def _segments(segments: Sequence[Segment] | str) -> tuple[Segment, ...]:
    if isinstance(segments, str):
        return (Segment(segments),)
    pieces = tuple(segments)
    for piece in pieces:
        if not isinstance(piece, Segment):
            raise InvalidInput(f"guard segments: expected Segment or one str, got {type(piece).__name__}")
    return pieces
