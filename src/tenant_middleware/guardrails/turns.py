"""Attacks spread over turns: the user's turns read as one, and names given earlier put back in place."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WINDOW = 6
_LONGEST = 4_000
_SHORTEST_ALIAS = 1
_NAME = r"[\"'“‘`]?([^\s\"'“”‘’`.,;:!?]{1,40}(?: [A-Z0-9][^\s\"'“”‘’`.,;:!?]{0,40}){0,2})[\"'”’`]?"
_MEANS = (
    rf"(?i:\blet(?:'s)?(?: us)?(?: say)? ){_NAME}(?i: (?:be|mean|means|stand for|denote|represent|refer to) (?:the )?){_NAME}",
    rf"(?i:\b(?:whenever|when|if|each time|every time) i (?:say|write|type|mention|use)(?: the word)? ){_NAME}"
    rf"(?i:,? (?:i mean|it means|that means|read it as|treat it as|think of|interpret it as|you should read|it stands for|understand) (?:the )?){_NAME}",
    rf"(?i:\bby ){_NAME}(?i:,? i(?: will| shall|'ll)? (?:mean|refer to|denote) (?:the )?){_NAME}",
    rf"{_NAME}(?i: (?:means|stands for|shall mean|will mean|denotes|is short for|is a code ?name for|is code for|is an alias for|refers to|"
    rf"will refer to|shall denote|represents|bedeutet|steht für|signifie|significa|désigne|betekent|oznacza|означает) (?:the )?){_NAME}",
    rf"(?i:\b(?:variable|define|set|remember|note|assign):?(?: that)? ){_NAME} ?(?:=|:=|->|:) ?{_NAME}",
    rf"^[ \t]{{0,8}}{_NAME} ?(?:=|:=|->) ?{_NAME}[ \t]{{0,8}}[.;]?[ \t]{{0,8}}$",
)
# Most texts define nothing; one cheap look spares them the patterns below.
_HINT = re.compile(
    r"=|->|(?i:\b(?:variable|define|set|remember|note|assign)\b[^\n]{0,60}:|\b(?:let|let's|by) |\bi (?:say|write|type|mention|use)\b"
    r"|\b(?:means?|stands? for|short for|code(?: ?name)? for|alias|denotes?|represents?|refers? to|bedeutet|steht für|signifie"
    r"|significa|désigne|betekent|oznacza|call|name|nickname|label|abbreviate)\b)|означает"
)
_ALIASES = [re.compile(pattern, re.MULTILINE) for pattern in _MEANS]
# The name first, then what it's called.
_CALLED = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"(?i:\b(?:call|name|nickname|label|refer to|abbreviate) (?:the )?){_NAME}(?i:(?: as|,)? (?:simply |just )?){_NAME}",
        rf"(?i:\b(?:nickname|alias|code ?name|short name|name|word) for (?:the )?){_NAME}(?i: is [\"'“]?(?:the )?){_NAME}",
    )
]


def conversation(turns: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """What else to read when there are several user turns: all of them joined, and the last with its aliases resolved.

    Each is given with the index of the last turn, which it is attributed to.
    """
    if not turns:
        return []
    index, last = turns[-1]
    recent = [text[-_LONGEST:] for _, text in turns[-_WINDOW:]]
    extra: list[str] = []
    if len(recent) > 1:
        extra.append(" ".join(recent))
        pieces = [text.strip(" .…\"'+") for text in recent]
        if all(len(piece) < 160 for piece in pieces):
            extra.append("".join(pieces))
    resolved = resolve(last, aliases(recent))
    if resolved != last:
        extra.append(resolved)
    return [(index, text) for text in extra]


def aliases(texts: Sequence[str]) -> dict[str, str]:
    """Names that a text gives to other names: "let X be Globex", "call Globex the blue one"."""
    found: dict[str, str] = {}
    for text in texts:
        if not _HINT.search(text[:_LONGEST]):
            continue
        for pattern in _ALIASES:
            found.update((m.group(1), m.group(2)) for m in pattern.finditer(text[:_LONGEST]))
        for pattern in _CALLED:
            found.update((m.group(2), m.group(1)) for m in pattern.finditer(text[:_LONGEST]))
    return {alias: name for alias, name in found.items() if len(alias) >= _SHORTEST_ALIAS and alias != name}


def resolve(text: str, known: dict[str, str]) -> str:
    """The text with every alias replaced by what it stands for."""
    for alias, name in list(known.items())[:8]:
        text = re.sub(rf"(?<!\w){re.escape(alias)}(?!\w)", lambda _, name=name: name, text)  # type: ignore[misc]  # mypy sees no default
    return text
