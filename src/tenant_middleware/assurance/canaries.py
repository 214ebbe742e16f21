"""A canary is a sentence with a code that exists nowhere else; where it turns up, its owner's text has been."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tenant_middleware.tenant import Tenant

# Common words, far apart for an embedding: the question about one canary must lead to that one.
_TOPICS = ("amber", "harbour", "violin", "glacier", "pepper", "lantern", "saddle", "orchid", "copper", "walnut")
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"


@dataclass(frozen=True, slots=True)
class Canary:
    """What is planted for one tenant, the question that it answers, and the code by which it is known."""

    owner: Tenant
    topic: str
    code: str

    @property
    def text(self) -> str:
        return f"The code of the {self.topic} vault is {self.code}. The caretaker changes it every Friday."

    @property
    def question(self) -> str:
        return f"What is the code of the {self.topic} vault?"

    @property
    def paraphrase(self) -> str:
        return f"Which code opens the {self.topic} vault?"


def canaries(owners: list[Tenant], dice: random.Random) -> list[Canary]:
    """One for each owner, all different in topic and code."""
    topics = dice.sample(_TOPICS, len(owners))
    return [Canary(owner, topic, _code(dice)) for owner, topic in zip(owners, topics, strict=True)]


def audit_name(dice: random.Random) -> str:
    """The name of one run, with which the ids of its tenants begin."""
    return f"tm-audit-{dice.getrandbits(48):012x}"


def audit_tenants(run: str, tier: str) -> list[Tenant]:
    """Tenants that nobody has: a pair that differs in case alone, one that begins with another's id, a stranger."""
    ids = (f"{run}-Ada", f"{run}-ada", f"{run}-ada2", f"{run}-grace")
    return [Tenant(tenant_id, tier, "audit") for tenant_id in ids]


def _code(dice: random.Random) -> str:
    return "".join(dice.choices(_LETTERS, k=6)) + f"-{dice.randrange(1000, 10_000)}"
