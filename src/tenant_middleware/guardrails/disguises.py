"""Spellings that hide words from a machine: look-alikes, invisible letters, spaced letters, leet, rot13, reversal."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.resources import files

from tenant_middleware.guardrails.folding import IGNORABLE, fold
from tenant_middleware.guardrails.rulebook import Rulebook

_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_SPACED = re.compile(r"(?<!\S)\S(?: {1,3}\S(?!\S)){4,4000}")
_GAPS = re.compile(r" {2,3}")
_GLUED = re.compile(r"(?<!\S)[^\s](?:([-_.*~|^'`/+,:])[^\s])(?:\1[^\s]){1,60}\1?(?!\S)")
_WORD = re.compile(r"[a-z']{2,24}")
_CHAINED = re.compile(r"(?<![^\W_])[^\W_]{1,40}(?:[-_.+/][^\W_]{1,40}){3,60}")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LEET_TOKEN = re.compile(r"[a-z0-9@$!|+€]{2,40}")
_LEET_HINT = re.compile(r"[a-z][0-9@$!|+€]{1,2}[a-z]|(?:^|[^a-z0-9])[0-9@$|€][a-z]")
_LEET = str.maketrans({"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "@": "a", "$": "s", "!": "i",
                       "|": "l", "+": "t", "€": "e", "6": "g", "9": "g"})  # fmt: skip
_LEET_L = _LEET | {ord("1"): "l", ord("!"): "l"}
_LONG_WORD = re.compile(r"[a-z]{16,400}")
_GLUE = 0.3
_STRANGE, _GAIN = 0.6, 0.25
_SAMPLE = 240
_SEGMENTED = 1_500
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
    familiar = _familiar(folded, book) if folded.isascii() else 1.0
    for kind, hint, turn in _TURNS:
        if seen & book.bit(hint) or (familiar < _STRANGE and _familiar(turn(folded), book) > familiar + _GAIN):
            yield kind, turn(folded)
    if _covers(_CHAINED, text):
        yield "chained", _CHAINED.sub(lambda m: re.sub(r"[-_.+/]", " ", _CAMEL.sub(" ", m.group())), text)
    if _covers(_GLUED, text, _GLUE):
        yield "glued", _GLUED.sub(lambda m: m.group()[::2], text)
    if _covers(_LONG_WORD, folded):
        head = _CAMEL.sub(" ", text[:_SEGMENTED]).lower()
        yield "closed", _LONG_WORD.sub(lambda m: segmented(m.group(), book), head)
    yield from _leet(folded)


def _covers(pattern: re.Pattern[str], text: str, share: float = _COVER) -> bool:
    """True when a good part of the text is of this kind: single long words are ordinary."""
    return sum(m.end() - m.start() for m in pattern.finditer(text)) > share * len(text)


def _familiar(text: str, book: Rulebook) -> float:
    """The share of the words that are known ones; 1 when there are too few to tell."""
    words = _WORD.findall(text[:_SAMPLE])
    return sum(w in book.words for w in words) / len(words) if len(words) > 2 else 1.0


def _each_word(text: str) -> str:
    return " ".join(word[::-1] for word in text.split())


_TURNS: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("rot13", "rot13_hint", lambda t: codecs.decode(t, "rot13")),
    ("reversed", "reversed_hint", lambda t: t[::-1]),
    ("reversed-words", "reversed_words", _each_word),
)


def _selected(char: str) -> int:
    code = ord(char)
    return code - 0xFE00 if code < 0xFE10 else code - 0xE0100 + 16


def _leet(folded: str) -> Iterator[tuple[str, str]]:
    if not _LEET_HINT.search(folded):
        return
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
    if _GAPS.search(run):
        return " ".join(word.replace(" ", "") for word in _GAPS.split(run))
    closed = run.replace(" ", "")
    if len(closed) < 10:
        return closed
    return segmented(closed[:_SEGMENTED].lower(), book) + closed[_SEGMENTED:]


def segmented(run: str, book: Rulebook) -> str:
    """Words put apart that were written without spaces: as few letters as can be belong to no known word."""
    words, longest = book.words, book.longest_word
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # letters left over, words, where the last piece begins
    for end in range(1, len(run) + 1):
        left, count, _ = best[end - 1]
        choice = (left + 1, count, end - 1)
        for start in range(max(0, end - longest), end - 1):
            if run[start:end] in words:
                left, count, _ = best[start]
                choice = min(choice, (left, count + 1, start))
        best.append(choice)
    pieces: list[str] = []
    end = len(run)
    while end:
        start = best[end][2]
        if end - start == 1 and pieces and not pieces[-1].startswith(" "):
            pieces[-1] = run[start:end] + pieces[-1]
        else:
            pieces.append(run[start:end] if end - start == 1 else f" {run[start:end]}")
        end = start
    return " ".join(piece.strip() for piece in reversed(pieces))


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
