"""Many words in one pass: a Rust automaton with the extra `guard`, the same answers from pure Python without it.

A term matches at word boundaries; `tenant*` matches a word's beginning, and scripts written without spaces match
anywhere. An underscore is a boundary, so that `tenant` is found in `tenant_id`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, Protocol

Engine = Literal["auto", "rust", "python"]
Match = tuple[int, int, int]

# Thai, Lao, Khmer, kana, CJK ideographs, Hangul syllables: words aren't set apart (or carry particles).
_UNSPACED = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]")
_WORD_START = re.compile(r"[A-Za-z0-9]+|[^\W_A-Za-z0-9]+")
_KEY = 3


@dataclass(frozen=True, slots=True)
class Term:
    """A literal in folded form and on which sides it needs a word boundary."""

    text: str
    left: bool = True
    right: bool = True

    @classmethod
    def of(cls, written: str) -> Term:
        text = written.rstrip("*")
        free = _UNSPACED.search(text) is not None
        return cls(text, not free, not free and not written.endswith("*"))


class Matcher(Protocol):
    """Finds every term in a folded text, overlaps included, as (index of the term, start, end)."""

    def find(self, text: str) -> list[Match]: ...


def matcher(terms: Sequence[Term], engine: Engine = "auto") -> Matcher:
    """The fastest matcher there is; both give the same matches."""
    if engine == "python" or (engine == "auto" and find_spec("ahocorasick_rs") is None):
        return PythonMatcher(terms)
    return RustMatcher(terms)


class RustMatcher:
    """Aho-Corasick: one pass whatever the number of terms."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = tuple(terms)
        library = import_module("ahocorasick_rs")
        self._automaton = library.AhoCorasick([t.text for t in terms]) if terms else None

    def find(self, text: str) -> list[Match]:
        if self._automaton is None:
            return []
        terms, size = self._terms, len(text)
        found: list[Match] = []
        for match in self._automaton.find_matches_as_indexes(text, overlapping=True):
            index, start, end = match
            term = terms[index]
            # Most matches lie between blanks or inside a longer word: two looks settle them, without a call.
            if (
                (not term.left or not start or not text[start - 1].isalnum())
                and (not term.right or end == size or not text[end].isalnum())
            ) or bounded(term, text, start, end):
                found.append(match)
        return found


class PythonMatcher:
    """Looks terms up by their first letters at each place where one could begin."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = tuple(terms)
        self._words = _by_key((i, t) for i, t in enumerate(terms) if t.left)
        self._free = _by_key((i, t) for i, t in enumerate(terms) if not t.left)
        starts = "".join(sorted({t.text[0] for t in terms if not t.left}))
        self._free_start = re.compile(f"[{re.escape(starts)}]") if starts else None

    def find(self, text: str) -> list[Match]:
        found: list[Match] = []
        if self._words:
            for word in _WORD_START.finditer(text):
                self._at(text, word.start(), self._words, found)
        if self._free_start is not None:
            for place in self._free_start.finditer(text):
                self._at(text, place.start(), self._free, found)
        return sorted(found, key=lambda match: (match[2], match[1]))

    def _at(self, text: str, start: int, table: dict[str, list[int]], found: list[Match]) -> None:
        for length in range(1, _KEY + 1):
            for index in table.get(text[start : start + length], ()) if start + length <= len(text) else ():
                term = self._terms[index]
                end = start + len(term.text)
                if text.startswith(term.text, start) and bounded(term, text, start, end):
                    found.append((index, start, end))


def bounded(term: Term, text: str, start: int, end: int) -> bool:
    """True when the match stands at the word boundaries its term asks for; a change of script is one."""
    if term.left and start and _joins(text[start - 1], text[start]):
        return False
    return not (term.right and end < len(text) and _joins(text[end], text[end - 1]))


def _joins(outer: str, inner: str) -> bool:
    return outer.isalnum() and outer.isascii() == inner.isascii()


def _by_key(terms: Iterable[tuple[int, Term]]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for index, term in terms:
        table.setdefault(term.text[:_KEY], []).append(index)
    return table
