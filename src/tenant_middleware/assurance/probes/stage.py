"""What a probe stands on: an owner with a canary, an attacker, two tenants with confusable names, and live backends."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tenant_middleware.assurance.callables import NOT_ASKED
from tenant_middleware.assurance.canaries import Canary
from tenant_middleware.errors import TenancyError
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

SESSION = "support"
Attack = Callable[["Stage", Tenant], object]


def tried(attempt: Callable[[], object]) -> object:
    """What one of several attempts got, or what its refusal says; raises what says that nobody could be asked."""
    try:
        return attempt()
    except NOT_ASKED:
        raise
    except (TenancyError, TypeError) as refusal:
        return str(refusal)


@dataclass(frozen=True)
class Stage:
    """One audit's cast over one Tenancy. `lost` is the mutation: everybody's calls arrive under the owner's id."""

    tenancy: Tenancy
    canary: Canary
    other: Tenant
    lookalikes: tuple[Tenant, ...]
    dimension: int
    dice: random.Random = field(repr=False, default_factory=random.Random)
    lost: bool = False

    @property
    def owner(self) -> Tenant:
        return self.canary.owner

    @property
    def code(self) -> str:
        return self.canary.code

    def arriving(self, tenant: Tenant) -> Tenant:
        """Under which identity a tenant's calls reach the backends."""
        return replace(tenant, id=self.owner.id, subject=self.owner.subject) if self.lost else tenant

    def without_guard(self) -> Stage:
        """The same stage with the tenant's id lost on the way."""
        return replace(self, lost=True)

    def vector(self, turned: float = 0.0) -> list[float]:
        """The canary's embedding, or one near it as a paraphrase's is."""
        return [1.0] * (self.dimension - 1) + [1.0 - turned]

    @property
    def record_id(self) -> str:
        return f"note-{self.code}"

    def record(self, text: str | None = None, **metadata: Any) -> Record:
        """The canary as a document, or another one under its id."""
        return Record(self.record_id, self.vector(), self.canary.text if text is None else text, metadata)


def nothing(stage: Stage) -> None:
    """Nothing to plant."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One way to another tenant's data, with its controls.

    `attack` gives what a tenant gets out by this way. `own` is how the owner gets at its canary, by default the same
    way. `unguarded` is the attack as it goes with the guard off, by default the same with the tenant's id lost.
    `attackers` names who attacks. `needs` says why this deployment has nothing to attack, or None.
    """

    id: str
    tries: str
    attack: Attack
    plant: Callable[[Stage], None] = nothing
    own: Attack | None = None
    unguarded: Attack | None = None
    lookalikes: bool = False
    needs: Callable[[Stage], str | None] = lambda stage: None

    def attackers(self, stage: Stage) -> Sequence[Tenant]:
        """Who attacks: a stranger, or those whose names could be taken for the owner's."""
        return stage.lookalikes if self.lookalikes else (stage.other,)

    def positive(self, stage: Stage) -> object:
        """What the owner gets."""
        return (self.own or self.attack)(stage, stage.owner)

    def mutated(self, stage: Stage) -> object:
        """What the attacker gets with the guard off."""
        if self.unguarded is not None:
            return self.unguarded(stage, stage.other)
        return self.attack(stage.without_guard(), stage.other)
