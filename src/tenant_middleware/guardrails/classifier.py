"""The grey band: where the rules are unsure, a classifier that the user brings decides (an ONNX file, a judge).

Whatever goes wrong with it has a configured verdict, `flag` by default and never `allow`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from tenant_middleware.errors import ConfigurationError
from tenant_middleware.guardrails.modes import BLOCK_AT, FLAG_AT, Thresholds
from tenant_middleware.guardrails.verdict import ACTIONS, Segment, Verdict, at_least
from tenant_middleware.tenant import Tenant

Fallback = Literal["flag", "block"]


class Classifier(Protocol):
    """Gives a text the probability (0..1) that it is an attack.

    `load` runs at start-up and raises when the model can't be used. `score` keeps its own time limit and raises
    TimeoutError past it; what it returns is a number only, because it has read hostile text.
    """

    def load(self) -> None: ...
    def score(self, text: str, tenant: Tenant) -> float: ...


@runtime_checkable
class AsyncClassifier(Protocol):
    """A classifier that can be awaited, for judges behind a network."""

    async def ascore(self, text: str, tenant: Tenant) -> float: ...


@dataclass(frozen=True, slots=True)
class GreyBand:
    """Scores from `low` up to `high` are given to the classifier; `on_*` say what its failures amount to."""

    classifier: Classifier
    low: float = 0.15
    high: float = BLOCK_AT
    flag_at: float = FLAG_AT
    block_at: float = 0.8
    timeout: float = 2.0
    on_error: Fallback = "flag"
    on_timeout: Fallback = "flag"
    on_invalid: Fallback = "flag"

    def __post_init__(self) -> None:
        for name in ("on_error", "on_timeout", "on_invalid"):
            if getattr(self, name) not in ("flag", "block"):
                raise ConfigurationError(f"grey band {name}: expected flag or block; a failure never allows")
        if not 0 <= self.low < self.high <= 1:
            raise ConfigurationError(f"grey band: expected 0 <= low < high <= 1, got {self.low} and {self.high}")

    def load(self) -> None:
        """Load the classifier; whatever it raises becomes a ConfigurationError."""
        try:
            self.classifier.load()
        except Exception as error:
            raise ConfigurationError(
                f"guard classifier {type(self.classifier).__name__} could not be loaded ({type(error).__name__}): "
                "repair it or take it out of the settings; the guard does not start without it"
            ) from error

    def refine(self, verdict: Verdict, segments: Sequence[Segment], tenant: Tenant) -> Verdict:
        """The rules' verdict, or in the grey band the classifier's."""
        if not self._unsure(verdict):
            return verdict
        try:
            score = self.classifier.score(_joined(segments), tenant)
        except TimeoutError:
            return at_least(verdict, self.on_timeout, "classifier-timeout")
        except Exception:  # noqa: BLE001  a failure of any kind has the configured verdict
            return at_least(verdict, self.on_error, "classifier-error")
        return self._decided(verdict, score)

    async def arefine(self, verdict: Verdict, segments: Sequence[Segment], tenant: Tenant) -> Verdict:
        """As `refine`, within `timeout` seconds; a classifier without `ascore` runs in a thread."""
        if not self._unsure(verdict):
            return verdict
        text = _joined(segments)
        try:
            async with asyncio.timeout(self.timeout):
                if isinstance(self.classifier, AsyncClassifier):
                    score = await self.classifier.ascore(text, tenant)
                else:
                    score = await asyncio.to_thread(self.classifier.score, text, tenant)
        except TimeoutError:
            return at_least(verdict, self.on_timeout, "classifier-timeout")
        except Exception:  # noqa: BLE001  a failure of any kind has the configured verdict
            return at_least(verdict, self.on_error, "classifier-error")
        return self._decided(verdict, score)

    def _unsure(self, verdict: Verdict) -> bool:
        return self.low <= verdict.score < self.high and verdict.action != "block"

    def _decided(self, verdict: Verdict, score: object) -> Verdict:
        if isinstance(score, bool) or not isinstance(score, int | float) or math.isnan(score) or not 0 <= score <= 1:
            return at_least(verdict, self.on_invalid, "classifier-invalid")
        action = Thresholds(self.flag_at, self.block_at).action(float(score))
        floor = "flag" if "oversize" in verdict.rules and action == "allow" else action
        rules = verdict.rules if action == "allow" else (*verdict.rules, "classifier")
        return Verdict(max(floor, action, key=ACTIONS.index), round(float(score), 4), rules, verdict.spans)


def _joined(segments: Sequence[Segment]) -> str:
    return "\n".join(s.text for s in segments if s.source != "system")
