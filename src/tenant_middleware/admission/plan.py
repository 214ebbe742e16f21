"""Pure decisions of the gate: what a call asks for, what it really cost, and what a denial says to the caller."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from tenant_middleware.admission.call import Call, Hold, Kind
from tenant_middleware.admission.queue import Ticket
from tenant_middleware.admission.store import Ask, Balance, Denied, Granted, Left, Limits
from tenant_middleware.clock import utc
from tenant_middleware.errors import BudgetBusy, BudgetExceeded, InvalidInput, RateLimited, Refusal
from tenant_middleware.metering.ledger import LedgerRow, Status
from tenant_middleware.metering.pricing import Price, to_nano, to_usd
from tenant_middleware.metering.usage import NO_MEDIA, Usage
from tenant_middleware.policy import Tier

# A stream that writes little still keeps this much output reserved ahead.
_AHEAD = 64
# What a model that is paid by the token writes for one picture at most; gpt-image-1 needs 6,240 for its largest.
_PER_IMAGE = 8_192
_UNITS = {"rpm": "requests a minute", "tpm": "tokens a minute", "concurrency": "calls at once"}


def ask_for(
    call: Call,
    terms: Tier,
    limits: Limits,
    price: Price,
    *,
    ttl: float,
    nonce: str,
    expected_output: int | None = None,
) -> Ask:
    """The reservation of a call: its prompt and a bound on its output, by the tier's cap times the answers asked for.

    `expected_output` replaces the bound where the policy reserves what was learnt instead ("adaptive").
    """
    price = price.for_prompt(call.prompt_tokens)
    output = least = _PER_IMAGE * call.n if call.kind is Kind.IMAGE and price.output else output_bound(call, terms)
    if call.kind is Kind.CHAT:
        if expected_output is not None:
            output = min(output, max(expected_output, 1))
        least = min(terms.min_output_tokens * call.n, output)
    return Ask(
        tenant=call.tenant,
        call_id=call.id,
        limits=limits,
        prompt_tokens=call.prompt_tokens,
        max_output=output,
        min_output=least,
        fixed_nano=call.prompt_tokens * (price.media_nano if call.media else price.input_nano)
        + price.per_call_nano * call.paid_units,
        output_nano=price.output_nano,
        ttl=ttl,
        nonce=nonce,
    )


def output_bound(call: Call, terms: Tier) -> int:
    """The most output a call may ask for, all answers together."""
    if call.kind is not Kind.CHAT:
        return 0
    each = terms.max_output_tokens if call.max_tokens is None else min(call.max_tokens, terms.max_output_tokens)
    return each * call.n


def output_cap(ask: Ask, answer: Granted, bound: int) -> int:
    """The output cap to write into the request: what was reserved, and where only what was learnt is reserved, what
    the budget would pay for beyond it.
    """
    if ask.max_output >= bound or answer.output < ask.max_output:
        return answer.output
    _, _, _, spent, reserved, lost, _ = answer.left
    budget = ask.limits.budget_nano
    if budget is None or ask.output_nano == 0:
        return bound
    return min(bound, answer.output + max(budget - spent - reserved - lost, 0) // ask.output_nano)


def growth(hold: Hold, written: int) -> int:
    """How much output to reserve on top, for an answer that nears or has passed what was learnt: twice what it wrote
    since the last time it was asked, so that it stays ahead until the next.
    """
    ahead = written + max(2 * (written - hold.seen), _AHEAD)
    return max(min(ahead, hold.max_tokens) - hold.reserved, 0)


def ticket_for(ask: Ask, call: Call, terms: Tier, around: Hold | None = None) -> Ticket:
    """What the queue needs to know about a call."""
    return Ticket(
        tenant=call.tenant,
        call_id=call.id,
        model=call.model,
        prompt_tokens=ask.prompt_tokens,
        max_output=ask.max_output,
        weight=terms.weight,
        timeout=terms.queue_timeout,
        inside=None if around is None else around.slot,
    )


def hopeless(ask: Ask, balance: Balance) -> Denied | None:
    """The denial that no wait in line mends: the call alone is larger than a limit, or the budget is used up."""
    limits = ask.limits
    charged, output = balance.spent_nano + balance.lost_nano, ask.max_output
    if limits.budget_nano is not None:
        least = ask.fixed_nano + ask.min_output * ask.output_nano
        if charged + least > limits.budget_nano:
            never = least > limits.budget_nano
            return Denied("budget", limits.budget_nano, charged, None, balance.resets_at, never)
        if ask.fixed_nano + output * ask.output_nano > limits.budget_nano - charged - balance.reserved_nano:
            output = ask.min_output  # the budget may cut it that far
    tokens = ask.prompt_tokens + output
    if limits.tpm is not None and tokens > limits.tpm:
        return Denied("tpm", limits.tpm, tokens, None, None, True)
    return None


def refusal(denied: Denied, call: Call, now: float) -> Refusal:
    """The error that a store's denial becomes: same numbers, in the units of the rule."""
    if denied.rule in ("budget", "budget_busy"):
        return _budget_refusal(denied, call, now)
    if denied.rule in _UNITS:
        return _rate_refusal(denied, call)
    raise InvalidInput(
        "this call id was settled, released or is in use: call ids are made by the gate and used once"
        if denied.rule == "replayed"
        else "this call id has no live reservation: it expired or was never admitted"
    )


