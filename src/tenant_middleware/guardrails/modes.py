"""How stern the guard is: per tier `off`, `flag` or `block`, and where the score tips from one action to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from tenant_middleware.errors import ConfigurationError
from tenant_middleware.guardrails.verdict import Action
from tenant_middleware.tenant import Tenant

Mode = Literal["off", "flag", "block"]
MODES: tuple[Mode, ...] = get_args(Mode)
FLAG_AT = 0.35
BLOCK_AT = 0.6


class GuardPolicy(Protocol):
    """What a guard asks of the policy: the mode of this tenant's tier."""

    def mode(self, tenant: Tenant) -> str: ...


@dataclass(frozen=True, slots=True)
class TierModes:
    """A policy from a mapping of tiers to modes; tiers that aren't named get `default`."""

    tiers: Mapping[str, Mode] = field(default_factory=dict)
    default: Mode = "block"

    def __post_init__(self) -> None:
        for mode in (*self.tiers.values(), self.default):
            check_mode(mode)

    def mode(self, tenant: Tenant) -> str:
        return self.tiers.get(tenant.tier, self.default)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which a text is flagged or blocked, and what a text gets that is too long to be read whole."""

    flag: float = FLAG_AT
    block: float = BLOCK_AT
    oversize: Action = "flag"

    def __post_init__(self) -> None:
        if not 0 < self.flag <= self.block <= 1:
            raise ConfigurationError(
                f"guard thresholds: expected 0 < flag <= block <= 1, got {self.flag}, {self.block}"
            )
        if self.oversize not in ("flag", "block"):
            raise ConfigurationError("guard oversize verdict: expected flag or block")

    def action(self, score: float) -> Action:
        if score >= self.block:
            return "block"
        return "flag" if score >= self.flag else "allow"


def check_mode(mode: object) -> Mode:
    """The mode itself; anything else is an error, since a misspelt mode would be no guard at all."""
    for known in MODES:
        if mode == known:
            return known
    raise ConfigurationError(f"guard mode: expected {', '.join(MODES)}, got {type(mode).__name__} {mode!r}")
