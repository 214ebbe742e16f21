"""The one path of a model call: entitlement, queue, reservation, the call itself, settlement, ledger.

Adapters use `call`/`acall`, or the primitives where a framework's hooks can't span a `with`. A call that enters while
another one of the same tenant is open in this context joins it as an attempt: one reservation, one ledger row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace

from tenant_middleware import telemetry
from tenant_middleware.admission import plan
from tenant_middleware.admission.call import Call, Hold, Kind, new_call_id, new_nonce
from tenant_middleware.admission.entry import Entry
from tenant_middleware.admission.estimate import Learnt
from tenant_middleware.admission.queue import FairQueue, Slot, Ticket
from tenant_middleware.admission.store import AdmissionStore, Ask, Denied, Granted, Limits, Settlement
from tenant_middleware.clock import Clock
from tenant_middleware.context import current_tenant, open_call
from tenant_middleware.errors import ModelForbidden, RateLimited, TenancyError
from tenant_middleware.flow import Flow, Op, arun, run
from tenant_middleware.isolation.provider_state import ProviderState
from tenant_middleware.metering.ledger import LedgerRow, Status
from tenant_middleware.metering.price_book import PriceBook
from tenant_middleware.metering.pricing import to_nano
from tenant_middleware.metering.usage import Usage
from tenant_middleware.policy import Policy, Tier
from tenant_middleware.tenant import Tenant

# Cut off from our side, not refused by the provider: what was sent may have to be paid for.
_CUT_OFF = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
# How often a stream tells the queue what it has written; any slower, and long answers are charged too late.
_HEARTBEAT_S = 2.0


class ModelGate:
    """Admits, extends, settles and releases model calls for all adapters; `a` twins do the same by awaiting.

    `store_for` gives the admission store of a tenant (a silo has its own), `record` takes rows that no reservation
    stands behind (cache hits).
    """

    def __init__(
        self,
        policy: Policy,
        store_for: Callable[[Tenant], AdmissionStore],
        prices: PriceBook,
        queue: FairQueue,
        clock: Clock,
        record: Callable[[LedgerRow], object],
        *,
        reservation_ttl: float = 120.0,
        provider_state: Callable[[], ProviderState] | None = None,
    ) -> None:
        self.policy = policy
        self.prices = prices
        self.queue = queue
        self.clock = clock
        self.store_for = store_for
        self._record = record
        self._ttl = reservation_ttl
        self._provider_state = provider_state
        self.learnt = Learnt()
        self._known_limits: dict[tuple[int, bool], tuple[Tier, Limits]] = {}

    @property
    def provider_state(self) -> ProviderState | None:
        """What adapters pass requests through before they are sent; None for a gate that was made without one."""
        return self._provider_state() if self._provider_state is not None else None

    # The primitives, for hooks that can't span a `with`.

    def admit(self, call: Call) -> Hold:
        """Reserve for a call, waiting at most the tier's queue_timeout.

        Raises ModelForbidden, RateLimited, BudgetExceeded, BudgetBusy, UnpricedModel or StoreUnavailable; then nothing
        is held. Every Hold must end in `settle` or `release`.
        """
        return run(self._admit(call))

    async def aadmit(self, call: Call) -> Hold:
        """`admit`, by awaiting."""
        return await arun(self._admit(call))

    def extend(self, hold: Hold, tokens: int = 0) -> None:
        """Keep a long call's reservation alive, and grow it by `tokens` of output; raises as `admit` does."""
        run(self._extend(hold, tokens))

    async def aextend(self, hold: Hold, tokens: int = 0) -> None:
        """`extend`, by awaiting."""
        await arun(self._extend(hold, tokens))

    def settle(self, hold: Hold, usage: Usage | None = None, *, status: Status = "ok") -> LedgerRow | None:
        """Swap the reservation for what was used, and book it; a second settle changes nothing.

        Without usage the prompt bound and the output cap are charged, marked as estimated. Returns the row that was
        booked; None for an attempt, and when nothing changed.
        """
        return run(self._settle(hold, usage, status))

    async def asettle(self, hold: Hold, usage: Usage | None = None, *, status: Status = "ok") -> LedgerRow | None:
        """`settle`, by awaiting; it runs to its end when cancelled meanwhile."""
        return await arun(self._settle(hold, usage, status))

    def release(self, hold: Hold) -> None:
        """Give the reservation back: the call never reached a provider, or the provider refused it."""
        run(self._release(hold))

    async def arelease(self, hold: Hold) -> None:
        """`release`, by awaiting."""
        await arun(self._release(hold))

    def end(self, hold: Hold, error: BaseException | None) -> None:
        """End a call as the exception says that left it; None settles what was reported.

        An exception of the provider gives the reservation back; a call cut off from our side (cancelled, closed) is
        charged what was reported, or its prompt.
        """
        run(self._end(hold, error))

    async def aend(self, hold: Hold, error: BaseException | None) -> None:
        """`end`, by awaiting."""
        await arun(self._end(hold, error))

    def join(self, hold: Hold, call: Call) -> Hold:
        """A further attempt of an open call (another model, another provider): one reservation, one ledger row."""
        return run(self._attempt(hold, call))

    async def ajoin(self, hold: Hold, call: Call) -> Hold:
        """`join`, by awaiting."""
        return await arun(self._attempt(hold, call))

    def heartbeat_due(self, hold: Hold) -> bool:
        """Note a chunk of a stream, and whether it should `report` and `extend` now; cheap enough for each chunk."""
        root, now = hold.root, self.clock.time()
        if root.first_chunk is None:
            root.first_chunk = now
        return not root.done and now - root.renewed > min(self._ttl / 3, _HEARTBEAT_S)

    def hit(self, call: Call) -> None:
        """Book an answer that came from a cache: it costs nothing and uses up no limit."""
        self.check_entitled(call)
        self._record(plan.hit_row(call, self.clock.time()))

    # The sugar: admit, note the open call, end it whatever happens.

    def new_call(
        self,
        model: str,
        *,
        kind: Kind | str = Kind.CHAT,
        prompt_tokens: int = 0,
        max_tokens: int | None = None,
        n: int = 1,
        stream: bool = False,
        service_tier: str = "",
        media: bool = False,
    ) -> Call:
        """A call of the tenant in context, with an id of our own."""
        more = (n, stream, service_tier, media)
        return Call(current_tenant(), model, Kind(kind), prompt_tokens, max_tokens, new_call_id(), 0, *more)

    def call(self, call: Call) -> AbstractContextManager[Hold]:
        """Admit a call for the length of a `with`; `hold.report(usage)` says what it used.

        An exception of the provider gives the reservation back; a call cut off from our side (cancelled, closed) is
        charged what was reported, or its prompt.
        """
        return Entry(self, call)

    def acall(self, call: Call) -> AbstractAsyncContextManager[Hold]:
        """`call`, by awaiting."""
        return Entry(self, call)

    # The flows behind both twins.

    def _admit(self, call: Call) -> Flow[Hold]:
        outer = open_call()
        self.check_entitled(call)
        if isinstance(outer, Hold) and plan.joins(call, outer.root):
            return (yield from self._join(outer, call))
        around = plan.waiting_for(call, outer)
        if around is None:
            return (yield from self._admit_alone(call, None))
        around.lent = True
        try:
            return (yield from self._admit_alone(call, around))
        except BaseException:
            around.lent = False
            raise

    def _admit_alone(self, call: Call, around: Hold | None) -> Flow[Hold]:
        """A reservation and a slot of its own; inside an open call it isn't one more of the tenant's calls at once."""
        terms = self.policy.for_tenant(call.tenant)
        price = self.prices.price(call.model, service_tier=call.service_tier)
        limits = self._limits(terms, at_once=around is None)
        adaptive = terms.estimate == "adaptive" and call.kind is Kind.CHAT
        expected = self.learnt.p95_output(call.tenant, call.model) if adaptive else None
        ask = plan.ask_for(call, terms, limits, price, ttl=self._ttl, nonce=new_nonce(), expected_output=expected)
        ticket, store = plan.ticket_for(ask, call, terms, around), self.store_for(call.tenant)
        began = self.clock.time()
        slot = yield from self._enter(call, ask, ticket, store)
        slot, answer = yield from self._reserve(call, ask, ticket, store, slot, began + terms.queue_timeout)
        now = self.clock.time()
        if ask.limits.budget_nano:
            telemetry.budget_used(call.tenant, plan.budget_share(ask.limits, answer))
        return Hold(
            call,
            ask.limits,
            price,
            plan.output_cap(ask, answer, plan.output_bound(call, terms)) if adaptive else answer.output,
            answer.nano,
            now,
            slot.waited,
            around=around,
            slot=slot,
            renewed=now,
            left=answer.left,
            adaptive=adaptive,
            reserved=answer.output,
            admission=max(now - began - slot.waited, 0.0),
        )

    def _enter(self, call: Call, ask: Ask, ticket: Ticket, store: AdmissionStore) -> Flow[Slot]:
        """A free slot at once; before a call joins the line, it is refused when no wait would make it admissible."""
        try:
            slot: Slot
            try:
                at_once = ticket if ticket.timeout <= 0 else replace(ticket, timeout=0.0)
                slot = yield Op(self.queue, "enter", (at_once,), whole=False)
            except RateLimited:
                if ticket.timeout <= 0:
                    raise
                balance = yield Op(store, "balance", (call.tenant, ask.limits))
                if (denied := plan.hopeless(ask, balance)) is not None:
                    raise plan.refusal(denied, call, self.clock.time()) from None
                slot = yield Op(self.queue, "enter", (ticket,), whole=False)
            return slot
        except TenancyError as error:
            telemetry.refused(call.tenant, error)
            raise

    def _reserve(
        self, call: Call, ask: Ask, ticket: Ticket, store: AdmissionStore, slot: Slot, deadline: float
    ) -> Flow[tuple[Slot, Granted]]:
        """The reservation, and the slot by then: a call that limits deny parks, and tries again when that is over."""
        answer: Granted | Denied | None = None
        held: Slot | None = slot
        try:
            while isinstance(answer := (yield Op(store, "reserve", (ask,))), Denied):
                now = self.clock.time()
                if not plan.worth_waiting(answer) or now + (answer.retry_after or 0.0) > deadline:
                    raise plan.refusal(answer, call, now)
                held = None
                held = slot = yield Op(self.queue, "park", (ticket, slot, answer.retry_after), whole=False)
            if slot.probe:
                yield Op(self.queue, "progress", (slot, 0))
            return slot, answer
        except BaseException as error:
            denied = isinstance(error, TenancyError) and not isinstance(answer, Granted)
            if not denied:  # the reply was lost or cut off: the reservation may be there
                yield Op(store, "release", (call.tenant, call.id, ask.limits))
            if held is not None:
                yield Op(self.queue, "leave", (held, 0, 0))
            telemetry.refused(call.tenant, error)
            raise

    def _limits(self, terms: Tier, *, at_once: bool = True) -> Limits:
        """The same object for the same terms, which a store recognises without comparing them."""
        known = self._known_limits.get((id(terms), at_once))
        if known is None:  # the terms are kept beside it: their id can't become somebody else's
            limits = Limits.of(terms) if at_once else replace(Limits.of(terms), max_concurrency=None)
            known = self._known_limits[id(terms), at_once] = (terms, limits)
        return known[1]

    def check_entitled(self, call: Call) -> None:
        """Raise ModelForbidden unless the policy gives the call's tenant this model."""
        allowed, rule = self.policy.entitlement(call.tenant, call.model)
        if not allowed:
            error = ModelForbidden(
                "this tenant may not call this model: its tier's or its own `models` and `owns` don't cover the name",
                rule=rule,
                tenant_id=call.tenant.id,
                model=call.model,
            )
            telemetry.refused(call.tenant, error)
            raise error

    def _attempt(self, hold: Hold, call: Call) -> Flow[Hold]:
        self.check_entitled(call)
        return (yield from self._join(hold, call))

    def _join(self, outer: Hold, call: Call) -> Flow[Hold]:
        """An attempt inside an open call, priced by its own model; the reservation grows when it needs more."""
        root = outer.root
        price = self.prices.price(call.model, service_tier=call.service_tier)
        terms = self.policy.for_tenant(call.tenant)
        ask = plan.ask_for(call, terms, self._limits(terms), price, ttl=self._ttl, nonce=new_nonce())
        output = min(ask.max_output, root.max_tokens)
        spent = sum(to_nano(a.price.cost(a.usage, a.call.paid_units)) for a in root.attempts if a.usage is not None)
        missing = spent + ask.fixed_nano + output * ask.output_nano - root.nano
        if missing > 0:
            yield from self._grow(root, output=0, nano=missing)
        inside = None if outer is root else outer
        attempt = Hold(call, root.limits, price, output, 0, self.clock.time(), parent=root, inside=inside)
        root.attempts.append(attempt)
        return attempt

    def _extend(self, hold: Hold, tokens: int) -> Flow[None]:
        root = hold.root
        written = sum(attempt.usage.completion_tokens for attempt in (root, *root.attempts) if attempt.usage)
        more = plan.growth(root, written) if root.adaptive else 0
        # Its money is reserved now or the stream ends; its tokens are a debt of the bucket when it settles.
        per_token = root.price.for_prompt(root.call.prompt_tokens).output_nano
        yield from self._grow(root, output=tokens, nano=more * per_token)
        root.reserved, root.seen = root.reserved + more, written
        if root.slot is not None:
            yield Op(self.queue, "progress", (root.slot, written))

    def _grow(self, root: Hold, *, output: int, nano: int) -> Flow[None]:
        tenant, per_token = root.call.tenant, root.price.for_prompt(root.call.prompt_tokens).output_nano
        ask = Ask(tenant, root.call.id, root.limits, 0, output, output, nano, per_token, self._ttl, new_nonce())
        answer = yield Op(self.store_for(root.call.tenant), "extend", (ask,))
        now = self.clock.time()
        if isinstance(answer, Denied):
            raise plan.refusal(answer, root.call, now)
        root.renewed = now
        root.nano += answer.nano
        root.max_tokens += answer.output
        root.reserved += answer.output

    def _settle(self, hold: Hold, usage: Usage | None, status: Status) -> Flow[LedgerRow | None]:
        if usage is not None:
            hold.usage = usage
        if hold.done:
            return None
        hold.done = True
        if hold.parent is not None:
            if hold.usage is None or hold.usage.total_tokens == 0:
                hold.usage = plan.used_by(hold)
            return None
        now = self.clock.time()
        attempts = plan.settled_attempts(hold)
        row = plan.row_for(hold, attempts, status, now)
        tokens = row.prompt_tokens + row.completion_tokens
        settlement = Settlement(hold.call.tenant, hold.call.id, hold.limits, tokens, row.cost_nano, row)
        try:
            yield Op(self.store_for(hold.call.tenant), "settle", (settlement,))
        except TenancyError:
            hold.done = False  # still ours to settle; the lease charges it in full if nobody does
            raise
        finally:
            yield from self._leave(hold, row.prompt_tokens, row.completion_tokens)
        if hold.adaptive and row.source == "provider" and status == "ok":
            self.learnt.observe(hold.call.tenant, hold.call.model, output=row.completion_tokens)
        first = None if hold.first_chunk is None else max(hold.first_chunk - hold.started, 0.0)
        telemetry.settled(row, hold.call.tenant, admission=hold.admission, first_token=first)
        return row

    def _release(self, hold: Hold) -> Flow[None]:
        if any(attempt.usage is not None for attempt in hold.attempts):
            yield from self._settle(hold, None, "error")
            return
        if hold.done:
            return
        hold.done = True
        if hold.parent is not None:
            return
        tenant = hold.call.tenant
        try:
            yield Op(self.store_for(tenant), "release", (tenant, hold.call.id, hold.limits))
        finally:
            yield from self._leave(hold, 0, 0)

    def _leave(self, hold: Hold, prompt_tokens: int, completion_tokens: int) -> Flow[None]:
        """Give back the slot, or what another call had lent."""
        if hold.around is not None:
            hold.around.lent, hold.around = False, None
        slot, hold.slot = hold.slot, None
        if slot is not None:
            yield Op(self.queue, "leave", (slot, prompt_tokens, completion_tokens))

    def _end(self, hold: Hold, error: BaseException | None) -> Flow[None]:
        if error is None:
            yield from self._settle(hold, hold.usage, "ok")
        elif isinstance(error, _CUT_OFF):
            usage = hold.usage or Usage(hold.call.prompt_tokens, source="estimated")
            yield from self._settle(hold, usage, "cancelled")
        elif hold.usage is not None:
            yield from self._settle(hold, hold.usage, "error")
        else:
            yield from self._release(hold)
