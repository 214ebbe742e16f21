"""Pairs of questions for the semantic cache: near misses, which must not share an answer, and paraphrases, which may.

Made from wordings written by hand for this, filled with years, months, names, amounts and so on; seeded, so that every
run has the same 500 of each. The matching rules were tuned on other wordings (`tuning.txt`), which aren't measured.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

SLOTS: dict[str, tuple[str, ...]] = {
    "year": tuple(str(year) for year in range(2016, 2026)),
    "month": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
    "name": (
        "Anna Schmidt",
        "Boris",
        "Chen Wei",
        "Fatima",
        "Giulia Rossi",
        "Hiroshi",
        "Ms Okafor",
        "Peter",
        "Priya",
        "Tom",
    ),
    "city": ("Berlin", "Lisbon", "Nairobi", "Osaka", "Toronto", "Vienna"),
    "plan": ("Basic", "Premium", "Team", "Business", "Starter", "Enterprise"),
    "product": ("Excel", "Slack", "Salesforce", "Outlook", "Jira"),
    "count": ("3", "5", "ten", "12", "20", "25", "30", "fifty", "90", "100", "250"),
    "amount": (
        "$50",
        "$500",
        "20 euros",
        "200 euros",
        "1,000 USD",
        "10,000 USD",
        "75 pounds",
        "$1.5 million",
        "$15 million",
    ),
    "percent": ("5%", "10%", "15 percent", "50%", "2.5%"),
}
KINDS = ("years", "months", "names", "negation", "amounts")
_KIND_OF = {
    "year": "years",
    "month": "months",
    **dict.fromkeys(("name", "city", "plan", "product"), "names"),
    **dict.fromkeys(("count", "amount", "percent"), "amounts"),
}
_SLOT = re.compile(r"\{(\w+)\}")
_HERE = Path(__file__).parent


class Pair(NamedTuple):
    """A question that is stored, one that is asked, and what makes them differ."""

    kind: str
    stored: str
    asked: str


def near_misses(each: int = 100, *, seed: int = 2026, source: str = "intents.txt") -> list[Pair]:
    """`each` pairs of every kind: half in the same words, half worded differently too; all need two answers."""
    dice = random.Random(seed)
    made = []
    for kind in KINDS:
        found = list(_negations(dice) if kind == "negation" else _fillings(kind, dice, source))
        made += _sample(found, each, dice)
    return made


def paraphrases(count: int = 500, *, seed: int = 2026, source: str = "intents.txt") -> list[Pair]:
    """Pairs of wordings of one question, as many of each intent as of another."""
    dice = random.Random(seed)
    intents = _lines(source)
    found: list[Pair] = []
    while len(found) < count:
        for wordings in intents:
            filling = _filling(wordings[0], dice)
            one, other = dice.sample(wordings, 2)
            found.append(Pair("paraphrase", one.format(**filling), other.format(**filling)))
        found = list(dict.fromkeys(found))
    dice.shuffle(found)
    return found[:count]


def other_objects() -> list[Pair]:
    """Pairs that ask about two things, such as two addresses or two meals: near misses of no kind named above."""
    return [Pair("object", *pair) for pair in _lines("objects.txt")]


def _lines(name: str) -> list[list[str]]:
    lines = (_HERE / name).read_text(encoding="utf-8").splitlines()
    return [[part.strip() for part in line.split("|")] for line in lines if line and not line.startswith("#")]


def _slots_of(wording: str) -> list[str]:
    return _SLOT.findall(wording)


def _filling(wording: str, dice: random.Random) -> dict[str, str]:
    return {name: dice.choice(SLOTS[name]) for name in _slots_of(wording)}


def _fillings(kind: str, dice: random.Random, source: str) -> Iterator[Pair]:
    for wordings in _lines(source):
        for slot in (name for name in _slots_of(wordings[0]) if _KIND_OF[name] == kind):
            for mine, theirs in combinations(SLOTS[slot], 2):
                one, other = dice.choice(wordings), dice.choice(wordings)
                same = dice.random() < 0.5
                yield Pair(kind, one.format(**{slot: mine}), (one if same else other).format(**{slot: theirs}))


def _negations(dice: random.Random) -> Iterator[Pair]:
    for plain, negated in _lines("negations.txt"):
        for _ in range(len(SLOTS["year"]) if _slots_of(plain) else 1):
            filling = _filling(plain, dice)
            pair = [plain.format(**filling), negated.format(**filling)]
            dice.shuffle(pair)
            yield Pair("negation", *pair)


def _sample(pairs: Sequence[Pair], count: int, dice: random.Random) -> list[Pair]:
    different = list(dict.fromkeys(pairs))
    if len(different) < count:
        raise ValueError(f"only {len(different)} of {count} pairs: write more wordings")
    return dice.sample(different, count)
