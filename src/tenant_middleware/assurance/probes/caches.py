"""Ways to what another tenant was answered."""

from __future__ import annotations

import statistics
import time

from tenant_middleware.assurance.probes.stage import Probe, Stage
from tenant_middleware.isolation.cache import Question, exact_key, question
from tenant_middleware.tenant import Tenant

_SAMPLES = 25
_ROUNDS = 3
_TELLS = 0.9  # how surely one can tell hit from miss by its time alone: 0.5 is a coin, 1.0 always
_NOTICEABLE = 1.2


def _off(stage: Stage) -> str | None:
    enabled = stage.tenancy.cache.rules_for(stage.owner).enabled
    return None if enabled else "the tier that was audited caches nothing"


def _question(stage: Stage, tenant: Tenant, text: str, turned: float = 0.0) -> Question:
    rules = stage.tenancy.cache.rules_for(tenant)
    return question(tenant, rules, text, stage.vector(turned))


def _exact_key(stage: Stage, tenant: Tenant) -> str:
    return exact_key(tenant, stage.tenancy.exact_cache.rules_for(tenant), {"prompt": stage.canary.question})


def _plant_exact(stage: Stage) -> None:
    stage.tenancy.exact_cache.store(stage.owner, _exact_key(stage, stage.owner), stage.canary.text)


def _plant_semantic(stage: Stage) -> None:
    cache, asked = stage.tenancy.cache, _question(stage, stage.owner, stage.canary.question)
    cache.store(stage.owner, asked, stage.canary.text, version=cache.lookup(stage.owner, asked).version)


def same_prompt(stage: Stage, who: Tenant) -> object:
    tenant = stage.arriving(who)
    return stage.tenancy.exact_cache.lookup(tenant, _exact_key(stage, tenant))


def forged_key(stage: Stage, who: Tenant) -> object:
    return stage.tenancy.exact_cache.lookup(stage.arriving(who), _exact_key(stage, stage.owner))


def exact_cleared(stage: Stage, who: Tenant) -> object:
    _plant_exact(stage)
    stage.tenancy.exact_cache.clear(stage.arriving(who))
    return None if same_prompt(stage, stage.owner) else stage.code


def same_question(stage: Stage, who: Tenant) -> object:
    tenant = stage.arriving(who)
    return stage.tenancy.cache.lookup(tenant, _question(stage, tenant, stage.canary.question)).answer


def paraphrase(stage: Stage, who: Tenant) -> object:
    tenant = stage.arriving(who)
    reworded = f"Please tell me: {stage.canary.question[0].lower()}{stage.canary.question[1:]}"
    return stage.tenancy.cache.lookup(tenant, _question(stage, tenant, reworded, 0.02)).answer


def forged_bucket(stage: Stage, who: Tenant) -> object:
    """The owner's whole question, bucket and all, handed in by somebody else."""
    return stage.tenancy.cache.lookup(stage.arriving(who), _question(stage, stage.owner, stage.canary.question)).answer


def invalidated(stage: Stage, who: Tenant) -> object:
    _plant_semantic(stage)
    stage.tenancy.cache.invalidate(stage.arriving(who))
    return None if same_question(stage, stage.owner) else stage.code


def timed(stage: Stage, who: Tenant) -> object:
    """Whether the time of a lookup tells that another tenant has asked the same before, time after time."""
    return stage.code if all(_told_apart(stage, who, 0.0) for _ in range(_ROUNDS)) else None


def _timed_unguarded(stage: Stage, who: Tenant) -> object:
    """As if a question that another tenant asked took longer and longer: the clock must be good enough to see that."""
    usual = sorted(_seconds(stage, who, _unknown(stage, who)) for _ in range(_SAMPLES))
    longer = 0.002 + 4 * usual[-1]
    return stage.code if any(_told_apart(stage, who, longer * 2**n) for n in range(2 * _ROUNDS)) else None


def _unknown(stage: Stage, who: Tenant) -> Question:
    return _question(stage, who, "What is the name of the ferry in the painting?")


def _seconds(stage: Stage, who: Tenant, asked: Question, longer: float = 0.0) -> float:
    began = time.perf_counter()
    stage.tenancy.cache.lookup(who, asked)
    time.sleep(longer)
    return time.perf_counter() - began


def _told_apart(stage: Stage, who: Tenant, longer: float) -> bool:
    known, unknown = _question(stage, who, stage.canary.question), _unknown(stage, who)
    pairs = [(_seconds(stage, who, known, longer), _seconds(stage, who, unknown)) for _ in range(_SAMPLES)]
    return _differ([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _differ(first: list[float], second: list[float]) -> bool:
    """Two samples that hardly overlap, and whose middles are clearly apart: the area under the ROC curve."""
    pairs = sum((a > b) + 0.5 * (a == b) for a in first for b in second)
    area = pairs / (len(first) * len(second))
    low, high = sorted((statistics.median(first), statistics.median(second)))
    return max(area, 1 - area) > _TELLS and high > low * _NOTICEABLE


PROBES = (
    Probe("cache.exact", "the same prompt", same_prompt, _plant_exact, needs=_off),
    Probe("cache.forged_key", "another tenant's exact key", forged_key, _plant_exact, needs=_off),
    Probe("cache.clear", "clearing the exact cache for everybody", exact_cleared, _plant_exact, needs=_off),
    Probe("cache.semantic", "the same question", same_question, _plant_semantic, needs=_off),
    Probe("cache.paraphrase", "the question in other words", paraphrase, _plant_semantic, needs=_off),
    Probe("cache.forged_bucket", "another tenant's bucket", forged_bucket, _plant_semantic, needs=_off),
    Probe("cache.invalidate", "dropping answers for everybody", invalidated, _plant_semantic, needs=_off),
    Probe(
        "cache.timing",
        "telling from the time of a lookup that another tenant asked the same",
        timed,
        _plant_semantic,
        own=same_question,
        unguarded=_timed_unguarded,
        needs=_off,
    ),
)
