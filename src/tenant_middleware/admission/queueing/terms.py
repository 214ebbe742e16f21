"""What a pool of slots allows: how many calls at once, how much of it to one tenant, and how cost is counted."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tenant_middleware.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class LaneCaps:
    """What one tenant may have in a pool; None is no cap. Past `max_length` or `max_age` its calls are refused.

    `max_tokens` caps the weighted tokens (prompt + output_weight * expected output) of its running calls; a tenant
    with nothing running may always start one. `max_age` is in seconds and never longer than the tier's queue_timeout.
    """

    max_running: int | None = None
    max_tokens: float | None = None
    max_length: int | None = 10_000
    max_age: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise InvalidInput(f"queue: {field.name}: expected a number above 0, got {value}")


@dataclass(frozen=True, slots=True)
class PoolTerms:
    """One pool: `slots` calls at once (None: no end of them), of which one tenant alone leaves `reserve_slots` free.

    `output_weight` is what an output token costs in prompt tokens. `prior_output` stands for an output length until
    some have been seen. Of four starts one may go to a tenant that got nothing for `max_wait` seconds. A call that runs
    longer than `max_runtime` seconds loses its slot.
    """

    slots: int | None
    reserve_slots: int = 0
    output_weight: float = 2.0
    prior_output: int = 256
    max_wait: float = 30.0
    max_runtime: float = 600.0
    caps: LaneCaps = LaneCaps()

    def __post_init__(self) -> None:
        if self.slots is not None and self.slots < 1:
            raise InvalidInput(f"queue: slots: expected at least 1, got {self.slots}")
        if self.reserve_slots < 0 or (self.slots is not None and self.reserve_slots >= self.slots):
            raise InvalidInput(
                f"queue: reserve_slots: expected 0 or more and fewer than slots, got {self.reserve_slots}"
            )
        if self.output_weight < 0 or self.prior_output < 0:
            raise InvalidInput("queue: output_weight and prior_output: expected 0 or more")
        if not self.max_wait > 0 or not self.max_runtime > 0:
            raise InvalidInput("queue: max_wait and max_runtime: expected seconds above 0")

    @property
    def lane_slots(self) -> float:
        """How many slots one tenant may hold."""
        most = float("inf") if self.slots is None else self.slots - self.reserve_slots
        return most if self.caps.max_running is None else min(most, self.caps.max_running)

    def cost(self, prompt_tokens: float, output_tokens: float) -> float:
        """Weighted tokens."""
        return prompt_tokens + self.output_weight * output_tokens
