"""The ways to read one text: as written, and as it would read decoded, reversed or spelled with look-alikes.

Views are for matching only. Their number and total length are bounded, so that a nested encoding costs no more than
a fixed multiple of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tenant_middleware.guardrails import decoding, disguises
from tenant_middleware.guardrails.folding import IGNORABLE, clean, fold
from tenant_middleware.guardrails.rulebook import Rulebook

HEAD = 12_000
TAIL = 6_000
DEPTH = 2
EXPANSION = 4
_SLACK = 2_000

Locate = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class View:
    """One reading of a text in folded form; `locate` leads from its offsets back to the original's."""

    text: str
    kind: str
    locate: Locate


def windows(text: str) -> tuple[list[tuple[int, str]], bool]:
    """The parts of a text that are read, with their offsets: all of it, or head and tail of one that is too long."""
    if len(text) <= HEAD + TAIL:
        return [(0, text)], False
    return [(0, text[:HEAD]), (len(text) - TAIL, text[-TAIL:])], True


def plain_view(text: str) -> View:
    """The text as a reader sees it."""
    folded = fold(clean(text))
    return View(folded, "", lambda start, end: _original(text, folded, start, end))


def hidden_views(text: str, plain: View, seen: int, book: Rulebook) -> Iterator[View]:
    """The other readings that this text gives a reason for."""
    budget = EXPANSION * len(text) + _SLACK
    known = {plain.text}
    for kind, reading in _readings(text, plain.text, seen, book, DEPTH):
        folded = fold(reading)
        if folded in known or not folded.strip():
            continue
        budget -= len(folded)
        if budget < 0:
            return
        known.add(folded)
        yield View(folded, kind, _whole(text))


def _readings(text: str, folded: str, seen: int, book: Rulebook, depth: int) -> Iterator[tuple[str, str]]:
    for kind, reading in _once(text, folded, seen, book):
        yield kind, reading
        if depth > 1:
            deeper = fold(reading)
            for inner, again in _readings(reading, deeper, disguises.hints(deeper, book), book, depth - 1):
                yield f"{kind}+{inner}", again


def _once(text: str, folded: str, seen: int, book: Rulebook) -> Iterator[tuple[str, str]]:
    if not text.isascii():
        yield from disguises.unicode_readings(text, folded)
        text = IGNORABLE.sub("", text)
    yield from decoding.decoded(clean(text))
    yield from disguises.spellings(clean(text), folded, seen, book)


def _original(text: str, folded: str, start: int, end: int) -> tuple[int, int]:
    if len(text) == len(folded):
        return start, end
    place, at_start, at_end = 0, 0, len(text)
    for index, char in enumerate(text):
        if place <= start:
            at_start = index
        place += len(fold(char)) if not char.isspace() else 1
        if place >= end:
            at_end = index + 1
            break
    return at_start, at_end


def _whole(text: str) -> Locate:
    """A disguise is reported as a whole: where its words lie within it says nothing to a reader."""
    return lambda start, end: (0, len(text))
