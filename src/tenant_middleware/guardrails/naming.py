"""Names in a text: of registered tenants, and of others that stand where only a tenant's name would stand."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

from tenant_middleware.guardrails.registry import Mention
from tenant_middleware.guardrails.rulebook import Rulebook

Hit = tuple[int, int, int]

_POSSESSED = re.compile(r"'s?\b|'s?(?= )|의|の|的")
_POSSESSING = re.compile(
    r"(?:\b(?:of|owned by|stored by|uploaded by|written by|held by|kept by|signed by|belonging to|belongs to|belong to|inside|into|within|in|under|over at|held for|von|bei|van|bij|av"
    r"|från|af|hos|de|del|de la|du|chez|da|do|di|della|al|lui|firmy|firmie|cég|компании|фирмы|компанії|фирма|της|του|η"
    r"|شركة|شرکت|של|công ty|của|milik|perusahaan|บริษัท)) [\"'“«]?$"
)
_EXCEPT = re.compile(
    r"(?:!=|<>|\$nin?[\"': \[]{1,4}|\b(?:not|except|besides|but|other than|apart from|excluding|isn't|aren't|instead of|rather than|beyond"
    r"|outside|outside of|außer|sauf|excepto|salvo|tranne|behalve|oprócz|кроме))(?: (?:from|of|at|with|by|in))?[ \"'`(]{0,3}$"
)
_AFTER = re.compile(r"(?:[ _-]?(?:id|ID|name|called|named))?[ :=#\"'“«]{1,4}([A-Z][A-Za-z0-9&-]{1,40})")
_BEFORE = re.compile(r"(?<=[a-z,:] )[\"'“«]?([A-Z][A-Za-z0-9&-]{1,40})(?:['’]s?)?[\"'”»]? $")
_VALUE = re.compile(
    r"(?!: [a-z]+ [a-z])(?:[_ -]?id|[_ -]?name|[_ -]?slot)?[\"']? ?(?:=|:|:=|->|=>|==)=? ?[\"']?([A-Za-z0-9][A-Za-z0-9_-]{2,40})(?![.(\[\w])|(?: id)? [\"'“]?([a-z]+[-_]?\d[\w-]*)"
)
# "switch tenant to globex", "the workspace globex-eu": a word that no list knows, where a name would stand.
_LOWER = re.compile(
    r"(?:[_ -](?:id|name|context|scope))?(?: (?:to|is|as|named|called|into|be|for|id|=))? ([a-z][a-z0-9_.-]{2,40})(?![\w.(\[])"
    r"(?=[^\w ]|\s*$| (?:and|then|for|please|so|or|now|to|with|in|as|instead|before|when|pls)\b)"
)
_PATH = re.compile(r"/([A-Za-z0-9][A-Za-z0-9_-]{2,40})")
# "put globex as the account", "with globex as tenant"
_AS = re.compile(
    r"\b(?:put|use|with|set|pass|enter|give|send|take|write) [\"'`]?([a-z0-9][\w.-]{2,40})[\"'`]? (?:as|for|in|into) (?:the |its |your )?$"
)
_PROPER = re.compile(
    r"(?:(?<=[a-z,:;(] )|(?<=[^\x00-\x7f] )|(?<=[^\x00-\x7f\W]))(?<!\bthe )(?<!\ba )(?<!\ban )[\"'“]?([A-Z][A-Za-z0-9&-]*[a-z0-9](?: (?:&|[A-Z][A-Za-z0-9-]*[a-z0-9])){0,3})(?![A-Za-z0-9]|\.[a-z])(?=(['’]s?\b)?)"
)


@lru_cache(maxsize=1)
def _not_names() -> frozenset[str]:
    listed = (files("tenant_middleware.guardrails") / "rules" / "ordinary_names.txt").read_text("utf-8")
    return frozenset(word for line in listed.splitlines() if not line.startswith("#") for word in line.split())


def owning(folded: str, mention: Mention) -> bool:
    """True when the name stands where an owner stands: "Globex's", "of Globex", "in the workspace of Globex"."""
    return (
        _POSSESSED.match(folded, mention.end) is not None
        or _POSSESSING.search(folded, max(0, mention.start - 24), mention.start) is not None
    )


def excluded(folded: str, mention: Mention) -> bool:
    """True when the text wants everybody but this one: "tenant_id != acme", "all customers except Acme"."""
    return _EXCEPT.search(folded, max(0, mention.start - 24), mention.start) is not None


def unregistered(
    book: Rulebook, cased: str, hits: Sequence[Hit], known: list[tuple[int, int]], caller_known: bool, alone: bool
) -> list[Hit]:
    """Names beside a word for tenant or customer, and, when no other tenant is registered (`alone`), capitalised ones.

    Values such as `tenant_id=...` count as names only when the caller is known, since they may be the caller's own.
    """
    tenant, org = book.bit("tenant"), book.bit("org")
    found: list[Hit] = []
    for start, end, mask in hits:
        if not mask & (tenant | org):
            continue
        bit = book.bit("named") if mask & tenant else book.bit("named_org")
        matches = [_BEFORE.search(cased, max(0, start - 40), start), _AFTER.match(cased, end)]
        if caller_known:
            matches += [_VALUE.match(cased, end), _PATH.match(cased, end)]
            placed = _AS.search(cased, max(0, start - 60), start)
            if placed is not None and placed.group(1) not in book.words:
                matches.append(placed)
            unknown = _LOWER.match(cased, end) if mask & tenant else None
            if unknown is not None and unknown.group(1).strip("._-") not in book.words:
                matches.append(unknown)
        found += [(*place, bit) for m in matches if m is not None and (place := _place(cased, m, known))]
    if alone:
        proper, owner = book.bit("proper"), book.bit("proper") | book.bit("proper_owner")
        for match in _PROPER.finditer(cased):
            place = _place(cased, match, known, groups=(1,))
            if place:
                owns = match.group(2) or _POSSESSING.search(cased.lower(), max(0, place[0] - 24), place[0])
                found.append((*place, owner if owns else proper))
    return found


def _place(
    cased: str, match: re.Match[str], known: list[tuple[int, int]], groups: Sequence[int] = (1, 2)
) -> tuple[int, int] | None:
    for group in groups:
        if group <= (match.re.groups) and match.group(group):
            start, end = match.span(group)
            before = bisect_right(known, (start, 1 << 60)) - 1
            part_of_known = before >= 0 and start <= known[before][1] + 1
            if not part_of_known and not _not_names().issuperset(cased[start:end].lower().split()):
                return start, end
    return None
