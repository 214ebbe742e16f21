"""The tenants a platform knows, by every name a person would use: the signal that generic guards don't have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tenant_middleware.errors import InvalidInput
from tenant_middleware.guardrails.folding import fold
from tenant_middleware.guardrails.matching import Engine, Term, matcher

_LEGAL = re.compile(
    r"[\s,.]+(inc|incorporated|llc|llp|ltd|limited|plc|corp|corporation|company|co|gmbh|ag|kg|se|sa|sas|sarl|srl|spa|bv|nv|ab|as|"
    r"oy|aps|kft|zrt|sp z o o|pty|pte|kk|holding|holdings|group)\.?$"
)
_SEPARATORS = re.compile(r"[-_.\s]+")
_SHORTEST = 3


@dataclass(frozen=True, slots=True)
class Known:
    """A tenant's id and the names people call it by: company name, domain, aliases."""

    id: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mention:
    """A tenant named in a text: `own` when it is the caller's."""

    start: int
    end: int
    own: bool


Describable = Known | str | Sequence[str | Sequence[str]] | Mapping[str, object]


class Registry:
    """Known tenants and, among them, `operators`: ids of tenants that may act across others (their text is only flagged).

    A name that the caller shares with another tenant counts as the caller's: spelling alone accuses nobody.
    """

    def __init__(
        self, known: Iterable[Describable] = (), *, operators: Iterable[str] = (), engine: Engine = "auto"
    ) -> None:
        self.known = tuple(describe(entry) for entry in known)
        self.operators = frozenset(operators)
        owners: dict[Term, set[str]] = {}
        for entry in self.known:
            for name in (entry.id, *entry.names):
                for term in _terms(name):
                    owners.setdefault(term, set()).add(entry.id)
        self._owners = [frozenset(ids) for ids in owners.values()]
        self._matcher = matcher(list(owners), engine)

    def mentions(self, folded: str, tenant_id: str | None) -> list[Mention]:
        """Every tenant named in a folded text; of overlapping names the longest counts."""
        found = sorted(self._matcher.find(folded), key=lambda match: (match[1], -match[2]))
        mentions: list[Mention] = []
        for index, start, end in found:
            if mentions and start < mentions[-1].end:
                continue
            mentions.append(Mention(start, end, tenant_id in self._owners[index]))
        return mentions

    def alone(self, tenant_id: str | None) -> bool:
        """True when the caller is known and no other tenant is: then a name can't be looked up, only guessed at."""
        return tenant_id is not None and all(known.id == tenant_id for known in self.known)


EMPTY = Registry()


def spellings(name: str) -> list[str]:
    """The folded forms under which a name is looked for: as written, with spaces, closed up, without its legal form."""
    plain = fold(name).strip()
    forms = {plain, _SEPARATORS.sub(" ", plain).strip()}
    for form in list(forms):
        bare = _LEGAL.sub("", form).strip(" ,.")
        forms |= {bare, _LEGAL.sub("", bare).strip(" ,.")}
    forms |= {form.replace(" ", "") for form in forms} | {form.replace(" ", "-") for form in forms}
    return sorted(form for form in forms if len(form) >= _SHORTEST)


@lru_cache(maxsize=4096)
def _terms(name: str) -> tuple[Term, ...]:
    return tuple(Term.of(form) for form in spellings(name))


@lru_cache(maxsize=256)
def registry_of(known: tuple[Known, ...], operators: frozenset[str] = frozenset()) -> Registry:
    """The registry of these tenants, built once: callers that pass the same list at every call pay for it once."""
    return Registry(known, operators=operators)


def describe(entry: Describable) -> Known:
    """A Known from any of the forms a registry takes."""
    if isinstance(entry, Known):
        return entry
    if isinstance(entry, str):
        return Known(entry)
    if isinstance(entry, Mapping):
        return _from_mapping(entry)
    if isinstance(entry, tuple | list) and entry and isinstance(entry[0], str):
        names = [name for part in entry[1:] for name in (part if isinstance(part, tuple | list) else [part])]
        if all(isinstance(name, str) for name in names):
            return Known(entry[0], tuple(names))
    raise InvalidInput(
        f"registry: expected Known, an id, (id, name...) or a mapping with `id`, got {type(entry).__name__}"
    )


def describe_all(entries: Iterable[Describable] | Mapping[str, object] | None) -> tuple[Known, ...]:
    """Every entry of a list, or of a table from id to name, names or description."""
    if isinstance(entries, str):
        raise InvalidInput("registry: expected a list of tenants or a table of their names by id, got one str")
    if isinstance(entries, Mapping):
        return tuple(
            describe({"id": ident, **about}) if isinstance(about, Mapping) else describe((ident, about or ()))  # type: ignore[arg-type]  # describe checks it
            for ident, about in entries.items()
        )
    return tuple(describe(entry) for entry in entries or ())


def _from_mapping(entry: Mapping[str, object]) -> Known:
    ident = entry.get("id") or entry.get("tenant_id") or entry.get("tenant")
    names: list[str] = []
    for key in ("name", "display_name", "names", "aliases", "domain", "domains"):
        value = entry.get(key, ())
        names += (
            [value] if isinstance(value, str) else [str(v) for v in value] if isinstance(value, list | tuple) else []
        )
    if not isinstance(ident, str) or not ident:
        if not names:
            raise InvalidInput("registry: a mapping needs `id`, and may have `name` and `aliases`")
        ident = names[0]
    return Known(ident, tuple(names))
