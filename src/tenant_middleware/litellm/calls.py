"""One logical call from its admission to its end, pinned to the request that LiteLLM passes around.

Hooks of one call run in other tasks, late or not at all, and a context variable read there may be somebody else's. So
the open call itself travels in the request's metadata, as a `Pin`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from tenant_middleware import telemetry
from tenant_middleware.admission.call import Call, Hold, Kind, new_call_id
from tenant_middleware.errors import ConfigurationError, IsolationBreach, TenancyError
from tenant_middleware.guardrails import Segment, Source
from tenant_middleware.isolation.provider_state import (
    BODY,
    REFERENCES,
    SALTS,
    USERS,
    given,
    references,
    salt_field,
)
from tenant_middleware.litellm import request as asking
from tenant_middleware.litellm.output import GuardedStream, OutputGuard, drop_entry
from tenant_middleware.litellm.usage import StreamCount, is_hit, usage_of, usage_of_images
from tenant_middleware.litellm.usage import field as field_of
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenant import Tenant

if TYPE_CHECKING:
    from tenant_middleware.metering.ledger import LedgerRow, Status
    from tenant_middleware.tenancy import Tenancy

_log = logging.getLogger(__name__)

PIN = "tenant_middleware"
"""The metadata entry that carries the pin."""

Owner = Literal["callback", "router", "proxy"]
"""Who ends the call: LiteLLM's log events, TenantRouter, or the proxy's hooks."""

_SOURCES: dict[str, Source] = {
    "user": "user",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
}
_OURS = (*USERS, *SALTS, BODY)
_PLACES = ("metadata", "litellm_metadata")


@dataclass(slots=True, eq=False, weakref_slot=True)
class OpenCall:
    """An admitted call: its reservation, who ends it, the attempt that serves it now, and its stream's count."""

    hold: Hold
    owner: Owner
    call_type: str | None
    serving: Hold
    count: StreamCount = field(repr=False)
    ended: bool = False
    row: LedgerRow | None = None
    echoed: object = None
    cache_entry: str | None = None
    stopped: bool = False
    # The caller's stream didn't ask for the usage at its end; we did.
    hides_usage: bool = False

    @property
    def tenant(self) -> Tenant:
        return self.hold.call.tenant

    @property
    def unseen(self) -> bool:
        """Whether it streams past us: LiteLLM shows a callback no chunk of a chat stream but the last."""
        return self.owner == "callback" and self.hold.call.stream and not self.count.began


class Pin(str):
    """Our call id that carries the open call. What a JSON body or a log holds is plain text and pins nothing."""

    open_call: OpenCall

    def __new__(cls, open_call: OpenCall) -> Pin:
        pin = super().__new__(cls, open_call.hold.call.id)
        pin.open_call = open_call
        return pin

    def __copy__(self) -> Pin:
        return self

    def __deepcopy__(self, memo: Any) -> Pin:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def pinned(request: Mapping[str, Any]) -> OpenCall | None:
    """The open call that a request, or what LiteLLM hands to a log hook, is pinned to."""
    own = request.get(PIN)
    if isinstance(own, Pin):
        return own.open_call
    params = request.get("litellm_params")
    for part in (request, params if isinstance(params, Mapping) else {}):
        for place in _PLACES:
            metadata = part.get(place)
            if isinstance(metadata, Mapping) and isinstance(pin := metadata.get(PIN), Pin):
                return pin.open_call
    return None


def _spoken(choice: Any) -> Any:
    """What a chat's answer says aloud, which a later call names by its id."""
    return getattr(getattr(choice, "message", None), "audio", None)


