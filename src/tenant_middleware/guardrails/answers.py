"""What an answer gives away besides canaries: another tenant's registered id, or the system prompt."""

from __future__ import annotations

import re
from collections.abc import Callable

from tenant_middleware import telemetry
from tenant_middleware.guardrails.folding import fold
from tenant_middleware.guardrails.registry import Registry
from tenant_middleware.guardrails.verdict import ALLOW, Span, Verdict, worst
from tenant_middleware.tenant import Tenant

SHINGLE = 8
FOREIGN_ID, SYSTEM_PROMPT = "foreign-identifier", "system-prompt"
_SCORE = 0.5
_WORD = re.compile(r"\w+")


def check_answer(answer: str, tenant_id: str, registry: Registry, system_prompt: str | None = None) -> Verdict:
    """Flags, and never blocks: an answer may name another tenant for good reason, but somebody should look.

    Ids count as registered, letter by letter; company names don't, since they may be the tenant's own customers.
    """
    found = [_foreign_ids(answer, tenant_id, registry)]
    if system_prompt:
        found.append(_leaked(answer, system_prompt))
    return worst(*found)


class AnswerGuard:
    """`check_answer` for the adapters: what it flags is counted and told to `on_flag(tenant, verdict)`; the answer goes on.

    It is opt-in and never stops an answer, so a streamed one isn't held back: it is looked at when it is complete.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        on_flag: Callable[[Tenant, Verdict], None] | None = None,
        system_prompt: str | None = None,
    ) -> None:
        self._registry = registry
        self._on_flag = on_flag
        self._system_prompt = system_prompt

    def check(self, answer: str, tenant: Tenant) -> Verdict:
        """The verdict on a whole answer to this tenant."""
        verdict = check_answer(answer, tenant.id, self._registry, self._system_prompt)
        if verdict.flagged:
            telemetry.guarded(tenant, "answer", verdict.action, verdict.rules)
            if self._on_flag is not None:
                self._on_flag(tenant, verdict)
        return verdict


def _foreign_ids(answer: str, tenant_id: str, registry: Registry) -> Verdict:
    foreign = {known.id for known in registry.known} - {tenant_id}
    spans = [m.span() for m in re.finditer(r"[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]", answer) if m.group() in foreign]
    if not spans:
        return ALLOW
    return Verdict("flag", _SCORE, (FOREIGN_ID,), tuple(Span(start, end, FOREIGN_ID) for start, end in spans))


def _leaked(answer: str, system_prompt: str) -> Verdict:
    """Eight words in a row that the system prompt has too: by chance that doesn't happen."""
    told = _words(system_prompt)
    size = min(SHINGLE, len(told))
    shingles = {tuple(told[i : i + size]) for i in range(len(told) - size + 1)} if size else set()
    said = _words(answer)
    if size and any(tuple(said[i : i + size]) in shingles for i in range(len(said) - size + 1)):
        return Verdict("flag", _SCORE, (SYSTEM_PROMPT,), (Span(0, len(answer), SYSTEM_PROMPT),))
    return ALLOW


def _words(text: str) -> list[str]:
    return _WORD.findall(fold(text))
