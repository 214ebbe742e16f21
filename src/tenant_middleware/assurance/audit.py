"""The audit of a live deployment: every probe against the configured backends, with tenants that nobody has.

A probe that finds nothing says nothing by itself. Each is run as the owner too, who must find its canary, and once with
the tenant's id lost on the way, when the attack must succeed: a probe that can't succeed can't fail either.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from tenant_middleware import telemetry
from tenant_middleware.assurance.callables import NOT_ASKED
from tenant_middleware.assurance.canaries import audit_name, canaries
from tenant_middleware.assurance.guests import invited, sweep
from tenant_middleware.assurance.probes import CATALOGUE, Probe, Stage
from tenant_middleware.assurance.sightings import sighting
from tenant_middleware.backends.routed import backend_of
from tenant_middleware.context import peek_tenant
from tenant_middleware.errors import ConfigurationError, TenancyError, TenantMismatch
from tenant_middleware.isolation import probes as isolation_probes
from tenant_middleware.tables import html_table
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

Outcome = Literal["held", "LEAK", "CONTROL FAILED", "skipped"]
PAUSE = 0.02  # between two probes: a live store has other work


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe saw. `detail` names the path of a leak, the control that failed, or why it was skipped."""

    probe: str
    tries: str
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All findings of one run; `seed` repeats it. `swept` names killed runs whose remains this one removed."""

    seed: int
    began: float
    findings: tuple[Finding, ...]
    swept: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = [(one.probe, one.tries, one.outcome, one.detail) for one in self.findings]
        return html_table(("probe", "tries", "outcome", "detail"), rows, caption=f"seed {self.seed}")

    @property
    def leaks(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.outcome == "LEAK"]

    @property
    def failed_controls(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.outcome == "CONTROL FAILED"]

    @property
    def exit_code(self) -> int:
        """1 for any leak, 2 when a control failed or nothing was tried, so that silence proves nothing."""
        if self.leaks:
            return 1
        held = any(finding.outcome == "held" for finding in self.findings)
        return 0 if held and not self.failed_controls else 2


def audit(
    tenancy: Tenancy,
    *,
    seed: int | None = None,
    only: Sequence[str] = (),
    tier: str | None = None,
    dimension: int | None = None,
    pause: float = PAUSE,
    probes: Sequence[Probe] = CATALOGUE,
) -> AuditReport:
    """Run the catalogue, or the probes whose ids begin with one of `only`, against a Tenancy's live backends.

    What was planted is removed again, also after an interruption; what a killed run left is removed by the next one.
    Needs no scope and refuses to run inside one.
    """
    if peek_tenant() is not None:
        raise TenantMismatch("audit: a scope is open here; leave it, the audit plays tenants of its own")
    chosen = [probe for probe in probes if not only or any(probe.id.startswith(name) for name in only)]
    if not chosen:
        raise ConfigurationError(f"audit: no probe has such an id; there are {', '.join(probe.id for probe in probes)}")
    number = random.SystemRandom().getrandbits(32) if seed is None else seed
    dice, began = random.Random(number), tenancy.clock.time()
    swept = sweep(tenancy)
    with _stage(tenancy, tier or generous_tier(tenancy), dimension, dice) as (stage, alive):
        findings = tuple(_run_slowly(chosen, stage, pause, alive))
    report = AuditReport(number, began, findings, swept)
    telemetry.audited(len(report.leaks), len(report.failed_controls), began)
    return report


def generous_tier(tenancy: Tenancy) -> str:
    """The tier with the most requests a minute: an audit mustn't run into limits, and takes little of them."""
    tiers = tenancy.policy.tiers
    return max(sorted(tiers), key=lambda name: tiers[name].rpm or float("inf"))


@contextmanager
def _stage(
    tenancy: Tenancy, tier: str, dimension: int | None, dice: random.Random
) -> Iterator[tuple[Stage, Callable[[], None]]]:
    with invited(tenancy, audit_name(dice), tier) as (guests, alive):
        owner, lookalike, longer, other = guests
        (canary,) = canaries([owner], dice)
        size = dimension or _dimension(tenancy, owner)
        yield Stage(tenancy, canary, other, (lookalike, longer), size, dice), alive


def _dimension(tenancy: Tenancy, guest: Tenant) -> int:
    """The dimension of the store's vectors; a shared index that isn't there yet must not get one from an audit."""
    known: int | None = backend_of(getattr(tenancy.vectors, "inner", tenancy.vectors), guest).dimension
    if known is None and tenancy.policy.for_tenant(guest).isolation == "filter" and not _in_memory(tenancy):
        raise ConfigurationError(
            "audit: the shared index isn't there yet, and its first record decides the dimension: name it (--dimension)"
        )
    return known or isolation_probes.DIMENSION


def _in_memory(tenancy: Tenancy) -> bool:
    return tenancy.settings.backends.vectors.startswith("memory:")


def _run_slowly(probes: Sequence[Probe], stage: Stage, pause: float, alive: Callable[[], None]) -> Iterator[Finding]:
    for number, probe in enumerate(probes):
        if number and pause:
            time.sleep(pause)
        alive()
        began = time.perf_counter()
        outcome, detail = examine(probe, stage)
        yield Finding(probe.id, probe.tries, outcome, detail, time.perf_counter() - began)


def examine(probe: Probe, stage: Stage) -> tuple[Outcome, str]:
    """One probe with its controls, and why."""
    try:
        missing = probe.needs(stage)
        if missing is not None:
            return "skipped", missing
        probe.plant(stage)
        if sighting(probe.positive(stage), stage.code) is None:
            return "CONTROL FAILED", "positive control: the owner doesn't find its own canary by this way"
        probe.plant(stage)
    except (TenancyError, TypeError) as error:
        return "CONTROL FAILED", f"positive control: {_told(error)}"
    try:
        for attacker in probe.attackers(stage):
            path = _attacked(lambda who=attacker: probe.attack(stage, who), stage.code)  # type: ignore[misc]  # bound now
            if path is not None:
                return "LEAK", f"{attacker} got {stage.owner}'s canary at {path}: {probe.tries}"
        path = _attacked(lambda: probe.mutated(stage), stage.code)
    except NOT_ASKED as error:
        return "CONTROL FAILED", f"the attack could not be made: {_told(error)}"
    if path is None:
        return "CONTROL FAILED", "mutation control: the attack fails with the guard off too, so it could never succeed"
    return "held", ""


def _attacked(attack: Callable[[], object], code: str) -> str | None:
    """Where the canary stands in what the attack got; a refusal is looked at as well: it must not tell either.

    Raises what says that the store couldn't be asked at all.
    """
    try:
        return sighting(attack(), code)
    except (TenancyError, TypeError) as error:
        path = sighting(str(error), code)
        if path is None and isinstance(error, NOT_ASKED):
            raise
        return path


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]
