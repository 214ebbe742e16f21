"""What kind of answer a question wants, in one wording for many: `at what time` asks when, `the number of` how many.

Without it, `when is the meeting` and `where is the meeting` would be one question: their words differ in nothing that
carries meaning of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from tenant_middleware.isolation.questions.words import AUXILIARIES, BEFORE, DEGREES

Asks = Literal["when", "where", "who", "whose", "why", "how many", "how", "whether", "what"]

HOW_MANY = "howmany"
_BE = r"(?:is|are|was|were|will|'s)"
_ME = r"(?: me| us)?"
_I = r"(?:i|we|you|one)"

_PHRASES = tuple(
    (re.compile(pattern), f" {instead} ")
    for pattern, instead in (
        (rf"\b(?:can|could|would|will) you (?:please )?(?:tell|show|give|explain|list|say|send|name){_ME}\b", ""),
        (r"\b(?:do you know|i(?:'d| would) like to know|i want to know|i wonder|let me know)\b", ""),
        (rf"\b(?:please )?(?:tell|show|give|list|name|send){_ME}(?: all)?\b", ""),
        (r"\b(?:(?:at|on|by|from|since|until) )?(?:what|which) (?:day|date|time)\b", "when"),
        (rf"\b(?:what{_BE}?(?: {_BE})? )?(?:the )?(?:date|day|time) (?:of|when|on which)\b", "when"),
        (rf"\bwhat{_BE}?(?: {_BE})? (?:the |our |your |my )?((?:\w+ )?)(?:date|time) (?:of|for)\b", r"when \1"),
        (r"\b(?:in|at|to) (?:what|which) place\b|\b(?:what|which) place\b", "where"),
        (rf"\bwhat{_BE}?(?: {_BE})? the (?:address|location) of\b", "where"),
        (r"\b(?:what|which) (?:person|people|employee|colleague)\b|\bwhom\b", "who"),
        (r"\bwho (?:is|are|was|were) the (?:person|people|one|ones) (?:that|who)\b", "who"),
        (rf"(?:^|\bwhat{_BE}?(?: {_BE})? )(?:the |a )?(?:total |overall )?number of\b", HOW_MANY),
        (r"\bwhat number of\b|\bhow many\b|\bhow large a number of\b", HOW_MANY),
        (rf"\bhow (?:high|big|large|much) {_BE}\b", "what"),
        (
            rf"\bwhat{_BE}?(?: {_BE})? (?:the )?(?:best |right )?(?:way|ways|steps?|procedure|process) (?:to|for)\b",
            "how",
        ),
        (rf"\bwhat (?:do|must|should|can|would) {_I} (?:have to |need to )?do (?:in order )?(?:to|for)\b", "how"),
        (r"\b(?:in|by) (?:what|which) way\b|\bin what manner\b", "how"),
        (
            r"\bhow (?:does|would) (?:it|that|this) work\b|\bhow (?:do|can|should) (?:i|we) do (?:it|that|this|so)\b",
            "how",
        ),
        (
            rf"\b(?:is it possible|is there a way)(?: for (?:me|us|you|a \w+))? to\b|\b(?:am|are|is) {_I} able to\b",
            "can",
        ),
        (rf"\bwould it be possible(?: for (?:me|us))? to\b|\b(?:am|are) {_I} allowed to\b", "can"),
    )
)
_WH: dict[str, Asks] = {
    "when": "when",
    "where": "where",
    "who": "who",
    "who's": "who",
    "whose": "whose",
    "why": "why",
    HOW_MANY: "how many",
    "what": "what",
    "what's": "what",
    "which": "what",
    "when's": "when",
    "where's": "where",
}


def reworded(text: str) -> str:
    """The text in lower case, with the many ways to put one question replaced by one."""
    low = text.casefold()
    for pattern, instead in _PHRASES:
        low = pattern.sub(instead, low)
    return low


def asks(words: Sequence[str]) -> Asks:
    """The kind of answer that a reworded question wants; whatever is no question at all wants a `what`."""
    rest = [word for word in words if word not in BEFORE]
    if rest and rest[0] in AUXILIARIES:
        return "whether"
    for word, after in zip(rest, [*rest, ""][1:], strict=True):
        if word in _WH:
            return _WH[word]
        if word in ("how", "how's"):
            return "what" if after in DEGREES else "how"  # how long asks for a value, as what length does
    return "what"
