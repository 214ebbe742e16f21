"""Whether two near questions may have one answer: numbers, dates, names, negation and direction must agree.

Embeddings put "revenue in 2023" and "revenue in 2024", or "can" and "can not cancel", closer together than many true
paraphrases. So nearness is asked only among questions with the same `signature`, and `compatible` then refuses those
that are one sentence with another filling. Both err towards a miss, which costs a model call; a false hit costs trust.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tenant_middleware.isolation.words import (
    DIRECTIONS,
    FILLERS,
    MONTHS,
    NEGATIONS,
    NUMBERS,
    OPENERS,
    ORDINALS,
    PERIODS,
    QUANTIFIERS,
    SYNONYMS,
    UNITS,
    WEEKDAYS,
    WHEN,
)

_WORD = re.compile(r"[$€£¥₹%]|\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|_")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")
_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_CODE = re.compile(r"\b(?=[\w-]*\d)(?=[\w-]*[^\W\d_])[\w]+(?:-[\w]+)*\b|\b[^\W\d_]+(?:-\d[\w-]*)\b")
_SENTENCE = re.compile(r"[.!?:;]\s+|\n+")
_SCALES = {"k": 1_000, "thousand": 1_000, "m": 1_000_000, "million": 1_000_000, "bn": 10**9, "billion": 10**9}
_CURRENCIES = frozenset(("usd", "eur", "gbp", "jpy", "inr"))
_ORDINAL_SUFFIX = frozenset(("st", "nd", "rd", "th"))


@dataclass(frozen=True, slots=True)
class Signature:
    """What must be equal, each in the order in which it is said."""

    numbers: tuple[str, ...]
    dates: tuple[str, ...]
    names: tuple[str, ...]
    negations: int
    directions: tuple[str, ...]

    @property
    def parts(self) -> tuple[object, ...]:
        """The signature as JSON values, for hashing."""
        return (list(self.numbers), list(self.dates), list(self.names), self.negations, list(self.directions))


@lru_cache(maxsize=4096)
def signature(text: str) -> Signature:
    """Numbers (spelt or in digits), dates and periods, names, negations and words that turn a question round."""
    plain = _plain(text)
    words = _words(plain)
    return Signature(
        numbers=_numbers(words),
        dates=_dates(words),
        names=_names(plain),
        negations=sum(_negates(word) for word in words),
        directions=tuple(sorted({DIRECTIONS[w] for w in words if w in DIRECTIONS} | _quantities(words))),
    )


def compatible(asked: str, stored: str) -> bool:
    """Whether a near stored question may answer this one."""
    if asked == stored:
        return True
    return signature(asked) == signature(stored) and not _other_filling(_content(asked), _content(stored))


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    return _ISO.sub(lambda m: f"{m[1]} m{int(m[2])} {int(m[3])}", text)


def _words(plain: str) -> list[str]:
    lowered = re.sub(r"\b(m(?:1[0-2]|[1-9])|[qh][1-4])\b", _letters, plain.casefold())
    return [_restore(_stem_possessive(word)) for word in _WORD.findall(lowered)]


def _letters(match: re.Match[str]) -> str:
    """`m3` and `q1` as one word each, which the word pattern would split."""
    return "".join(chr(ord("a") + int(c)) if c.isdigit() else f"zz{c}" for c in match[1])


def _restore(word: str) -> str:
    if word.startswith("zz") and len(word) > 3:
        return word[2] + "".join(str(ord(c) - ord("a")) for c in word[3:])
    return word


def _stem_possessive(word: str) -> str:
    return word[:-2] if word.endswith("'s") else word


def _numbers(words: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word[0].isdigit():
            found.append(_digits(word) + ("th" if after in _ORDINAL_SUFFIX else ""))
        elif word in NUMBERS and not (found and word in _SCALES):
            found.append(NUMBERS[word])
        elif word in ORDINALS and word != "second":
            found.append(ORDINALS[word])
        elif word in UNITS and word not in _SCALES:
            found.append(UNITS[word])
        if found and word in _SCALES and found[-1][0].isdigit():
            found[-1] = _scaled(found[-1], _SCALES[word])
    return _currency_last(found)


def _digits(word: str) -> str:
    if _GROUPED.match(word):
        word = word.replace(",", "")
    if word.count(".") == 1 and word.replace(".", "").isdigit():
        word = word.rstrip("0").rstrip(".")
    return word.lstrip("0") or "0"


def _scaled(number: str, scale: int) -> str:
    try:
        return f"{float(number) * scale:.10g}"
    except ValueError:
        return f"{number}*{scale}"


def _currency_last(found: list[str]) -> tuple[str, ...]:
    """`$ 5` and `5 dollars` alike."""
    out: list[str] = []
    waiting = ""
    for item in found:
        if item in _CURRENCIES and not (out and out[-1][0].isdigit() and not waiting):
            waiting = item
            continue
        out.append(item)
        if waiting and item[0].isdigit():
            out.append(waiting)
            waiting = ""
    return tuple([*out, waiting] if waiting else out)


def _dates(words: Sequence[str]) -> tuple[str, ...]:
    found = []
    for before, word in zip(["", *words[:-1]], words, strict=True):
        if word in MONTHS and not (word in ("may", "mar", "march") and not _is_month(before, words, word)):
            found.append(MONTHS[word])
        for table in (WEEKDAYS, WHEN, PERIODS):
            if word in table and word not in ("mon", "sat", "sun", "this", "second", "past"):
                found.append(table[word])
    return tuple(sorted(found))


def _is_month(before: str, words: Sequence[str], word: str) -> bool:
    """`may` is a verb unless something beside it says month."""
    if word != "may":
        return True
    place = words.index(word)
    after = words[place + 1] if place + 1 < len(words) else ""
    return (
        before in {"in", "of", "by", "until", "since", "last", "next", "this", "for", "during", "from", "to", "and"}
        or after[:1].isdigit()
        or before[:1].isdigit()
    )


def _names(plain: str) -> tuple[str, ...]:
    found: list[str] = [code.casefold() for code in _CODE.findall(plain) if not _ordinary(code)]
    for sentence in _SENTENCE.split(plain):
        for place, word in enumerate(re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", sentence)):
            if word[0].isupper() and not _common(word, opening=place == 0):
                found.append(_stem_possessive(word.casefold()))
    return tuple(found)


def _ordinary(code: str) -> bool:
    """Codes such as `INV-7` are names; `m3`, `5th`, `20k` and `2gb` are dates and amounts."""
    low = code.casefold()
    return bool(re.fullmatch(r"m\d{1,2}|[qh][1-4]|\d+(?:st|nd|rd|th|k|m|bn|gb|mb|tb|kg|km|g|cm)", low))


def _common(word: str, *, opening: bool) -> bool:
    low = word.casefold()
    if low in ("i", "i'm", "i'd", "i've", "i'll"):
        return True
    if low in MONTHS or low in WEEKDAYS or low in UNITS:
        return True
    return opening and low in OPENERS


def _negates(word: str) -> bool:
    return word in NEGATIONS or word.endswith("n't")


def _quantities(words: Sequence[str]) -> set[str]:
    asked = {i + 1 for i, word in enumerate(words) if word == "how"}  # how many, how much
    return {QUANTIFIERS[word] for i, word in enumerate(words) if word in QUANTIFIERS and i not in asked}


def _content(text: str) -> list[str]:
    return [_meaning(word) for word in _words(_plain(text)) if word not in FILLERS and word != "_"]


def _meaning(word: str) -> str:
    if word in SYNONYMS:
        return SYNONYMS[word]
    stem = _stem(word)
    return SYNONYMS.get(stem, stem)


def _stem(word: str) -> str:
    for suffix in ("ing", "ied", "ies", "ed", "es", "s", "ly"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)]
    return word


def _other_filling(asked: list[str], stored: list[str]) -> bool:
    """One sentence with another filling: the same words around a place where different ones stand."""
    head = _common_run(asked, stored)
    tail = _common_run(asked[head:][::-1], stored[head:][::-1])
    mine, theirs = asked[head : len(asked) - tail], stored[head : len(stored) - tail]
    if sorted(mine) == sorted(theirs):
        return False
    if set(asked) == set(stored):
        return False
    longest = max(len(asked), len(stored))
    return 2 * (head + tail) >= longest


def _common_run(a: Sequence[str], b: Sequence[str]) -> int:
    run = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        run += 1
    return run
