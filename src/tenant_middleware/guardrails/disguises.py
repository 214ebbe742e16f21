"""Spellings that hide words from a machine: look-alikes, invisible letters, spaced letters, leet, rot13, reversal."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files

from tenant_middleware.guardrails.folding import IGNORABLE, fold
from tenant_middleware.guardrails.rulebook import Rulebook

_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_SPACED = re.compile(r"(?<![^\W_])[^\W_](?:[ ._*|/,~+\-]{1,3}[^\W_](?![^\W_])){4,4000}")
_GAPS = re.compile(r"[ ._*|/,~+\-]{2,3}")
_FILLER = re.compile(r"[ ._*|/,~+\-]")
_GLUED = re.compile(r"(?<=[a-z])[-_.*~|^'`](?=[a-z])")
_CHAINED = re.compile(r"(?<![^\W_])[^\W_]{1,40}(?:[-_.+/][^\W_]{1,40}){3,60}")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LEET_TOKEN = re.compile(r"[a-z0-9@$!|+€]{2,40}")
_LEET = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "@": "a", "$": "s", "!": "i",
                       "|": "l", "+": "t", "€": "e", "6": "g", "9": "g"})  # fmt: skip
_LEET_L = _LEET | {ord("1"): "l", ord("!"): "l"}
_LONG_WORD = re.compile(r"[a-z]{16,400}")
_GLUE = 0.1
_LEET_SHARE = 0.15
_COVER = 0.35
_REGIONAL = {0x1F1E6 + i: chr(97 + i) for i in range(26)}
_BOXED = {start + i: chr(97 + i) for start in (0x1F130, 0x1F150, 0x1F170) for i in range(26)}


def hints(folded: str, book: Rulebook) -> int:
    """The categories that tell of rot13 or reversal, for a reading that hasn't been scored."""
    wanted = book.bit("rot13_hint") | book.bit("reversed_hint")
    mask = 0
    for index, _, _ in book.matcher.find(folded):
        mask |= book.term_masks[index]
    return mask & wanted


def unicode_readings(text: str, folded: str) -> Iterator[tuple[str, str]]:
    """Text in tag characters, in variation selectors, between bidi controls, and in look-alike letters."""
    tags = " ".join("".join(chr(ord(c) - 0xE0000) for c in m.group()) for m in _TAGS.finditer(text))
    if len(tags) > 6:
        yield "tags", tags
    for match in _SELECTORS.finditer(text):
        said = bytes(_selected(c) for c in match.group()).decode("utf-8", "replace")
        yield "selectors", said
    if _BIDI.search(text):
        yield "bidi", _BIDI.sub("", text)[::-1]
    skeleton = folded.translate(lookalikes())
    if skeleton != folded:
        yield "lookalikes", skeleton
    if IGNORABLE.search(text):
        spaced = IGNORABLE.sub(" ", text)
        yield "invisible", spaced


def spellings(text: str, folded: str, seen: int, book: Rulebook) -> Iterator[tuple[str, str]]:
    """The readings of spelled-out, glued, leet, rotated and reversed text that its look gives a reason for."""
    if _SPACED.search(text):
        yield "spaced", _SPACED.sub(lambda m: f" {_unspaced(m.group(), book)} ", text)
    if seen & book.bit("rot13_hint"):
        yield "rot13", codecs.decode(folded, "rot13")
    if seen & book.bit("reversed_hint"):
        yield "reversed", folded[::-1]
    if _covers(_CHAINED, text):
        yield "chained", _CHAINED.sub(lambda m: re.sub(r"[-_.+/]", " ", _CAMEL.sub(" ", m.group())), text)
    if len(_GLUED.findall(folded)) > max(3, _GLUE * len(folded)):
        yield "glued", _GLUED.sub("", folded)
    if _covers(_LONG_WORD, folded):
        yield "closed", _LONG_WORD.sub(lambda m: segmented(m.group(), book), _CAMEL.sub(" ", text).lower())
    yield from _leet(folded)


def _covers(pattern: re.Pattern[str], text: str) -> bool:
    """True when a good part of the text is of this kind: single long words are ordinary."""
    return sum(m.end() - m.start() for m in pattern.finditer(text)) > _COVER * len(text)


def _selected(char: str) -> int:
    code = ord(char)
    return code - 0xFE00 if code < 0xFE10 else code - 0xE0100 + 16


def _leet(folded: str) -> Iterator[tuple[str, str]]:
    changed = 0

    def plain(match: re.Match[str]) -> str:
        nonlocal changed
        token = match.group()
        letters = sum(c.isalpha() for c in token)
        if letters in (0, len(token)) or letters * 4 < len(token):
            return token
        changed += 1
        return token.translate(table)

    for table in (_LEET, _LEET_L):  # noqa: B007  read by `plain`
        reading = _LEET_TOKEN.sub(plain, folded)
        if changed < 2 or changed < _LEET_SHARE * len(folded.split()):
            return
        yield "leet", reading


def _unspaced(run: str, book: Rulebook) -> str:
    """Letters closed up again; wider gaps are word gaps, and without any the words are found by the lexicon."""
    if _GAPS.search(run) and _GAPS.search(run).group() != run[1:3]:  # type: ignore[union-attr]  # searched before
        return " ".join(_FILLER.sub("", word) for word in _GAPS.split(run))
    closed = _FILLER.sub("", run)
    return segmented(closed.lower(), book) if len(closed) > 9 else closed


def segmented(run: str, book: Rulebook) -> str:
    """Words put apart that were written without spaces, longest known word first."""
    words, longest = book.words, book.longest_word
    out: list[str] = []
    unknown, place = "", 0
    while place < len(run):
        for length in range(min(longest, len(run) - place), 1, -1):
            if run[place : place + length] in words:
                out += [unknown, run[place : place + length]] if unknown else [run[place : place + length]]
                unknown, place = "", place + length
                break
        else:
            unknown, place = unknown + run[place], place + 1
    return " ".join([*out, unknown] if unknown else out)


@lru_cache(maxsize=1)
def lookalikes() -> dict[int, str]:
    """Unicode TR39 look-alikes of ASCII letters and digits, and letters in boxes and flags."""
    table: dict[int, str] = {**_REGIONAL, **_BOXED}
    text = (files("tenant_middleware.guardrails") / "rules" / "lookalikes.txt").read_text("utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            letter, codes = line.split(" ", 1)
            for code in codes.split():
                table.setdefault(int(code, 16), letter)
    for char in "0123456789abcdefghijklmnopqrstuvwxyz":
        table.pop(ord(char), None)
    return {code: fold(letter) for code, letter in table.items()}
