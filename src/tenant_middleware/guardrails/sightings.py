"""Canaries found in a text whatever it was dressed in: one compact form, in every reading the text allows.

The compact form keeps letters and digits only, look-alikes and leet resolved, so that case, spaces, hyphens, line
breaks, markup and invisible characters make no difference.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from tenant_middleware.guardrails import decoding, disguises
from tenant_middleware.guardrails.folding import clean, fold

_DEPTH = 2
# Without any of these there is nothing to decode: a long run, escapes, a row of numbers, letters that aren't ASCII.
_SUSPECT = re.compile(
    r"[^\s]{20}|%[0-9A-Fa-f]{2}|&#?\w{1,8};|\\[uxU]|(?:(?:0x)?[0-9A-Fa-f]{2,8}[ ,;:-]{1,2}){8}|[^\x00-\x7f]"
)
_READINGS = 24
_PIECE = 9
_SAME = str.maketrans("0123456789l", "oizeasgtbgi")


@dataclass(frozen=True, slots=True)
class Sighting:
    """A canary in a text: its compact form, its owner if known, how it was disguised, and where it stands."""

    canary: str
    owner: str | None
    disguise: str
    start: int
    end: int
    genuine: bool = True


@dataclass(frozen=True, slots=True)
class Needle:
    """What to look for in a compact text: a mark, followed by letters that make `length` in all and pass `check`.

    `check` gets the compact canary and answers whether it is genuine and whose it is.
    """

    mark: str
    length: int
    check: Callable[[str], tuple[bool, str | None]]


def literal(canary: str, owner: str) -> list[Needle]:
    """Needles for a canary made elsewhere: the whole of it and, of a long one, each third, so that a torn one counts."""
    whole = compact(canary)
    third = len(whole) // 3
    parts = [whole[:third], whole[third : 2 * third], whole[2 * third :]] if third >= _PIECE else []
    return [Needle(part, len(part), lambda _: (True, owner)) for part in [whole, *parts]]


def compact(text: str) -> str:
    """Letters and digits alone, in the one form that their disguises share."""
    if text.isascii():
        return text.translate(_ascii_table())
    folded = fold(text).translate(disguises.lookalikes())
    return "".join(filter(str.isalnum, folded)).translate(_SAME)


def sightings(text: str, needles: Sequence[Needle]) -> list[Sighting]:
    """Every needle in every reading of the text, each canary once per place."""
    found: dict[tuple[str, int], Sighting] = {}
    for kind, reading in _readings(text):
        squeezed = compact(reading)
        for disguise, form, mirrored in _turned(kind, squeezed):
            for canary, owner, at in _search(form, needles):
                start, end = _place(text, len(squeezed), at, len(canary), mirrored) if not kind else (0, len(text))
                found.setdefault((canary, start if not kind else -1), Sighting(canary, owner, disguise, start, end))
    plain = {s.canary for s in found.values() if s.end - s.start < len(text)}
    return [s for (_, at), s in found.items() if at != -1 or s.canary not in plain]


def narrowed(text: str, found: Sighting, needles: Sequence[Needle]) -> Sighting:
    """The sighting with the smallest stretch of text that still shows it: a disguise is first seen as a whole."""
    if found.end - found.start < len(text):
        return found

    def shown(start: int, end: int) -> bool:
        return any(s.canary == found.canary for s in sightings(text[start:end], needles))

    start = _edge(0, len(text), lambda at: shown(at, len(text)))
    end = -_edge(-len(text), -start, lambda at: shown(start, -at))
    return replace(found, start=start, end=end)


def _edge(low: int, high: int, shows: Callable[[int], bool]) -> int:
    """The last place from which it still shows, by halving; it shows at `low`."""
    while high - low > 1:
        middle = (low + high) // 2
        if shows(middle):
            low = middle
        else:
            high = middle
    return low


def _search(form: str, needles: Sequence[Needle]) -> Iterator[tuple[str, str | None, int]]:
    for needle in needles:
        at = form.find(needle.mark)
        while at >= 0:
            canary = form[at : at + needle.length]
            genuine, owner = needle.check(canary) if len(canary) == needle.length else (False, None)
            if genuine:
                yield canary, owner, at
            at = form.find(needle.mark, at + 1)


def _turned(kind: str, squeezed: str) -> Iterator[tuple[str, str, bool]]:
    yield kind, squeezed, False
    yield _plus(kind, "reversed"), squeezed[::-1], True


def _readings(text: str) -> Iterator[tuple[str, str]]:
    yield "", text
    turned = codecs.encode(clean(text), "rot13")
    yield "rot13", turned
    if not _SUSPECT.search(text):
        return
    seen = {text, turned}
    layer = [("", text)]
    for _ in range(_DEPTH):
        deeper: list[tuple[str, str]] = []
        for kind, reading in layer:
            for inner, again in _once(reading):
                if again not in seen and len(seen) <= _READINGS:
                    seen.add(again)
                    deeper.append((_plus(kind, inner), again))
        yield from deeper
        layer = deeper


def _once(text: str) -> Iterator[tuple[str, str]]:
    if not text.isascii():
        yield from disguises.unicode_readings(text, fold(text))
    cleaned = clean(text)
    yield from decoding.decoded(cleaned)
    yield "reversed", cleaned[::-1]
    yield "rot13", codecs.encode(cleaned, "rot13")


def _plus(kind: str, more: str) -> str:
    return f"{kind}+{more}" if kind else more


def _place(text: str, total: int, at: int, length: int, mirrored: bool) -> tuple[int, int]:
    """Offsets in the text of a stretch of its compact form."""
    if mirrored:
        at = total - at - length
    start, end, kept = 0, len(text), 0
    for index, char in enumerate(text):
        if kept <= at:
            start = index
        kept += len(compact(char))
        if kept >= at + length:
            return start, index + 1
    return start, end


@lru_cache(maxsize=1)
def _ascii_table() -> dict[int, str | None]:
    return {code: chr(code).lower().translate(_SAME) if chr(code).isalnum() else None for code in range(128)}
