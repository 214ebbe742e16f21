"""Canaries: marks planted in a tenant's documents and prompts that have no business in another tenant's answer.

A canary is a random lookup id, a truncated MAC of it and one of it and its owner, written in letters only. It holds no
tenant id: whoever has the key can ask whether it is this tenant's, and a store knows whose it is. One compact form finds
it however it is cased, spaced, hyphenated or dressed.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from tenant_middleware import telemetry
from tenant_middleware.errors import ConfigurationError, InvalidInput, IsolationBreach
from tenant_middleware.guardrails.sightings import Needle, Sighting, narrowed, sightings
from tenant_middleware.guardrails.verdict import ALLOW, Segment, Span, Verdict
from tenant_middleware.tenant import Tenant

MARK = "zqkx"
ID_LETTERS = 16
MAC_LETTERS = 12
LENGTH = len(MARK) + ID_LETTERS + 2 * MAC_LETTERS
# Written out in binary with spaces a canary is nine characters a letter: nothing longer is looked for in a stream.
WINDOW = 9 * LENGTH
STEP = 128
# Sixteen letters, none of which another letter or digit is commonly swapped for: four bits each.
_ALPHABET = "bcdfhjmnprtuvwxy"
_MIN_KEY = 16


class CanaryStore(Protocol):
    """Who owns a lookup id; shared by the workers that share the canaries."""

    def put(self, lookup: str, tenant_id: str) -> None: ...
    def owner(self, lookup: str) -> str | None: ...


class InMemoryCanaryStore:
    """The reference store: one dictionary."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def put(self, lookup: str, tenant_id: str) -> None:
        self._owners[lookup] = tenant_id

    def owner(self, lookup: str) -> str | None:
        return self._owners.get(lookup)


@dataclass(frozen=True, slots=True)
class Incident:
    """A foreign canary was seen: by whom, of whom (None when the store doesn't know), and how it was disguised.

    `replay` means it came in with the input; it is then no evidence against anyone but the sender. `canary` is what was
    seen: `CanaryGuard.is_of` says of any tenant whether it is its own.
    """

    tenant_id: str
    owner_id: str | None
    disguise: str
    kind: Literal["leak", "replay"]
    cache_entry: str | None = None
    canary: str = field(default="", repr=False)


