"""One folded form for matching: compatibility forms, case, accents and invisible characters are gone.

Folded text is only looked at, never sent onward: joiners and mixed scripts are ordinary in emoji, Persian and Hindi.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Default-ignorable code points and bidi controls: invisible, and so a hiding place.
IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U000e0000-\U000e0fff]"
)
# Accents of Latin, Greek and Cyrillic, Arabic vowel signs and tatweel, Hebrew points; Indic vowel signs carry meaning and stay.
_MARKS = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f\u0640\u064b-\u065f\u0670\u0591-\u05c7]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_WRAPPED = re.compile(r"(?<=[A-Za-z,]) ?\n(?=[a-z])")
_BLANKS = re.compile(r"[ \t]{2,}|\t")
_LETTERS = str.maketrans({"ı": "i", "ł": "l", "ø": "o", "đ": "d", "ß": "ss", "æ": "ae", "œ": "oe", "’": "'", "‘": "'", "ʼ": "'", "ي": "ی",
                          "ك": "ک", "ى": "ی", "أ": "ا", "إ": "ا", "آ": "ا", "ة": "ه", "–": "-", "—": "-"})  # fmt: skip


@lru_cache(maxsize=1)
def _long_runs() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.combining(chr(code)))
    return re.compile(f"([{marks}]{{4}})[{marks}]+")


def clean(text: str) -> str:
    """Text that every library accepts: a lone surrogate becomes the replacement character, controls become spaces."""
    if text.isascii():
        return _CONTROLS.sub(" ", text)
    return _CONTROLS.sub(" ", _SURROGATES.sub("\ufffd", text))


def fold(text: str) -> str:
    """The form in which words are looked for."""
    if "\n" in text:
        text = _WRAPPED.sub(" ", text)
    if not text.isascii():
        text = unfold_marks(IGNORABLE.sub("", text))
    text = text.lower()
    return _BLANKS.sub(" ", text) if "  " in text or "\t" in text else text


def unfold_marks(text: str) -> str:
    """Compatibility forms and accents resolved; composed again, since Hangul falls apart otherwise."""
    # Normalisation sorts a run of marks by insertion: unbounded runs would make it quadratic.
    text = _long_runs().sub(r"\1", _MARKS.sub("", text))
    apart = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", _MARKS.sub("", apart)).casefold().translate(_LETTERS)
