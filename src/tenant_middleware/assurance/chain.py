"""The audit of a user's own chain: canaries go in through its `ingest`, and everybody asks its `ask` for everybody's.

Two controls make silence mean something. Positive: each owner finds its own canary. Mutation: with all of them played
by one tenant, so that nothing separates them, the same questions find each other's canaries; a chain in which they
don't would look tight whatever it leaked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from tenant_middleware.assurance.callables import NOT_ASKED, Streamed, WayIn
from tenant_middleware.assurance.canaries import Canary
from tenant_middleware.assurance.sightings import sighting
from tenant_middleware.context import scope
from tenant_middleware.errors import TenancyError
from tenant_middleware.tenant import Tenant

Verdict = Literal["held", "LEAK", "CONTROL FAILED", "ERROR"]
_CANCELLED_AT = 24  # await points of a call that are tried for a cancellation
_STREAM_ITEMS = 500
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried, what came of it, and the way the text took if it got out."""

    name: str
    verdict: Verdict
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:<14} {self.name}" + (f"\n                 {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class ChainReport:
    """Every step of one audit; `seed` repeats its schedule."""

    seed: int
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        return bool(self.steps) and all(step.verdict == "held" for step in self.steps)

    def __str__(self) -> str:
        bad = [step for step in self.steps if step.verdict != "held"]
        if not bad:
            return f"tenant audit: all {len(self.steps)} steps held (seed {self.seed})"
        more = [f"... and {len(bad) - _SHOWN} more of the kind"] if len(bad) > _SHOWN else []
        head = f"tenant audit: {len(bad)} of {len(self.steps)} steps failed (seed {self.seed})"
        return "\n".join([head, *map(str, bad[:_SHOWN]), *more])


class ChainAudit:
    """Runs the steps over one chain; `ingest` and `ask` are called for a tenant, in its scope."""

    def __init__(
        self, ingest: WayIn, ask: WayIn, planted: Sequence[Canary], run: Callable[..., Any], dice: random.Random
    ) -> None:
        self._ingest, self._ask, self._planted, self._run, self._dice = ingest, ask, planted, run, dice

    def steps(self, whole: Tenant) -> Iterator[Step]:
        """All steps in order; `whole` plays everybody in the mutation control."""
        for canary in self._planted:
            yield self._plant(canary)
        found = [self._finds_own(canary) for canary in self._planted]
        yield from found
        yield from self._nobody_finds_anothers()
        if all(step.verdict == "held" for step in found):
            yield from self._at_the_same_time()
            yield from self._streams_resumed_elsewhere()
            yield from self._cancelled_calls()
            yield from self._without_separation(whole)

    def _plant(self, canary: Canary) -> Step:
        name = f"{canary.owner} ingests its canary"
        try:
            self._ingest(canary.owner, canary.text)
        except Exception as error:  # noqa: BLE001  the user's code may raise anything: that is a result, and told
            return Step(name, "ERROR", f"{self._ingest.shown} raised {_told(error)}")
        return Step(name, "held")

    def _finds_own(self, canary: Canary) -> Step:
        name = f"positive control: {canary.owner} asks for its own canary"
        answers: list[object] = []
        for question in (canary.question, canary.paraphrase):
            try:
                answers.append(self._ask(canary.owner, question))
            except Exception as error:  # noqa: BLE001  as above
                return Step(name, "CONTROL FAILED", f"{self._ask.shown} raised {_told(error)}")
            if sighting(answers[-1], canary.code) is not None:
                return Step(name, "held")
        return Step(
            name,
            "CONTROL FAILED",
            f"nothing was found: {self._ingest.shown} took {canary.text!r}, {self._ask.shown} was asked "
            f"{canary.question!r} and answered {_short(answers[0])}. A chain that finds nothing proves nothing",
        )

    def _nobody_finds_anothers(self) -> Iterator[Step]:
        for asker in self._planted:
            for owned in self._planted:
                if asker is not owned:
                    yield self._asks_for(asker, owned, owned.question)

    def _asks_for(self, asker: Canary, owned: Canary, question: str) -> Step:
        name = f"{asker.owner} asks {owned.owner}'s question"
        try:
            answer: object = self._ask(asker.owner, question)
        except Exception as error:  # noqa: BLE001  as above; what it says could be the leak
            leak = self._leak(name, asker, error)
            if leak is None and (isinstance(error, NOT_ASKED) or not isinstance(error, TenancyError)):
                return Step(name, "ERROR", f"{self._ask.shown} raised {_told(error)}")
            return leak or Step(name, "held")
        return self._leak(name, asker, answer) or Step(name, "held")

    def _leak(self, name: str, asker: Canary, answer: object) -> Step | None:
        """A step that failed when the answer to `asker` holds anybody else's canary."""
        for other in self._planted:
            path = None if other is asker else sighting(answer, other.code)
            if path is not None:
                way = (
                    f"{other.owner}'s {other.code} went in by {self._ingest.shown} and came out to {asker.owner} by "
                    f"{self._ask.shown} at {path}: {_short(answer)}"
                )
                return Step(name, "LEAK", way)
        return None

    def _at_the_same_time(self) -> Iterator[Step]:
        """Everybody's questions at once, in an order drawn by the seed, in threads or tasks as the chain is made."""
        order = [canary for canary in self._planted for _ in range(3)]
        self._dice.shuffle(order)
        waits = self._waits()
        if waits:
            answers = self._run(_gathered([self._ask.acall(one.owner, one.question) for one in order]))
        else:
            with ThreadPoolExecutor(4, "tm-audit") as pool:
                answers = list(pool.map(self._attempt, order))
        for one, answer in zip(order, answers, strict=True):
            name = f"{one.owner} asks while the others do"
            leak = self._leak(name, one, answer)
            if leak is not None:
                yield leak
                return
        yield Step("all ask at the same time", "held")

    def _attempt(self, canary: Canary) -> object:
        try:
            return self._ask(canary.owner, canary.question)
        except Exception as error:  # noqa: BLE001  looked at as an answer
            return error

    def _waits(self) -> bool:
        """Whether the chain is asynchronous, seen from one call of it."""
        first = self._planted[0]
        if self._ask.is_async:
            return True
        try:
            begun = self._ask.begin(first.owner, first.question)
        except TenancyError:
            return False
        waits = self._ask.waits(begun)
        if hasattr(begun, "close"):
            begun.close()  # a coroutine or generator that nobody will read
        return waits

    def _streams_resumed_elsewhere(self) -> Iterator[Step]:
        """A stream begun for one tenant is read on in the scope of another, and of nobody."""
        for asker, other in (self._dice.sample(list(self._planted), 2) for _ in range(2)):
            name = f"a stream of {asker.owner} is read on by {other.owner}"
            try:
                begun = self._ask.begin(asker.owner, asker.question)
            except TenancyError:
                return
            if isinstance(begun, Iterator):
                read = _swapped(begun, other)
            elif isinstance(begun, AsyncIterator):
                read = self._run(_aswapped(begun, other))
            else:
                if hasattr(begun, "close"):
                    begun.close()
                return
            leak = next((step for o in self._planted if (step := self._crossed(name, asker, o, read))), None)
            yield leak or Step(name, "held")

    def _crossed(self, name: str, asker: Canary, other: Canary, read: list[object]) -> Step | None:
        if other is asker or (path := sighting(Streamed.of(read), other.code)) is None:
            return None
        return Step(
            name, "LEAK", f"{asker.owner}'s stream gave {other.owner}'s {other.code} at {path}: the tenant flipped"
        )

    def _cancelled_calls(self) -> Iterator[Step]:
        """A call is cancelled at one of its await points, then somebody else asks on what it left behind."""
        if not self._waits():
            return
        for point in sorted(self._dice.sample(range(_CANCELLED_AT), 6)):
            victim, other = self._dice.sample(list(self._planted), 2)
            name = f"{other.owner} asks after {victim.owner}'s call was cancelled at await {point}"
            answer = self._run(_cancelled_then(self._ask, victim, other, point))
            yield self._leak(name, other, answer) or Step(name, "held")

    def _without_separation(self, whole: Tenant) -> Iterator[Step]:
        """The mutation control, last: it puts everybody's canaries into one tenant."""
        together = [replace(canary, owner=whole) for canary in self._planted]
        for canary in together:
            step = self._plant(canary)
            if step.verdict != "held":
                yield replace(step, name=f"mutation control: {step.name}", verdict="CONTROL FAILED")
                return
        for canary in together:
            name = f"mutation control: nothing separates the tenants, and {canary.topic!r} is asked for"
            if self._finds_own(canary).verdict == "held":
                yield Step(name, "held")
            else:
                yield Step(
                    name,
                    "CONTROL FAILED",
                    f"{self._ask.shown} finds one canary of several in the same place and not this one, so it could "
                    "leak and this audit wouldn't see it: let `ask` return more (a larger k, the sources)",
                )


def _swapped(stream: Iterator[object], other: Canary) -> list[object]:
    read: list[object] = []
    for turn in range(_STREAM_ITEMS):
        try:
            if turn % 2:
                with scope(other.owner):
                    read.append(next(stream))
            else:
                read.append(next(stream))
        except (StopIteration, TenancyError):
            break
    return read


async def _aswapped(stream: AsyncIterator[object], other: Canary) -> list[object]:
    read: list[object] = []
    for turn in range(_STREAM_ITEMS):
        try:
            if turn % 2:
                with scope(other.owner):
                    read.append(await anext(stream))
            else:
                read.append(await anext(stream))
        except (StopAsyncIteration, TenancyError):
            break
    return read


async def _gathered(calls: list[Any]) -> list[object]:
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def _cancelled_then(ask: WayIn, victim: Canary, other: Canary, point: int) -> object:
    task = asyncio.ensure_future(ask.acall(victim.owner, victim.question))
    for _ in range(point + 1):
        await asyncio.sleep(0)
    task.cancel()
    (found,) = await asyncio.gather(ask.acall(other.owner, other.question), return_exceptions=True)
    await asyncio.gather(task, return_exceptions=True)
    return found


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"


def _short(answer: object) -> str:
    text = repr(answer)
    return text if len(text) <= 300 else f"{text[:300]}..."
