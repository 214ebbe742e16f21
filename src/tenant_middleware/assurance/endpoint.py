"""The audit of a running service from outside: two tokens of two tenants, and nothing else known about it."""

from __future__ import annotations

import random
import time

from tenant_middleware.assurance.audit import AuditReport, Finding, Outcome
from tenant_middleware.assurance.callables import send
from tenant_middleware.assurance.canaries import Canary, canaries
from tenant_middleware.assurance.sightings import sighting
from tenant_middleware.errors import TenancyError
from tenant_middleware.tenant import Tenant

_A, _B = Tenant("A", "audit"), Tenant("B", "audit")


def audit_endpoint(ingest: str, ask: str, token_a: str, token_b: str, *, seed: int | None = None) -> AuditReport:
    """Plant a canary with each token, then ask with each for both; a leak names the path in the answer.

    The service speaks POST {"text": ...} with a bearer token. There is no way to switch its guard off from outside, so
    the mutation control is the owner's own question with the owner's token: what the other one must not get. Planted
    texts stay: the service's own way of deleting is not known here.
    """
    number = random.SystemRandom().getrandbits(32) if seed is None else seed
    planted = canaries([_A, _B], random.Random(number))
    tokens, began = {_A: token_a, _B: token_b}, time.time()
    findings: list[Finding] = []
    for canary in planted:
        findings.append(_plant(canary, ingest, tokens[canary.owner]))
    for canary in planted:
        for who in (canary.owner, _B if canary.owner == _A else _A):
            findings.append(_ask(canary, who, ask, tokens[who]))
    findings.append(_anonymous(planted[0], ask))
    return AuditReport(number, began, tuple(findings))


def _plant(canary: Canary, url: str, token: str) -> Finding:
    name, tries = f"endpoint.ingest.{canary.owner}", f"{canary.owner} ingests its canary"
    try:
        send(url, canary.text, token)
    except (TenancyError, OSError) as error:
        return Finding(name, tries, "CONTROL FAILED", str(error)[:300])
    return Finding(name, tries, "held")


def _ask(canary: Canary, who: Tenant, url: str, token: str) -> Finding:
    own = who == canary.owner
    name = f"endpoint.{'own' if own else 'foreign'}.{who}"
    tries = f"{who} asks for {'its own' if own else 'the other'} canary"
    began = time.perf_counter()
    try:
        path = sighting(send(url, canary.question, token), canary.code)
        outcome, detail = _judged(own, path)
    except (TenancyError, OSError) as error:
        path = sighting(str(error), canary.code)
        outcome, detail = _judged(own, None if own else path)
        detail = detail and f"{detail} ({type(error).__name__})"
    return Finding(name, tries, outcome, detail, time.perf_counter() - began)


def _anonymous(canary: Canary, url: str) -> Finding:
    tries = "a token that nobody issued"
    try:
        path = sighting(send(url, canary.question, "nobody.nobody.nobody"), canary.code)
    except (TenancyError, OSError):
        path = None
    return Finding("endpoint.anonymous", tries, "held" if path is None else "LEAK", path or "")


def _judged(own: bool, path: str | None) -> tuple[Outcome, str]:
    if own:
        return ("held", "") if path else ("CONTROL FAILED", "positive control: the owner doesn't find its own canary")
    return ("LEAK", f"the canary came out at {path}") if path else ("held", "")