class CanaryGuard:
    """Mints canaries and finds them again. Opt-in: nothing is planted that the application doesn't plant.

    `on_incident` hears of every foreign canary; `quarantine(tenant, cache_entry)` takes the entry an answer came from
    out of service. The key is at least 16 bytes and the same in every worker: with it alone each of them tells a tenant's
    own canaries from others', whoever planted them. The store adds the owner's name to an incident.
    """

    def __init__(
        self,
        key: bytes,
        store: CanaryStore | None = None,
        *,
        on_incident: Callable[[Incident], None] | None = None,
        quarantine: Callable[[Tenant, str], None] | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if len(key) < _MIN_KEY:
            raise ConfigurationError(f"canary key: expected at least {_MIN_KEY} bytes, got {len(key)}")
        self._key = key
        self._store = store if store is not None else InMemoryCanaryStore()
        self._on_incident = on_incident
        self._quarantine = quarantine
        self._random = random
        self._needles = (Needle(MARK, LENGTH, self._genuine),)

    def mint(self, tenant: Tenant) -> str:
        """A new canary of this tenant: 64 random bits and twice 48 bits of MAC."""
        lookup = _letters(self._random(ID_LETTERS // 2))
        self._store.put(lookup, tenant.id)
        return MARK + lookup + self._mac(lookup) + self._mac(lookup, tenant.id)

    def plant(self, text: str, tenant: Tenant) -> str:
        """The text with a new canary of this tenant at its end: for audit documents and system prompts."""
        return f"{text}\n[ref {self.mint(tenant)}]"

    def is_of(self, canary: str, tenant_id: str) -> bool:
        """Whether a canary in its compact form was made for this tenant, with this key."""
        lookup, owner = canary[len(MARK) : len(MARK) + ID_LETTERS], canary[-MAC_LETTERS:]
        return len(canary) == LENGTH and hmac.compare_digest(owner, self._mac(lookup, tenant_id))

    def sightings(self, text: str, tenant: Tenant | None = None) -> list[Sighting]:
        """Every genuine canary in the text, in any disguise, with its owner: the store's word, or that it is `tenant`."""
        found = [sighting for sighting in sightings(text, self._needles) if sighting.genuine]
        if tenant is None:
            return found
        return [replace(s, owner=tenant.id) if self.is_of(s.canary, tenant.id) else s for s in found]

    def scan(self, text: str, tenant: Tenant, *, replayed: Iterable[str] = ()) -> Verdict:
        """The verdict on an answer to this tenant: a foreign canary blocks, one that came in with the input flags."""
        return verdict_of(self.sightings(text, tenant), tenant, frozenset(replayed))

    def strip(self, text: str, tenant: Tenant, *, replayed: Iterable[str] = ()) -> str:
        """The answer without the tenant's own canaries; raises IsolationBreach when there is a foreign one."""
        return self.settle(text, tenant, frozenset(replayed), None)

    def settle(self, text: str, tenant: Tenant, replayed: frozenset[str], cache_entry: str | None) -> str:
        """The answer without canaries; or, for a foreign one, report, quarantine the cache entry and raise."""
        found = self.sightings(text, tenant)
        for sighting in found:
            if sighting.owner != tenant.id and sighting.canary not in replayed:
                raise self.breach(sighting, tenant, cache_entry)
        return _without(text, [narrowed(text, sighting, self._needles) for sighting in found])

    def stream(
        self, tenant: Tenant, *, replayed: Iterable[str] = (), cache_entry: str | None = None, window: int = WINDOW
    ) -> CanaryStream:
        """A scanner for an answer that comes in pieces; what it gives back may be shown."""
        return CanaryStream(self, tenant, frozenset(replayed), cache_entry, window)

    def replayed(self, segments: Sequence[Segment], tenant: Tenant) -> frozenset[str]:
        """Foreign canaries in what the user sent: replays, reported as such, and never counted against their owner.

        Hand them to the scan of the answer: a model that merely repeats its input has leaked nothing.
        """
        seen: set[str] = set()
        for segment in segments:
            if segment.source == "user":
                for found in self.sightings(segment.text, tenant):
                    if found.owner != tenant.id and found.canary not in seen:
                        seen.add(found.canary)
                        self._report(Incident(tenant.id, found.owner, found.disguise, "replay", canary=found.canary))
        return frozenset(seen)

    def breach(self, found: Sighting, tenant: Tenant, cache_entry: str | None) -> IsolationBreach:
        """Report a leak and quarantine the cache entry; the error to raise names no other tenant."""
        telemetry.incident(tenant, "answer")
        self._report(Incident(tenant.id, found.owner, found.disguise, "leak", cache_entry, found.canary))
        if self._quarantine is not None and cache_entry is not None:
            self._quarantine(tenant, cache_entry)
        return IsolationBreach(
            "the answer held a canary that isn't this tenant's and was stopped; look at the incident for its owner, and "
            "at the retriever, cache and memory this answer was made from"
        )

    def _report(self, incident: Incident) -> None:
        if self._on_incident is not None:
            self._on_incident(incident)

    def _genuine(self, compact: str) -> tuple[bool, str | None]:
        lookup, mac = compact[len(MARK) : len(MARK) + ID_LETTERS], compact[len(MARK) + ID_LETTERS : -MAC_LETTERS]
        owner = self._store.owner(lookup)
        return owner is not None or hmac.compare_digest(mac, self._mac(lookup)), owner

    def _mac(self, lookup: str, tenant_id: str = "") -> str:
        signed = hmac.digest(self._key, f"canary {lookup} {tenant_id}".encode(), "sha256")
        return _letters(signed[: MAC_LETTERS // 2])


class CanaryStream:
    """Holds the last `window` characters back until nothing in them can still grow into a canary.

    `push` gives back what is safe to show, `close` the rest. A foreign canary raises IsolationBreach, once and for
    good: nothing more is given back.
    """

    def __init__(
        self, guard: CanaryGuard, tenant: Tenant, replayed: frozenset[str], cache_entry: str | None, window: int
    ) -> None:
        if window < LENGTH:
            raise ConfigurationError(f"canary window: expected at least {LENGTH} characters, got {window}")
        self._guard = guard
        self._tenant = tenant
        self._replayed = replayed
        self._cache_entry = cache_entry
        self._window = window
        self._held = ""
        self._stopped = False

    def push(self, chunk: str) -> str:
        """Take a piece of the answer; most calls only keep it."""
        if self._stopped:
            raise InvalidInput("this answer was stopped or is closed: open a new stream for another one")
        self._held += chunk
        if len(self._held) < self._window + STEP:
            return ""
        self._settle()
        cut = max(0, len(self._held) - self._window)
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe

    def close(self) -> str:
        """The rest of the answer."""
        if self._stopped:
            return ""
        self._settle()
        self._stopped = True
        rest, self._held = self._held, ""
        return rest

    def _settle(self) -> None:
        try:
            self._held = self._guard.settle(self._held, self._tenant, self._replayed, self._cache_entry)
        except IsolationBreach:
            self._stopped, self._held = True, ""
            raise


def verdict_of(found: Iterable[Sighting], tenant: Tenant, replayed: frozenset[str] = frozenset()) -> Verdict:
    """Block for a foreign canary, flag for a replayed one, allow for one's own."""
    foreign = [s for s in found if s.owner != tenant.id]
    if not foreign:
        return ALLOW
    leaks = [s for s in foreign if s.canary not in replayed]
    rule = "foreign-canary" if leaks else "replayed-canary"
    rules = dict.fromkeys(
        r for s in leaks or foreign for r in ((rule, f"hidden-{s.disguise}") if s.disguise else (rule,))
    )
    spans = tuple(Span(s.start, s.end, rule) for s in leaks or foreign)
    return Verdict("block" if leaks else "flag", 1.0 if leaks else 0.5, tuple(rules), spans)


def _without(text: str, found: Iterable[Sighting]) -> str:
    """The text without these passages, nor the brackets `plant` put around them."""
    for sighting in sorted(found, key=lambda s: -s.start):
        before, after = text[: sighting.start], text[sighting.end :]
        if before.endswith("[ref ") and after.startswith("]"):
            before, after = before.removesuffix("[ref ").removesuffix("\n"), after[1:]
        text = before + after
    return text


def _letters(raw: bytes) -> str:
    return "".join(_ALPHABET[b >> 4] + _ALPHABET[b & 15] for b in raw)


def check_canary(canary: str) -> str:
    """A canary made elsewhere, if it is long enough to be looked for."""
    if sum(c.isalnum() for c in canary) < 8:
        raise InvalidInput("canary: expected at least 8 letters or digits; a shorter one turns up by chance")
    return canary
