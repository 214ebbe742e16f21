"""What goes into a guard and what comes out: segments with their source, and a verdict without any of their text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tenant_middleware.errors import InvalidInput

Action = Literal["allow", "flag", "block"]
Source = Literal["user", "retrieved", "tool", "memory", "system"]

ACTIONS: tuple[Action, ...] = get_args(Action)
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt and where it came from: found text may inform an answer, but never instruct the assistant.

    Several `user` segments are the turns of one conversation, oldest first.
    """

    text: str
    source: Source = "user"

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidInput(f"segment text: expected str, got {type(self.text).__name__}")
        if self.source not in SOURCES:
            raise InvalidInput(f"segment source: expected one of {', '.join(SOURCES)}")


@dataclass(frozen=True, slots=True)
class Span:
    """Where a rule matched: offsets into the original text of segment number `segment`."""

    start: int
    end: int
    rule: str
    segment: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a text, how sure the guard is (0..1), and the ids of the rules that say so."""

    action: Action
    score: float = 0.0
    rules: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()

    @property
    def blocked(self) -> bool:
        return self.action == "block"

    @property
    def flagged(self) -> bool:
        """Worth a person's look: everything that isn't plainly allowed, blocked text included."""
        return self.action != "allow"


ALLOW = Verdict("allow")


def worst(*verdicts: Verdict) -> Verdict:
    """One verdict for all: the sternest action, the highest score, every rule and span once."""
    if not verdicts:
        return ALLOW
    return Verdict(
        max((v.action for v in verdicts), key=ACTIONS.index),
        max(v.score for v in verdicts),
        tuple(dict.fromkeys(rule for v in verdicts for rule in v.rules)),
        tuple(dict.fromkeys(span for v in verdicts for span in v.spans)),
    )


def at_most(verdict: Verdict, ceiling: Action) -> Verdict:
    """The same findings with an action no sterner than `ceiling`."""
    if ACTIONS.index(verdict.action) <= ACTIONS.index(ceiling):
        return verdict
    return Verdict(ceiling, verdict.score, verdict.rules, verdict.spans)


def at_least(verdict: Verdict, floor: Action, rule: str) -> Verdict:
    """The same findings and one rule more, with an action no milder than `floor`."""
    action = max(verdict.action, floor, key=ACTIONS.index)
    return Verdict(action, verdict.score, (*verdict.rules, rule), verdict.spans)
