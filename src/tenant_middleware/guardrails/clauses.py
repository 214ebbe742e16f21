"""Texts cut into clauses and quotations: an attack is made of words that stand in one clause."""

from __future__ import annotations

import re
from bisect import bisect_right

_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?:\s|$)|[;\n|]+|[。！？；؟۔।።]+|\s[-–—]\s")
_QUOTED = re.compile(
    r"```[^`]{1,4000}```|`[^`\n]{12,600}`|(?<!\":)(?<!\": )\"[^\"\n]{12,800}\"|“[^”]{12,800}”|«[^»]{12,800}»|„[^“”\"]{12,800}[“”\"]"
    r"|「[^」]{5,400}」|『[^』]{5,400}』|(?<![\w])'[^'\n]{12,600}'(?!\w)|‘[^’]{20,600}’|(?m:^ {0,3}>[^\n]{12,800}$)"
)
LONGEST = 480
_WORDS = 1
_MOSTLY = 0.85


def clauses(text: str) -> list[tuple[int, int]]:
    """Start and end of every clause; one without any punctuation is cut at `LONGEST` characters."""
    bounds: list[tuple[int, int]] = []
    start = 0
    for end in [m.end() for m in _END.finditer(text)] + [len(text)]:
        while end - start > LONGEST:
            cut = text.rfind(" ", start + LONGEST // 2, start + LONGEST)
            cut = cut if cut > 0 else start + LONGEST
            bounds.append((start, cut))
            start = cut
        if end > start:
            bounds.append((start, end))
        start = end
    return bounds


def quotations(text: str) -> list[tuple[int, int]]:
    """Start and end of every passage of several words that stands in quotation marks, a code block or a quoted line.

    A name or a value in quotation marks is no quotation, and neither is a text that is nothing else.
    """
    found = [
        m.span()
        for m in _QUOTED.finditer(text)
        if m.group().count(" ") >= _WORDS or not m.group().isascii() or "=" in m.group()
    ]
    return [] if sum(end - start for start, end in found) > _MOSTLY * len(text) else found


def inside(spans: list[tuple[int, int]], place: int) -> bool:
    """True when `place` lies in one of these ordered spans."""
    index = bisect_right(spans, (place, 1 << 60)) - 1
    return index >= 0 and spans[index][0] <= place < spans[index][1]
