"""One call for one text: `scan` for what goes in, `scan_output` for what comes out. No policy, no state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from tenant_middleware.errors import InvalidInput
from tenant_middleware.guardrails.canary import CanaryGuard, check_canary, verdict_of
from tenant_middleware.guardrails.input import judge
from tenant_middleware.guardrails.modes import Thresholds
from tenant_middleware.guardrails.registry import Describable, Known, describe_all, registry_of
from tenant_middleware.guardrails.rulebook import default_rulebook
from tenant_middleware.guardrails.sightings import Needle, literal, sightings
from tenant_middleware.guardrails.verdict import Segment, Source, Verdict
from tenant_middleware.tenant import Tenant

Message: TypeAlias = Segment | str | Mapping[str, object] | tuple[str, str]
Canaries: TypeAlias = CanaryGuard | Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str] | str]

_SOURCES: dict[str, Source] = {
    "user": "user", "human": "user", "system": "system", "developer": "system", "tool": "tool", "function": "tool",
    "retrieved": "retrieved", "document": "retrieved", "context": "retrieved", "memory": "memory",
}  # fmt: skip
_DEFAULT = Thresholds()


def scan(
    text: str,
    *,
    tenant: Tenant | str | None = None,
    tenant_name: str | None = None,
    known_tenants: Iterable[Describable] | Mapping[str, object] | None = (),
    messages: Iterable[Message] | None = None,
    source: Source = "user",
) -> Verdict:
    """The rules' verdict on one text, as in mode `block`.

    `tenant` and `tenant_name` are the caller's; `known_tenants` are ids, `(id, name, ...)`, `Known`, mappings with
    `id` and `name`, or one table of names by id. `messages` are what came before the text in the conversation, as
    segments or chat messages.
    """
    tenant_id = tenant.id if isinstance(tenant, Tenant) else tenant
    known = describe_all(known_tenants)
    if tenant_id is None and tenant_name:
        tenant_id = tenant_name
    if tenant_id:
        known = (*_separated(known, tenant_id, tenant_name), Known(tenant_id, (tenant_name,) if tenant_name else ()))
    earlier = [segment for message in messages or () for segment in _segments(message)]
    segments = [*earlier, Segment(text, source)] if text not in {s.text for s in earlier[-1:]} else earlier
    return judge(default_rulebook(), segments, registry_of(known), tenant_id, _DEFAULT)


def scan_output(text: str, *, tenant: Tenant | str, canaries: Canaries, chunks: Iterable[str] | None = None) -> Verdict:
    """Block when the answer to `tenant` holds somebody else's canary, in whatever disguise.

    `canaries` is a CanaryGuard, or canaries by owner: `{"globex": "..."}` or `("globex", "...")` pairs; one that comes
    without an owner is taken for somebody else's. With `chunks` the answer came in pieces, and their concatenation is read as well.
    """
    reader = tenant if isinstance(tenant, Tenant) else Tenant(tenant, "any")
    whole = text if chunks is None else f"{text}\n{''.join(chunks)}"
    if isinstance(canaries, CanaryGuard):
        return canaries.scan(whole, reader)
    return verdict_of(sightings(whole, _needles(canaries, reader.id)), reader)


def _needles(
    canaries: Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str] | str], reader: str
) -> list[Needle]:
    if isinstance(canaries, str):
        raise InvalidInput("canaries: expected a CanaryGuard, a table or a list of them, got one str")
    pairs = canaries.items() if isinstance(canaries, Mapping) else canaries
    needles: list[Needle] = []
    for pair in pairs:
        owner, planted = ("", pair) if isinstance(pair, str) else pair
        for canary in [planted] if isinstance(planted, str) else planted:
            whose = owner
            if canary == reader or len(owner) > len(canary):
                whose, canary = canary, owner  # a mapping from canary to owner reads just as well
            needles += literal(check_canary(canary), whose)
    return needles


def _separated(known: Sequence[Known], tenant_id: str, tenant_name: str | None) -> list[Known]:
    """The others: an entry that is the caller's own name isn't somebody else."""
    own = {name.casefold() for name in (tenant_id, tenant_name) if name}
    return [k for k in known if k.id == tenant_id or not own & {n.casefold() for n in (k.id, *k.names)}]


def _segments(message: Message) -> list[Segment]:
    if isinstance(message, Segment):
        return [message]
    if isinstance(message, str):
        return [Segment(message)]
    role, content = _role_and_content(message)
    if role in ("assistant", "ai", "model"):
        return []
    if role not in _SOURCES:
        raise InvalidInput(f"message role: expected one of {', '.join(_SOURCES)} or assistant")
    return [Segment(part, _SOURCES[role]) for part in _texts(content)]


def _role_and_content(message: Mapping[str, object] | tuple[str, str]) -> tuple[str, object]:
    if isinstance(message, Mapping):
        role = message.get("role", message.get("source", message.get("type", "user")))
        return str(role).lower(), message.get("content", message.get("text", ""))
    return message[0].lower(), message[1]


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    if isinstance(content, list | tuple):
        return [text for part in content for text in _texts(part)]
    if isinstance(content, Mapping):
        return _texts(content.get("text", ""))
    return []
