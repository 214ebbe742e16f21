"""One worker's side of a pool of slots that many workers share: what it asked for, what it holds, what it says.

The pool itself, and every decision, is in `queue.lua`. Each thing to say is a flow, driven by a thread or a loop.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

from tenant_middleware import keys, telemetry
from tenant_middleware.admission.breaker import Breaker
from tenant_middleware.admission.queue import LaneState, PoolState, Ticket
from tenant_middleware.admission.queueing.pools import PoolRule
from tenant_middleware.admission.queueing.refusals import line_full, retry_in, too_late
from tenant_middleware.admission.queueing.signal import Signal
from tenant_middleware.backends.redis.steps import Flow, Nodes, RunScript, Unreachable, call_again
from tenant_middleware.errors import RateLimited, StoreUnavailable

_log = logging.getLogger(__name__)
GRANTED, IN_LINE, FULL = 1, 0, -1
MAX_UNTOLD = 10_000
SHOWN = 200  # tenants in a view for operators


@dataclass(slots=True, eq=False)
class Lease:
    """A call in a shared pool: `ready` once it has a slot, `in_line` when the server has it waiting.

    `turn` counts how often it was parked: word of a slot that it gave back may still be on its way.
    """

    id: str
    pool: SharedPool
    ticket: Ticket
    signal: Signal
    since: float
    patience: float
    waited: float = 0.0
    probe: bool = False
    ready: bool = False
    in_line: bool = False
    turn: int = 0
    back_at: float = 0.0
    refusal: RateLimited | StoreUnavailable | None = None

    def remaining(self, now: float) -> float | None:
        """How long it may still wait; None when the slot is there. Raises when it is too late."""
        if self.ready:
            return None
        if self.refusal is not None:
            raise self.refusal
        waited = self.waited + now - self.since
        if waited >= self.patience:
            raise too_late(self.ticket, waited, retry_in(waited, self.back_at - now))
        return self.patience - waited


class Server:
    """The Redis behind all pools; a circuit breaker keeps calls from waiting for one that is down."""

    def __init__(self, nodes: Nodes, script: RunScript) -> None:
        self._nodes, self._script = nodes, script
        self._breaker = Breaker()

    def ask(self, key: str, args: list[str]) -> Flow[Any]:
        """One step of the script, whose every verb is idempotent."""
        if not self._breaker.allows(time.monotonic()):
            raise _down("it was, a moment ago")
        try:
            reply = yield from call_again(self._nodes, self._script, [key], args)
        except StoreUnavailable as error:
            slow = isinstance(error, Unreachable) and error.slow
            if self._breaker.failed(time.monotonic(), slow=slow):
                telemetry.store_down("queue")
                _log.error("the queue in Redis is down; calls stop waiting for it: %s", error)
            raise _down(type(error).__name__) from None
        self._breaker.worked()
        return reply


def _down(why: str) -> StoreUnavailable:
    return StoreUnavailable(f"the queue in Redis can't be reached ({why}); retry soon", store="queue", retry_after=1.0)


class SharedPool:
    """What this worker asked of a pool and holds of it. `due` is when it has to speak up again, by monotonic time.

    An id is in `asked` or `held` from before the server hears of it until after it was told to forget it, so that
    `tick` can tell what got lost on either side.
    """

    def __init__(
        self,
        rule: PoolRule,
        worker: str,
        lease: float,
        server: Server,
        wake: Callable[[], None],
        *,
        grace: float = 0.0,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.rule, self.worker = rule, worker
        self.key = keys.pool_key(rule.name)
        self.box = f"{self.key}box:{worker}"
        self.asked: dict[str, Lease] = {}
        self.held: dict[str, Lease] = {}
        self.due = 0.0
        self._untold: dict[str, tuple[int, int]] = {}
        self._server, self._lease, self._wake, self._now = server, lease, wake, now
        self._numbers = itertools.count(1)
        self._terms = _terms(rule, lease, grace)
        self._packed = json.dumps(self._terms)

    def lease(self, ticket: Ticket, signal: Signal, now: float) -> Lease:
        """A new place, of which the server doesn't know yet."""
        most = self.rule.terms.caps.max_age
        patience = ticket.timeout if most is None else min(ticket.timeout, most)
        return Lease(f"{self.worker}.{next(self._numbers)}", self, ticket, signal, now, patience)

    # What is said; each a flow.

    def enter(self, lease: Lease, *, aside: float = 0.0) -> Flow[None]:
        """Ask for a slot; then the lease is `ready`, or in line. Raises RateLimited when it may not even wait."""
        self.asked[lease.id] = lease
        try:
            yield from self._enter(lease, aside, at_once=lease.ticket.timeout <= 0)
        except BaseException:
            self.asked.pop(lease.id, None)
            raise

    def _enter(self, lease: Lease, aside: float, *, at_once: bool = False) -> Flow[None]:
        turn = lease.turn
        words = (*_call(lease), str(aside), "1" if at_once else "0", str(turn))
        status, more = yield from self._say("enter", *words)
        if status == GRANTED:
            self.granted(lease.id, turn, probe=bool(more and more[0]), at_once=not lease.in_line)
        elif status == IN_LINE:
            lease.in_line = True
        elif status == FULL:
            waited = float(more[1])
            raise line_full(lease.ticket, int(more[0]), self.rule.terms.caps.max_length, retry_in(waited))
        else:  # not at once, and it may not wait
            raise too_late(lease.ticket, 0.0, retry_in(0.0, float(more[0])))

    def park(self, lease: Lease, seconds: float, now: float) -> Flow[None]:
        """Give the slot back and stand aside; the lease waits again."""
        lease.turn += 1  # first: from now on no word of the old slot counts
        lease.ready = lease.probe = lease.in_line = False
        self.asked[lease.id] = lease
        self.held.pop(lease.id, None)
        lease.since, lease.back_at = now, now + seconds
        status, _ = yield from self._say("park", lease.id, str(seconds), str(lease.turn))
        if status == GRANTED:
            lease.in_line = True
        else:  # it had lost its slot to max_runtime
            yield from self._say("leave", lease.id, "0", "0")
            yield from self._enter(lease, seconds)

    def progress(self, lease: Lease, completion_tokens: int) -> Flow[None]:
        """Tell what was written so far. While the server is down the next report, or the end, makes up for it."""
        try:
            yield from self._say("progress", lease.id, str(completion_tokens))
        except StoreUnavailable as error:
            _log.info("progress of a call was not told: %s", error)

    def leave(self, lease: Lease, prompt_tokens: int, completion_tokens: int) -> Flow[None]:
        """Give the slot or the place in line back; when the server can't hear it now, it is told later."""
        mine = self.held.pop(lease.id, None) or self.asked.pop(lease.id, None)
        if mine is None:
            return
        try:
            yield from self._say("leave", lease.id, str(prompt_tokens), str(completion_tokens))
        except StoreUnavailable:
            if len(self._untold) < MAX_UNTOLD:
                self._untold[lease.id] = (prompt_tokens, completion_tokens)

    def tick(self) -> Flow[None]:
        """Renew this worker's lease, let happen what is due, and mend what either side has lost."""
        known, _ = yield from self._say("tick")
        if self._untold or self.asked or known != len(self.held):
            yield from self._compare()

    def bye(self) -> Flow[None]:
        """Give up everything this worker has in the pool; who waits is told, since nobody will hear of a slot."""
        for lease in tuple(self.asked.values()):
            lease.refusal = StoreUnavailable("the queue was closed while this call waited", store="queue")
            lease.signal.set()
        self.asked.clear()
        self.held.clear()
        yield from self._say("bye")

    def forget(self, tenant_id: str) -> Flow[bool]:
        """Drop what is known of a tenant that left; says whether there was any."""
        status, _ = yield from self._say("forget", tenant_id)
        return status > 0

    def state(self) -> Flow[PoolState]:
        """What the pool looks like, for operators; of its tenants, those seen last."""
        _, (running, waiting, rows) = yield from self._say("state", str(SHOWN))
        lanes = sorted((_lane(row) for row in rows), key=lambda lane: (-(lane.waiting + lane.running), lane.tenant_id))
        return PoolState(self.rule.name, self.rule.terms.slots, running, waiting, tuple(lanes))

    # What is heard.

    def told(self, word: str) -> None:
        """A word of the box: the id, `#` and how often it was parked if it was, `?` for a probe."""
        job, _, turn = word.rstrip("?").partition("#")
        self.granted(job, int(turn or 0), probe=word.endswith("?"))

    def granted(self, job: str, turn: int, *, probe: bool, at_once: bool = False) -> None:
        """A job got its slot; one that nobody waits for was given up meanwhile, and the server was told."""
        lease = self.asked.get(job)
        if lease is not None and lease.turn == turn:
            lease.probe = probe
            if not at_once:  # asking isn't waiting
                lease.waited += max(time.monotonic() - lease.since, 0.0)
            self.held[job] = lease
            self.asked.pop(job, None)
            lease.ready = True
            lease.signal.set()

    def _say(self, verb: str, *rest: str) -> Flow[tuple[int, Any]]:
        packed = self._packed if self._now is None else json.dumps({**self._terms, "now": self._now()})
        status, more, upcoming = yield from self._server.ask(self.key, [verb, self.worker, packed, *rest])
        self._plan(float(upcoming))
        return status, more

    def _plan(self, upcoming: float) -> None:
        """Speak up when something is due that somebody here waits for; a millisecond late, so that it is due."""
        due = time.monotonic() + upcoming + 0.001
        if self.asked and due < self.due:
            self.due = due
            self._wake()

    def _compare(self) -> Flow[None]:
        _, rows = yield from self._say("mine")
        theirs = {job.decode(): (state.decode(), bool(probe), turn) for job, state, probe, turn in rows}
        # Twice, since a call that is granted or parked meanwhile goes from one to the other.
        known = {*tuple(self.asked), *tuple(self.held), *tuple(self.asked)}
        for job in theirs.keys() - known:
            prompt, completion = self._untold.get(job, (0, 0))
            yield from self._say("leave", job, str(prompt), str(completion))
        self._untold.clear()
        for lease in tuple(self.held.values()):
            if lease.id not in theirs:
                yield from self._say("adopt", *_call(lease), str(lease.turn))
        for lease in tuple(self.asked.values()):
            state, probe, turn = theirs.get(lease.id, ("", False, 0))
            if state == "r":  # the word of it was lost
                self.granted(lease.id, turn, probe=probe)
            elif not state and lease.in_line:
                yield from self._again(lease)

    def _again(self, lease: Lease) -> Flow[None]:
        try:
            yield from self._enter(lease, max(lease.back_at - time.monotonic(), 0.0))
        except RateLimited as refusal:
            lease.refusal = refusal
            lease.signal.set()


