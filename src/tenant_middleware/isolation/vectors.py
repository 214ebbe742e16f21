"""Documents by nearness, one tenant's at a time: the values, and what every vector backend does.

A backend takes a Tenant first and never reads the context. Whatever it runs on, the rules are the same and written once
(`isolation.scoped.ScopedVectors`): ids are scoped, writes stamped, callers' filters ANDed under the tenant's, and every
record's stamp is checked before it is returned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tenant_middleware.tenant import Tenant

Where = Mapping[str, Any]
"""A filter in the neutral language of `isolation.filters`."""


@dataclass(frozen=True, slots=True)
class Record:
    """A document as it is stored: its id is the tenant's own, so that two tenants may use the same one.

    `metadata` is JSON; text, numbers, true/false and lists of text can be filtered on, the rest is only kept.
    """

    id: str
    vector: Sequence[float]
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that a search found; a higher score is nearer, whatever the metric."""

    id: str
    score: float
    text: str
    metadata: Mapping[str, Any]


class Vectors(Protocol):
    """Where tenants' documents are kept and searched; each method, and its async twin, sees one tenant's alone.

    `upsert` replaces records of the same id. `fetch` gives those that exist, in the order asked for, or all that meet
    `where`. `delete` takes ids or a condition, never both, and ids that don't exist are no error. `provision` makes
    what the tenant's isolation needs before the first write. `erase` removes everything of the tenant, wherever its
    isolation has put it, and says how many records that were.
    """

    def upsert(self, tenant: Tenant, records: Sequence[Record]) -> None: ...
    def query(self, tenant: Tenant, vector: Sequence[float], k: int = 5, where: Where | None = None) -> list[Hit]: ...
    def fetch(
        self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None, limit: int | None = None
    ) -> list[Record]: ...
    def delete(self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None) -> None: ...
    def list_ids(self, tenant: Tenant) -> list[str]: ...
    def count(self, tenant: Tenant) -> int: ...
    def provision(self, tenant: Tenant) -> None: ...
    def export(self, tenant: Tenant) -> Iterator[Record]: ...
    def erase(self, tenant: Tenant) -> int: ...
    def close(self) -> None: ...

    async def aupsert(self, tenant: Tenant, records: Sequence[Record]) -> None: ...
    async def aquery(
        self, tenant: Tenant, vector: Sequence[float], k: int = 5, where: Where | None = None
    ) -> list[Hit]: ...
    async def afetch(
        self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None, limit: int | None = None
    ) -> list[Record]: ...
    async def adelete(
        self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None
    ) -> None: ...
    async def alist_ids(self, tenant: Tenant) -> list[str]: ...
    async def acount(self, tenant: Tenant) -> int: ...
    async def aprovision(self, tenant: Tenant) -> None: ...
    def aexport(self, tenant: Tenant) -> AsyncIterator[Record]: ...
    async def aerase(self, tenant: Tenant) -> int: ...
    async def aclose(self) -> None: ...