def _budget_refusal(denied: Denied, call: Call, now: float) -> BudgetExceeded:
    limit, used = to_usd(denied.limit), to_usd(denied.used)
    resets = None if denied.resets_at is None else utc(denied.resets_at)
    wait = denied.retry_after
    if wait is None and denied.resets_at is not None:
        wait = max(denied.resets_at - now, 0.0)
    busy = denied.rule == "budget_busy"
    text = (
        f"calls in flight hold what is left of the budget of {limit} USD ({used} USD used): retry soon"
        if busy
        else f"the budget of {limit} USD is used up ({used} USD) until {_shown(resets)}"
    )
    kind = BudgetBusy if busy else BudgetExceeded
    return kind(
        text,
        rule="budget",
        tenant_id=call.tenant.id,
        model=call.model,
        limit=limit,
        used=used,
        retry_after=wait,
        resets_at=resets,
    )


def _rate_refusal(denied: Denied, call: Call) -> RateLimited:
    unit = _UNITS[denied.rule]
    at_once = "" if denied.rule == "concurrency" else ", of which a share (burst) may come at once,"
    error = RateLimited(
        f"this call alone takes {denied.used} of a limit of {denied.limit} {unit}: no wait helps"
        if denied.never
        else f"the limit of {denied.limit} {unit}{at_once} is used up: retry in {denied.retry_after:.3g} s",
        rule=denied.rule,
        tenant_id=call.tenant.id,
        model=call.model,
        limit=denied.limit,
        used=denied.used,
        retry_after=denied.retry_after,
        resets_at=None if denied.resets_at is None else utc(denied.resets_at),
    )
    error.never_admissible = denied.never
    return error


def _shown(when: dt.datetime | None) -> str:
    return "the end of its period" if when is None else when.isoformat(timespec="seconds")


def joins(call: Call, root: Hold) -> bool:
    """Whether a call is an attempt of one that is open around it: same tenant, same kind, not yet settled."""
    return not root.done and root.call.kind is call.kind and root.call.tenant == call.tenant


def waiting_for(call: Call, outer: object) -> Hold | None:
    """The open call of another kind that can't end before this one has; it lends its place to one at a time."""
    root = outer.root if isinstance(outer, Hold) else None
    if root is None or root.done or root.lent or root.call.tenant != call.tenant:
        return None
    return root


def budget_share(limits: Limits, granted: Granted) -> float:
    """How much of its budget a tenant has used, with what calls in flight hold: 1 is all of it."""
    left = Left(*granted.left)
    return (left.spent_nano + left.reserved_nano + left.lost_nano) / (limits.budget_nano or 1)


def worth_waiting(denied: Denied) -> bool:
    """Whether a wait may turn this denial into a grant: limits, concurrency, and money that calls in flight hold."""
    return not denied.never and denied.retry_after is not None and denied.rule != "budget"


def used_by(hold: Hold) -> Usage:
    """What one attempt used. A provider that reports nothing is charged by estimate: prompt bound plus output cap."""
    usage = hold.usage
    if usage is not None and (usage.total_tokens or (usage.units and hold.price.per_call)):
        return usage
    return Usage(hold.call.prompt_tokens, hold.max_tokens, source="estimated")


