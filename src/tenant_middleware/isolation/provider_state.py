"""What a model provider keeps for a tenant behind ids and caches that all callers of one API key share.

A response or conversation id continues what somebody said before, so it is sent only by the tenant it was given to. An
end user's name is made the tenant's own before it is sent: `ann` of two tenants are two users there. The prefix cache
gets a salt per tenant, so that nobody learns from its timing what others sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

from tenant_middleware.errors import ForeignReference, InvalidInput
from tenant_middleware.keys import fingerprint
from tenant_middleware.tenant import Tenant

Kind = Literal["response", "conversation", "item"]
SaltField = Literal["cache_salt", "prompt_cache_key"]

REFERENCES: Mapping[str, Kind] = {"previous_response_id": "response", "conversation": "conversation"}
USERS = ("user", "safety_identifier")
SALTS: tuple[SaltField, ...] = get_args(SaltField)
OURS = frozenset((*REFERENCES, *USERS, *SALTS))
"""What nobody may send unchecked."""
# Items that hold all they say, by their types; of others an id is enough, and the provider looks the rest up.
_COMPLETE = frozenset(
    ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
)
BODY = "extra_body"
"""Where OpenAI's client takes fields that it doesn't know itself."""

_SALT_OF: Mapping[str, SaltField] = {
    "vllm": "cache_salt",
    "hosted_vllm": "cache_salt",
    "openai": "prompt_cache_key",
    "azure": "prompt_cache_key",
}
_OWN_USER = "tm-user-"
_LONGEST = 512


class ProviderIds(Protocol):
    """Which ids a provider gave to which tenant; an id nobody claimed is nobody's. `clear` forgets one tenant's."""

    def claim(self, tenant: Tenant, kind: Kind, name: str) -> None: ...
    def owns(self, tenant: Tenant, kind: Kind, name: str) -> bool: ...
    def clear(self, tenant: Tenant) -> int: ...
    async def aclaim(self, tenant: Tenant, kind: Kind, name: str) -> None: ...
    async def aowns(self, tenant: Tenant, kind: Kind, name: str) -> bool: ...
    async def aclear(self, tenant: Tenant) -> int: ...


@dataclass(frozen=True, slots=True)
class Reference:
    """An id in a request that continues something kept at the provider."""

    field: str
    kind: Kind
    name: str


def salt_field(provider: str) -> SaltField | None:
    """What a provider (by LiteLLM's name for it) calls the salt of its prefix cache; None when it has none."""
    return _SALT_OF.get(provider)


def references(request: Mapping[str, Any]) -> list[Reference]:
    """Every id in a request that has to be the tenant's own, also those in `extra_body` and in what is said."""
    found = [
        Reference(field, REFERENCES[field], _id_of(field, part[field]))
        for part in _parts(request)
        for field in REFERENCES
        if part.get(field) is not None
    ]
    for part in _parts(request):
        found += [Reference("input", "item", _id_of("input", item)) for item in _looked_up(part.get("input"))]
        found += [Reference("audio", "item", _id_of("audio", audio)) for audio in _heard(part.get("messages"))]
    return found


def _looked_up(said: object) -> Iterator[Mapping[str, Any]]:
    """The items of a responses API's input that stand for something kept at the provider."""
    for item in said if isinstance(said, list) else ():
        named = isinstance(item, Mapping) and item.get("id") is not None
        if named and "role" not in item and item.get("type") not in _COMPLETE:
            yield item


def _heard(messages: object) -> Iterator[Mapping[str, Any]]:
    """Spoken answers that a chat goes on from."""
    for message in messages if isinstance(messages, list) else ():
        audio = message.get("audio") if isinstance(message, Mapping) else None
        if isinstance(audio, Mapping) and audio.get("id") is not None:
            yield audio


def given(response: Mapping[str, Any]) -> Iterator[tuple[Kind, str]]:
    """The ids that a response hands out: its own, if it can be continued, its conversation's and its items'."""
    own, conversation = response.get("id"), response.get("conversation")
    if isinstance(own, str) and own.startswith("resp"):
        yield "response", own
    if conversation is not None:
        yield "conversation", _id_of("conversation", conversation)
    for item in response.get("output") or ():
        name = item.get("id") if isinstance(item, Mapping) else getattr(item, "id", None)
        if isinstance(name, str) and name:
            yield "item", name


def own_request(secret: bytes, tenant: Tenant, request: Mapping[str, Any], salt: SaltField | None) -> dict[str, Any]:
    """The request with users and salts that are the tenant's own, whatever the caller sent under those names.

    Raises ForeignReference for a user that was made for another tenant.
    """
    if salt is None and BODY not in request and OURS.isdisjoint(request):
        return dict(request)
    sent = [dict(part) for part in _parts(request)]
    salted = {field for part in sent for field in SALTS if field in part} | ({salt} if salt else set())
    for part in sent:
        _own_users(secret, tenant, part)
        for field in SALTS:
            part.pop(field, None)
    made = sent[0]
    body = sent[1] if len(sent) > 1 else {}
    if "prompt_cache_key" in salted:
        made["prompt_cache_key"] = prefix_salt(secret, tenant)
    if "cache_salt" in salted:
        body["cache_salt"] = prefix_salt(secret, tenant)
    return made | {BODY: body} if body or BODY in request else made


@lru_cache(maxsize=4096)
def prefix_salt(secret: bytes, tenant: Tenant) -> str:
    """The tenant's salt: 64 characters, the most that OpenAI's prompt_cache_key takes."""
    return fingerprint(secret, tenant, "prefix cache")


def own_user(secret: bytes, tenant: Tenant, name: object) -> str:
    """An end user's name as the provider sees it; a name made so is kept, another tenant's is refused."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST:
        raise InvalidInput(f"user: expected text of 1 to {_LONGEST} characters, got {type(name).__name__}")
    mine = f"{_OWN_USER}{fingerprint(secret, tenant, 'users')[:16]}-"
    if name.startswith(_OWN_USER):
        if name.startswith(mine):
            return name
        raise _foreign(tenant, "user")
    return f"{mine}{fingerprint(secret, tenant, f'user {name}')[:32]}"


def refuse_unchecked(tenant: Tenant, request: Mapping[str, Any]) -> None:
    """Raise ForeignReference for what only a ProviderState can check: for gates that were made without one."""
    if any(part[name] is not None for part in _parts(request) for name in OURS & part.keys()):
        raise ForeignReference(
            "this gate was made without a provider_state, so nothing says whose these ids are: use tenancy.gate",
            rule="provider_state",
            tenant_id=tenant.id,
        )


def _own_users(secret: bytes, tenant: Tenant, part: dict[str, Any]) -> None:
    for field in USERS:
        if part.get(field) is not None:
            part[field] = own_user(secret, tenant, part[field])


def _parts(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    body = request.get(BODY)
    if body is None:
        return [request]
    if not isinstance(body, Mapping):
        raise InvalidInput(f"{BODY}: expected a dictionary, got {type(body).__name__}")
    return [request, body]


def _id_of(field: str, value: object) -> str:
    name = value.get("id") if isinstance(value, Mapping) else getattr(value, "id", value)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST:
        raise InvalidInput(f"{field}: expected an id of 1 to {_LONGEST} characters")
    return name


def _foreign(tenant: Tenant, field: str) -> ForeignReference:
    return ForeignReference(
        f"{field}: this tenant was given no such id by the provider; continue what was begun in its own scope, or "
        "register what was made elsewhere with ProviderState.claim",
        rule=field,
        tenant_id=tenant.id,
    )


class ProviderState:
    """Stands between a model call and its provider: `outgoing` before it, `incoming` with what came back."""

    def __init__(self, ids: ProviderIds, secret: bytes) -> None:
        self.ids = ids
        self._secret = secret

    def outgoing(self, tenant: Tenant, request: Mapping[str, Any], *, salt: SaltField | None = None) -> dict[str, Any]:
        """The request as it may be sent; raises ForeignReference, alike for unknown and for foreign ids."""
        for reference in references(request):
            self.check(tenant, reference)
        return own_request(self._secret, tenant, request, salt)

    async def aoutgoing(
        self, tenant: Tenant, request: Mapping[str, Any], *, salt: SaltField | None = None
    ) -> dict[str, Any]:
        """`outgoing`, by awaiting."""
        for reference in references(request):
            await self.acheck(tenant, reference)
        return own_request(self._secret, tenant, request, salt)

    def check(self, tenant: Tenant, reference: Reference) -> None:
        """Raise ForeignReference unless the provider gave this id to the tenant."""
        if not self.ids.owns(tenant, reference.kind, reference.name):
            raise _foreign(tenant, reference.field)

    async def acheck(self, tenant: Tenant, reference: Reference) -> None:
        """`check`, by awaiting."""
        if not await self.ids.aowns(tenant, reference.kind, reference.name):
            raise _foreign(tenant, reference.field)

    def incoming(self, tenant: Tenant, response: Mapping[str, Any]) -> None:
        """Remember what a response gave out as the tenant's."""
        for kind, name in given(response):
            self.ids.claim(tenant, kind, name)

    async def aincoming(self, tenant: Tenant, response: Mapping[str, Any]) -> None:
        """`incoming`, by awaiting."""
        for kind, name in given(response):
            await self.ids.aclaim(tenant, kind, name)

    def claim(self, tenant: Tenant, kind: Kind, name: str) -> None:
        """Register an id that the application got from the provider by other means."""
        self.ids.claim(tenant, kind, name)

    async def aclaim(self, tenant: Tenant, kind: Kind, name: str) -> None:
        """`claim`, by awaiting."""
        await self.ids.aclaim(tenant, kind, name)
