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
from typing import NamedTuple

from tenant_middleware.isolation.questions.wording import asks, reworded
from tenant_middleware.isolation.questions.words import (
    DIRECTIONS,
    FILLERS,
    MONTHS,
    NEGATIONS,
    NUMBERS,
    OPENERS,
    ORDINALS,
    PERIODS,
    PREPOSITIONS,
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
_SEASON = frozenset(("in", "this", "last", "next", "of", "the", "during", "since", "every"))
_ORDINAL_SUFFIX = frozenset(("st", "nd", "rd", "th"))


@dataclass(frozen=True, slots=True)
class Signature:
    """What must be equal, each in the order in which it is said."""

    numbers: tuple[str, ...]
    dates: tuple[str, ...]
    names: tuple[str, ...]
    negations: int
    directions: tuple[str, ...]
    asks: str

    @property
    def parts(self) -> tuple[object, ...]:
        """The signature as JSON values, for hashing."""
        exact = (self.numbers, self.dates, self.names, self.directions)
        return (*map(list, exact), self.negations, self.asks)


@lru_cache(maxsize=4096)
def signature(text: str) -> Signature:
    """Numbers (spelt or in digits), dates and periods, names, negations, words that turn it round, what it asks for."""
    plain = _plain(text)
    words = _words(reworded(plain))
    return Signature(
        numbers=_numbers(words),
        dates=_dates(words),
        names=_names(plain),
        negations=sum(_negates(word) for word in words),
        directions=(*sorted({turn for word in words if (turn := _turn(word))} | _quantities(words)), *_route(words)),
        asks=asks(words),
    )


def compatible(asked: str, stored: str) -> bool:
    """Whether a near stored question may answer this one."""
    if asked == stored:
        return True
    if signature(asked) != signature(stored):
        return False
    mine, theirs = _said(asked), _said(stored)
    return not _other_filling(mine.content, theirs.content) and not mine.triples & theirs.reversed_triples


def forget() -> None:
    """Drop what is remembered of texts seen before: for measuring."""
    signature.cache_clear()
    _said.cache_clear()


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    return _ISO.sub(lambda m: f"m{int(m[2])} {int(m[3])} {m[1]}", text)


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
    for word, after in zip(words, [*words, ""][1:], strict=True):
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
    for before, word, after in zip(["", *words], words, [*words, ""][1:], strict=False):
        if word in MONTHS and not (word in ("may", "mar", "march") and not _is_month(before, words, word)):
            found.append(MONTHS[word])
        for table in (WEEKDAYS, WHEN, PERIODS):
            if word in table and word not in ("mon", "sat", "sun", "this", "second", "past"):
                if (word == "fall" and before not in _SEASON) or (word == "last" and after == ""):
                    continue  # the verbs: invoices fall due, how long does it last
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


def _turn(word: str) -> str | None:
    return DIRECTIONS.get(word) or _TURNS.get(_stem(word))


def _route(words: Sequence[str]) -> tuple[str, ...]:
    """Where something goes from and to: from savings to checking isn't from checking to savings."""
    if "from" not in words or "to" not in words:
        return ()
    ends = (
        (way, [word for word in words[words.index(way) + 1 :] if word not in FILLERS][:1]) for way in ("from", "to")
    )
    return tuple(f"{way}:{_meaning(end[0])}" for way, end in ends if end)


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


class _Said(NamedTuple):
    """What the words mean that carry meaning of their own, and in threes: server runs database, budget for deadline."""

    content: frozenset[str]
    triples: frozenset[tuple[str, ...]]

    @property
    def reversed_triples(self) -> frozenset[tuple[str, ...]]:
        return frozenset(triple[::-1] for triple in self.triples if triple[::-1] != triple)


@lru_cache(maxsize=4096)
def _said(text: str) -> _Said:
    words = [word for word in _words(reworded(_plain(text))) if word != "_" and not _counted(word)]
    linked = [_meaning(word) for word in words if word not in FILLERS or word in PREPOSITIONS]
    content = frozenset(_meaning(word) for word in words if word not in FILLERS)
    return _Said(content, frozenset(zip(linked, linked[1:], linked[2:], strict=False)))


def _counted(word: str) -> bool:
    """Whether the signature compares this word already, whichever way it is written: 20, twenty, $, March."""
    if word in ("second", "may"):
        return False
    return word[0].isdigit() or any(word in table for table in (NUMBERS, ORDINALS, UNITS, MONTHS))


def _meaning(word: str) -> str:
    return SYNONYMS.get(word) or _MEANINGS.get(_stem(word)) or _stem(word)


def _stem(word: str) -> str:
    """Forms of one word alike: closes, closed, closing; policy, policies; expense, expenses."""
    for suffix, instead in (("ies", "y"), ("ied", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("ly", "")):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith("ss"):
            word = word[: -len(suffix)] + instead
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "lse":
        word = word[:-1]  # planned, plan
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


_TURNS = {_stem(word): turn for word, turn in DIRECTIONS.items()}
_MEANINGS = {_stem(word): meaning for word, meaning in SYNONYMS.items()}


def _other_filling(asked: frozenset[str], stored: frozenset[str]) -> bool:
    """One sentence with another filling, or with a word more: at least half of what they say is the same."""
    if asked == stored:
        return False
    return 2 * len(asked & stored) >= max(len(asked), len(stored))