def _terms(rule: PoolRule, lease: float, grace: float) -> dict[str, Any]:
    """The terms as `queue.lua` reads them; -1 is no cap."""
    terms, caps = rule.terms, rule.terms.caps
    return {
        "order": rule.order,
        "slots": terms.slots,
        "lane_slots": -1 if terms.lane_slots == inf else terms.lane_slots,
        "k": terms.output_weight,
        "prior": terms.prior_output,
        "max_wait": terms.max_wait,
        "max_runtime": terms.max_runtime,
        "max_tokens": -1 if caps.max_tokens is None else caps.max_tokens,
        "max_length": -1 if caps.max_length is None else caps.max_length,
        "lease": lease,
        "grace": grace,
    }


def _call(lease: Lease) -> Iterable[str]:
    ticket = lease.ticket
    sizes = (str(ticket.prompt_tokens), str(ticket.max_output), repr(ticket.weight))
    return (lease.id, ticket.tenant.id, ticket.model, *sizes)


def _lane(row: list[Any]) -> LaneState:
    name, waiting, running, weight, tokens, calls, waited, longest, parked = row
    count = int(calls)
    return LaneState(
        tenant_id=name.decode(),
        waiting=waiting,
        running=running,
        weight=float(weight),
        served_tokens=float(tokens),
        served_calls=count,
        mean_wait=float(waited) / count if count else 0.0,
        longest_wait=float(longest),
        parked_for=max(float(parked), 0.0),
    )
