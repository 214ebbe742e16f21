"""The audit of a running service from outside: two tokens of two tenants, and nothing else known about it.

Its guard can't be switched off from here. The mutation control puts what has to stay apart in one place instead: B's
canary into A's own data. The very check that found nothing of B's before has to turn red then.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tenant_middleware.assurance.audit import AuditReport, Finding, Outcome
from tenant_middleware.assurance.callables import NOT_ASKED, send
from tenant_middleware.assurance.canaries import Canary, canaries
from tenant_middleware.assurance.sightings import sighting
from tenant_middleware.errors import TenancyError
from tenant_middleware.tenant import Tenant

_A, _B = Tenant("A", "audit"), Tenant("B", "audit")
_NOBODYS = "nobody.nobody.nobody"


def audit_endpoint(
    ingest: str, ask: str, token_a: str, token_b: str, *, delete: str | None = None, seed: int | None = None
) -> AuditReport:
    """Plant a canary with each token, then ask with each for both; a leak names the path in the answer.

    The service speaks POST {"text": ...} with a bearer token. `delete` takes the same with a text that was planted, as
    its last guest, also after an interruption; without it the planted texts stay and are named.
    """
    number = random.SystemRandom().getrandbits(32) if seed is None else seed
    began = time.time()
    service = _Service(ingest, ask, delete, {_A: token_a, _B: token_b})
    findings: list[Finding] = []
    try:
        for finding in service.examined(canaries([_A, _B], random.Random(number))):
            findings.append(finding)
    finally:
        findings += service.cleared()
    return AuditReport(number, began, tuple(findings))


@dataclass
class _Service:
    ingest: str
    ask: str
    delete: str | None
    tokens: dict[Tenant, str]
    planted: list[tuple[Tenant, Canary]] = field(default_factory=list)

    def examined(self, of_both: list[Canary]) -> Iterator[Finding]:
        """Plant, both controls, and between them the attacks."""
        for canary in of_both:
            yield self._plant(canary, canary.owner, f"endpoint.ingest.{canary.owner}")
        for canary in of_both:
            yield self._own(canary)
        for canary in of_both:
            yield self._foreign(canary, _other(canary.owner))
        yield self._anonymous(of_both[0])
        for canary in of_both:
            yield self._turns_red(canary, _other(canary.owner))

    def cleared(self) -> Iterator[Finding]:
        """Have every planted text deleted, and look whether its owner still finds it."""
        failed = {(who, canary): self._deleted(canary, who) for who, canary in self.planted}
        for (who, canary), error in failed.items():
            name, tries = f"endpoint.removed.{who}", f"the {canary.topic} canary is deleted from {who}'s data"
            if self.delete is None:
                yield Finding(name, tries, "skipped", f"no delete URL is named: {canary.code} stays in {who}'s data")
                continue
            found = "" if error else self._got(canary, who, self.tokens[who])[1]
            told = error or found
            yield Finding(name, tries, "CONTROL FAILED" if told else "held", told and f"{canary.code} stays: {told}")

    def _deleted(self, canary: Canary, who: Tenant) -> str:
        """Why not, or nothing."""
        if self.delete is not None:
            try:
                send(self.delete, canary.text, self.tokens[who])
            except (TenancyError, OSError) as error:
                return _told(error)
        return ""

    def _path(self, canary: Canary, who: Tenant) -> str | None:
        return sighting(send(self.ask, canary.question, self.tokens[who]), canary.code)

    def _plant(self, canary: Canary, who: Tenant, name: str) -> Finding:
        tries = f"{who} ingests its canary"
        self.planted.append((who, canary))  # before: a call that is interrupted may have been carried out
        try:
            send(self.ingest, canary.text, self.tokens[who])
        except (TenancyError, OSError) as error:
            return Finding(name, tries, "CONTROL FAILED", _told(error))
        return Finding(name, tries, "held")

    def _own(self, canary: Canary) -> Finding:
        began = time.perf_counter()
        try:
            path, told = self._path(canary, canary.owner), "the owner doesn't find its own canary"
        except (TenancyError, OSError) as error:
            path, told = None, _told(error)
        name, tries = f"endpoint.own.{canary.owner}", f"{canary.owner} asks for its own canary"
        outcome: Outcome = "held" if path else "CONTROL FAILED"
        detail = "" if path else f"positive control: {told}"
        return Finding(name, tries, outcome, detail, time.perf_counter() - began)

    def _foreign(self, canary: Canary, who: Tenant) -> Finding:
        began, (outcome, detail) = time.perf_counter(), self._got(canary, who, self.tokens[who])
        tries = f"{who} asks for {canary.owner}'s canary"
        return Finding(f"endpoint.foreign.{who}", tries, outcome, detail, time.perf_counter() - began)

    def _anonymous(self, canary: Canary) -> Finding:
        outcome, detail = self._got(canary, _A, _NOBODYS)
        return Finding("endpoint.anonymous", "a token that nobody issued", outcome, detail)

    def _turns_red(self, canary: Canary, who: Tenant) -> Finding:
        """The mutation control: the check of `_foreign` once more, with the canary in the asker's own data."""
        name, tries = f"endpoint.mutation.{who}", f"{canary.owner}'s canary, put into {who}'s own data, is seen"
        planted = self._plant(canary, who, name)
        if planted.outcome != "held":
            return Finding(name, tries, "CONTROL FAILED", f"mutation control: {planted.detail}")
        if self._got(canary, who, self.tokens[who])[0] == "LEAK":
            return Finding(name, tries, "held")
        return Finding(
            name,
            tries,
            "CONTROL FAILED",
            f"mutation control: with {canary.owner}'s canary in its own data {who} doesn't find it either, so a leak "
            "would stay unseen: let the service answer with more (a larger k, the sources)",
        )

    def _got(self, canary: Canary, who: Tenant, token: str) -> tuple[Outcome, str]:
        """Whether a token gets at a canary that isn't its own; a refusal mustn't tell it either."""
        try:
            path = sighting(send(self.ask, canary.question, token), canary.code)
        except (TenancyError, OSError) as error:
            path = sighting(str(error), canary.code)
            if path is None and (isinstance(error, NOT_ASKED) or not isinstance(error, TenancyError)):
                return "CONTROL FAILED", f"the service could not be asked: {_told(error)}"
        return ("LEAK", f"the canary came out to {who} at {path}") if path else ("held", "")


def _other(tenant: Tenant) -> Tenant:
    return _B if tenant == _A else _A


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