class Calls:
    """Opens and ends calls on the gate; all forms of the adapter share it, so that there is one set of rules."""

    def __init__(self, tenancy: Tenancy) -> None:
        self.tenancy = tenancy
        self.gate = tenancy.gate
        self.output = OutputGuard(tenancy.canaries, tenancy.answers)
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(
        self, tenant: Tenant, call_type: str | None, model: str, request: Mapping[str, Any], owner: Owner
    ) -> OpenCall:
        """Guard, check and admit a request; raises what the gate raises, with nothing held."""
        kind, numbers = asking.kind_of(call_type), asking.asked(request)
        if self.output and owner == "callback" and numbers.stream and kind is Kind.CHAT:
            raise ConfigurationError(
                "canaries or answer checks are configured, and LiteLLM shows a callback no stream that they could look "
                "at: stream through TenantRouter or the proxy, or ask without stream"
            )
        await self._guard(tenant, request)
        await self._check_references(tenant, request)
        call = Call(
            tenant,
            model,
            kind,
            numbers.prompt_tokens,
            numbers.max_tokens,
            new_call_id(),
            0,
            numbers.n,
            numbers.stream,
            numbers.service_tier,
            numbers.media,
        )
        hold = await self.gate.aadmit(call)
        return OpenCall(hold, owner, call_type, hold, StreamCount(numbers.prompt_tokens))

    async def hop(self, open_call: OpenCall, model: str) -> None:
        """Go on with another model: it has to be the tenant's to call, and is priced by its own name."""
        root = open_call.hold
        if open_call.count.began:  # the one before had begun to answer
            before = open_call.serving
            if before is root:
                before = await self.gate.ajoin(root, root.call)
            await self.gate.asettle(before, open_call.count.usage())
        elif open_call.serving is not root:
            await self.gate.arelease(open_call.serving)
        tried = root.call.attempt + len(root.root.attempts) + 1
        call = replace(root.call, model=model, id=new_call_id(), attempt=tried)
        open_call.serving = await self.gate.ajoin(root, call)
        open_call.count = StreamCount(call.prompt_tokens)

    def sent(self, open_call: OpenCall, request: Mapping[str, Any], provider: str | None) -> dict[str, Any]:
        """What to overwrite in a request before it goes to a provider: caps, users, salts."""
        call = open_call.hold.call
        changes = asking.capped(open_call.call_type, request, open_call.serving.max_tokens, call.n)
        mine = {name: request[name] for name in _OURS if request.get(name) is not None}
        if isinstance(mine.get(BODY), Mapping):
            mine[BODY] = {name: value for name, value in mine[BODY].items() if name not in REFERENCES}
        salt = salt_field(provider) if provider and changes else None
        return changes | self.tenancy.provider_state.outgoing(call.tenant, mine, salt=salt)

    async def finish(self, open_call: OpenCall, response: Any) -> None:
        """Settle with what the answer says it used; an answer from the cache costs nothing."""
        if is_hit(response):
            await self.hit(open_call)
        if open_call.ended:
            return
        open_call.ended = True
        await self._remember(open_call, response)
        read = usage_of_images if open_call.hold.call.kind is Kind.IMAGE else usage_of
        await self._settle(open_call, read(response), "ok")

    async def deliver(self, open_call: OpenCall, response: Any) -> Any:
        """Settle an answer, which is paid for, and give it or a cleaned copy; raises IsolationBreach."""
        await self.finish(open_call, response)
        try:
            self.check_model(open_call, response)
            if self.output and open_call.hold.call.kind is Kind.CHAT:
                return self.output.whole(response, open_call.tenant, open_call.cache_entry)
        except IsolationBreach:
            await self.withdraw(open_call)
            raise
        return response

    def guarded(self, open_call: OpenCall) -> GuardedStream | None:
        """What a streamed answer has to pass, if there is anything."""
        return GuardedStream(self.output, open_call.tenant, open_call.cache_entry) if self.output else None

    async def withdraw(self, open_call: OpenCall) -> None:
        """Take an answer that was stopped out of LiteLLM's cache, or keep it from being stored."""
        open_call.stopped = True
        if open_call.cache_entry is not None:
            await drop_entry(open_call.cache_entry)

    async def finish_stream(self, open_call: OpenCall, response: Any) -> None:
        """Settle a stream that was read to its end."""
        if is_hit(response):
            await self.hit(open_call)
        if not open_call.ended:
            open_call.ended = True
            await self._settle(open_call, open_call.count.usage(), "ok")

    async def hit(self, open_call: OpenCall) -> None:
        """End a call that LiteLLM answered from its cache: it is booked at no cost."""
        if open_call.ended:
            return
        open_call.ended = True
        await self.gate.arelease(open_call.hold)
        if open_call.hold.parent is None:
            self.gate.hit(open_call.hold.call)

    async def fail(self, open_call: OpenCall, error: BaseException) -> None:
        """End a call that an exception left: a stream that had begun is charged what it had sent."""
        if open_call.ended:
            return
        open_call.ended = True
        if not open_call.count.began:
            if open_call.serving is not open_call.hold:
                await self.gate.aend(open_call.serving, error)
            await self.gate.aend(open_call.hold, error)
            return
        status: Status = "error" if isinstance(error, Exception) else "cancelled"
        await self._settle(open_call, open_call.count.usage(), status)

    async def fail_unseen(self, open_call: OpenCall, status: Status) -> None:
        """End a stream of which nobody told us what it delivered: as an expired lease, by its prompt and its cap."""
        if not open_call.ended:
            open_call.ended = True
            await self._settle(open_call, open_call.count.usage() if open_call.count.began else None, status)

    async def chunk(self, open_call: OpenCall, chunk: Any) -> None:
        """Count one chunk of a stream, keep its lease alive, and remember the ids that it gives out."""
        open_call.count.add(chunk)
        self.check_model(open_call, chunk)
        if open_call.call_type == "aresponses":
            await self._remember(open_call, getattr(chunk, "response", None))
        if self.gate.heartbeat_due(open_call.hold):
            open_call.serving.report(open_call.count.usage())  # its reservation and its turn follow what is written
            await self.gate.aextend(open_call.hold)

    async def _settle(self, open_call: OpenCall, usage: Usage | None, status: Status) -> None:
        if open_call.serving is not open_call.hold:
            await self.gate.asettle(open_call.serving, usage, status=status)
            usage = None
        open_call.row = await self.gate.asettle(open_call.hold, usage, status=status)

    async def _guard(self, tenant: Tenant, request: Mapping[str, Any]) -> None:
        if self.gate.policy.for_tenant(tenant).guard == "off":
            return
        segments = [Segment(text, _SOURCES.get(role, "memory")) for text, role in asking.texts(request)]
        if segments:
            with telemetry.stage("guard", tenant):
                await self.tenancy.guard.aenforce(segments, tenant)

    def check_model(self, open_call: OpenCall, response: Any) -> None:
        """Stop an answer that a provider gave with a model of another tenant's, whatever was asked for."""
        echoed = field_of(response, "model")
        if echoed is open_call.echoed:
            return
        open_call.echoed = echoed
        if isinstance(echoed, str) and self.gate.policy.is_foreign(open_call.tenant, echoed):
            raise IsolationBreach(
                "the provider answered with a model that belongs to another tenant; the answer was stopped. Look for a "
                "deployment that routes this model group to it"
            )

    async def _check_references(self, tenant: Tenant, request: Mapping[str, Any]) -> None:
        for reference in references(request):
            await self.tenancy.provider_state.acheck(tenant, reference)

    async def _remember(self, open_call: OpenCall, response: Any) -> None:
        if response is None:
            return
        if open_call.call_type == "aresponses":
            ids = {name: found for name in ("id", "conversation", "output") if (found := getattr(response, name, None))}
        else:
            ids = {"output": [audio for audio in map(_spoken, getattr(response, "choices", None) or ()) if audio]}
        if any(given(ids)):
            await self.tenancy.provider_state.aincoming(open_call.tenant, ids)

    async def may_fall_back(self, model: str, request: Mapping[str, Any]) -> bool:
        """Whether a fallback is worth trying: a forbidden one is passed over without a word of its name."""
        open_call = pinned(request)
        return open_call is None or self.gate.policy.entitlement(open_call.tenant, model).allowed

    # Endings that nobody awaits.

    def abandon(self, open_call: OpenCall, loop: asyncio.AbstractEventLoop) -> None:
        """End a call whose caller is gone; a collector runs this, in any thread."""
        if open_call.ended:
            return
        if loop.is_running():
            loop.call_soon_threadsafe(self._spawn, open_call)
        else:
            self._cut_off(open_call)

    def _spawn(self, open_call: OpenCall) -> None:
        task = asyncio.get_running_loop().create_task(self._acut_off(open_call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _acut_off(self, open_call: OpenCall) -> None:
        try:
            if open_call.unseen:
                await self.fail_unseen(open_call, "cancelled")
            else:
                await self.fail(open_call, asyncio.CancelledError())
        except TenancyError as error:
            _log.error("an abandoned call could not be settled; its lease charges it: %s", error)

    def _cut_off(self, open_call: OpenCall) -> None:
        """Without a loop: settle by plain calls."""
        open_call.ended = True
        used = None if open_call.unseen else open_call.count.usage()
        try:
            if open_call.serving is not open_call.hold:
                self.gate.settle(open_call.serving, used, status="cancelled")
            self.gate.settle(open_call.hold, used, status="cancelled")
        except TenancyError as error:
            _log.error("an abandoned call could not be settled; its lease charges it: %s", error)