def settled_attempts(hold: Hold) -> list[tuple[Hold, Usage]]:
    """The attempts that cost something: the innermost ones that know their usage, else the call as one attempt."""
    innermost = _innermost([attempt for attempt in hold.attempts if attempt.usage is not None])
    return [(attempt, attempt.usage) for attempt in innermost if attempt.usage is not None] or [(hold, used_by(hold))]


def _innermost(attempts: list[Hold]) -> list[Hold]:
    """Those in which no other of them was made: what went to a provider."""
    around = {id(outer) for attempt in attempts for outer in _around(attempt)}
    return [attempt for attempt in attempts if id(attempt) not in around]


def _around(attempt: Hold) -> Iterator[Hold]:
    outer = attempt.inside
    while outer is not None:
        yield outer
        outer = outer.inside


def row_for(hold: Hold, attempts: list[tuple[Hold, Usage]], status: Status, now: float) -> LedgerRow:
    """The ledger row of a call: tokens and money summed over its attempts, money rounded once per attempt.

    There is one attempt at least: the call itself.
    """
    call = hold.call
    return LedgerRow(
        tenant_id=call.tenant.id,
        call_id=call.id,
        at=now,
        tier=call.tenant.tier,
        subject=call.tenant.subject,
        kind=call.kind.value,
        attempts=len(_innermost(hold.attempts)) or 1,
        attempt_ids=",".join(attempt.call.id for attempt in hold.attempts),
        latency=max(now - hold.started, 0.0),
        queue_wait=hold.queue_wait,
        stream=call.stream,
        status=status,
        by_model=_shares(attempts) if len(attempts) > 1 else "",
        **_figures(attempts),
    )


def _shares(attempts: list[tuple[Hold, Usage]]) -> str:
    """What each model was paid, the one that answered last; nothing where there was one alone."""
    by_model: dict[str, list[tuple[Hold, Usage]]] = {}
    for attempt, usage in attempts:
        by_model.setdefault(attempt.call.model, []).append((attempt, usage))
    if len(by_model) == 1:
        return ""
    last = attempts[-1][0].call.model
    by_model[last] = by_model.pop(last)
    return json.dumps(list(map(_figures, by_model.values())), separators=(",", ":"))


def _figures(attempts: list[tuple[Hold, Usage]]) -> dict[str, Any]:
    """Tokens and money of attempts as a row tells them, under the last one's model and price."""
    total, nano = attempts[0][1], 0
    for _, usage in attempts[1:]:
        total += usage
    for attempt, usage in attempts:
        nano += to_nano(attempt.price.cost(usage, attempt.call.paid_units))
    last, last_usage = attempts[-1]
    model, price = last.call.model, last.price.for_usage(last_usage)
    return {
        "model": model,
        "provider": model.partition("/")[0] if "/" in model else "",
        "prompt_tokens": total.prompt_tokens,
        "cached_tokens": total.cached_tokens,
        "completion_tokens": total.completion_tokens,
        "reasoning_tokens": total.reasoning_tokens,
        "cost_nano": nano,
        "price_source": price.source,
        "price_as_of": price.as_of,
        "source": total.source,
        "cache_write_tokens": total.cache_write_tokens,
        "cache_write_1h_tokens": total.cache_write_1h_tokens,
        "media_tokens": _media_of(total),
    }


def _media_of(usage: Usage) -> str:
    """Tokens that are no text, as a row tells them: `prompt_audio=12,completion_image=3`."""
    if usage.prompt_media is usage.completion_media is NO_MEDIA:
        return ""
    sides = {"prompt": usage.prompt_media, "completion": usage.completion_media}
    return ",".join(
        f"{side}_{name}={count}" for side, media in sides.items() for name, count in media._asdict().items() if count
    )


def hit_row(call: Call, now: float) -> LedgerRow:
    """The row of an answer that came from a cache: recorded, at no cost."""
    return LedgerRow(
        tenant_id=call.tenant.id,
        call_id=call.id,
        at=now,
        tier=call.tenant.tier,
        subject=call.tenant.subject,
        model=call.model,
        kind=call.kind.value,
        attempts=0,
        status="cache_hit",
    )
