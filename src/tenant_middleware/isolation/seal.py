"""One switch for the caches that frameworks keep beside the data path: each adapter registers what it can close.

Importing an adapter registers its sealer. `seal_all` runs them, and refuses a framework that is loaded without its
adapter: a cache of it could answer one tenant with another's text, and nobody here would know.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, Protocol

from tenant_middleware.errors import SealError
from tenant_middleware.isolation.cache import ExactCache

State = Literal["sealed", "absent", "not_sealable"]

# The module that tells that a framework is loaded, and the adapter that seals it.
ADAPTERS = {
    "langchain_core": "tenant_middleware.langchain",
    "langgraph": "tenant_middleware.langchain",
    "llama_index.core": "tenant_middleware.llamaindex",
    "litellm": "tenant_middleware.litellm",
}


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What became of one cache layer: keyed by tenant now, not in use, or open with no way to close it."""

    framework: str
    layer: str
    state: State
    detail: str = ""


class KeepsCaches(Protocol):
    """What a Tenancy gives to sealers: the exact cache that takes the place of a framework's own."""

    @property
    def exact_cache(self) -> ExactCache: ...


class Sealer(Protocol):
    """Closes the cache layers of one framework.

    `check` raises SealError when something sealed was replaced since; it is called on the data path and must be quick.
    `unseal` puts back what was there, for tests.
    """

    @property
    def framework(self) -> str: ...
    def seal(self, tenancy: KeepsCaches) -> list[LayerReport]: ...
    def check(self) -> None: ...
    def unseal(self) -> None: ...


_sealers: dict[str, Sealer] = {}
_sealed: set[str] = set()


def register(sealer: Sealer) -> None:
    """Make a sealer known; an adapter does this when it is imported."""
    _sealers[sealer.framework] = sealer


def seal_all(tenancy: KeepsCaches, *, strict: bool = True) -> list[LayerReport]:
    """Seal every layer of every loaded framework; raises SealError for what stays open unless told not to."""
    reports: list[LayerReport] = []
    for framework in (name for name in ADAPTERS if name in sys.modules):
        sealer = _sealers.get(framework)
        if sealer is None:
            detail = f"{framework} is loaded and its adapter isn't: import {ADAPTERS[framework]} before sealing"
            reports.append(LayerReport(framework, "all", "not_sealable", detail))
        else:
            reports += sealer.seal(tenancy)
            _sealed.add(framework)
    if strict:
        _refuse_open(reports)
    return reports


def _refuse_open(reports: list[LayerReport]) -> None:
    still_open = [report for report in reports if report.state == "not_sealable"]
    if still_open:
        told = "; ".join(f"{report.framework} {report.layer}: {report.detail}" for report in still_open)
        raise SealError(f"cache layers stay open to every tenant: {told}")


def check(framework: str) -> None:
    """Raise SealError if the framework was sealed and is no longer; says nothing before the first seal."""
    if framework in _sealed:
        _sealers[framework].check()


def unseal_all() -> None:
    """Put every framework's own caches back: for tests that need the bare framework as a control."""
    for framework in sorted(_sealed):
        _sealers[framework].unseal()
    _sealed.clear()
