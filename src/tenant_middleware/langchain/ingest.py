"""Bulk loading of the tenant's documents: by batches, again without cost, and honest about what isn't stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import InvalidInput, PartialWrite, Refusal, TenancyError, missing_extra
from tenant_middleware.flow import Flow, Op, arun, run
from tenant_middleware.isolation.place import check_k, check_metadata
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.langchain.documents import prepared, records
from tenant_middleware.langchain.pinned import called_now
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.langchain.vectors import TenantVectorStore
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.documents import Document
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

HASH = "content_hash"
Progress = Callable[[int, int], object]
Pairs = list[tuple[str, Document]]


@dataclass(frozen=True, slots=True)
class Ingested:
    """Ids in the order given: what was stored now, and what was there already with the same content."""

    stored: tuple[str, ...]
    unchanged: tuple[str, ...]


@passing
def ingest(
    store: TenantVectorStore,
    documents: Iterable[Document],
    *,
    ids: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: bool | Progress = False,
) -> Ingested:
    """Store documents for the tenant in context; those that are there unchanged cost no embedding.

    An id is the document's own, else its content's hash. `progress=True` shows a bar; a function gets (done, total).
    A batch that fails leaves the others stored; at the end PartialWrite names in `failed_ids` exactly what isn't. A
    refusal by limit or budget ends the loading. A document that is marked as another tenant's stores nothing at all.
    """
    pairs = _checked(documents, ids, batch_size)
    with _told(progress) as tell:
        return run(_ingest(store, current_tenant(), pairs, batch_size, tell))


@passing
def aingest(
    store: TenantVectorStore,
    documents: Iterable[Document],
    *,
    ids: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: bool | Progress = False,
) -> Coroutine[Any, Any, Ingested]:
    """`ingest`, by awaiting."""
    tenant, listed = current_tenant(), list(documents)

    async def done() -> Ingested:
        pairs = _checked(listed, ids, batch_size)
        with _told(progress) as tell:
            return await arun(_ingest(store, tenant, pairs, batch_size, tell))

    return called_now(done)


def content_hash(document: Document) -> str:
    """The same for the same text and metadata, whatever the order of its fields."""
    data = json.dumps([document.page_content, document.metadata], sort_keys=True, ensure_ascii=False, default=repr)
    return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()


def _checked(documents: Iterable[Document], ids: Sequence[str] | None, batch_size: int) -> Pairs:
    """Everything checked before anything is stored."""
    tenant = current_tenant()
    check_k(batch_size, "batch_size")
    pairs: dict[str, Document] = {}
    for given, doc in prepared(documents, ids, lambda: ""):
        checked = check_metadata(tenant, doc.metadata)
        if HASH in checked:
            raise InvalidInput(f"ingest: {HASH!r} in a document's metadata is the loader's own; rename yours")
        hashed = content_hash(doc)
        name = given or hashed
        if name in pairs and pairs[name].metadata[HASH] != hashed:
            raise InvalidInput("ingest: two documents of one call have the same id and different content")
        pairs[name] = doc.model_copy(update={"metadata": {**checked, HASH: hashed}})
    return list(pairs.items())


@contextmanager
def _told(progress: bool | Progress) -> Iterator[Progress]:
    """The caller's function, a bar, or nothing."""
    if callable(progress):
        yield progress
    elif progress:
        from rich.progress import Progress as Bar

        with Bar(transient=False) as bar:
            task = bar.add_task("Storing documents", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield lambda done, total: None


@dataclass
class _Count:
    stored: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    first: Exception | None = None

    def note(self, ids: Iterable[str], error: Exception) -> None:
        self.failed.extend(ids)
        self.first = self.first or error

    @property
    def done(self) -> int:
        return len(self.stored) + len(self.unchanged) + len(self.failed)


def _ingest(store: TenantVectorStore, tenant: Tenant, pairs: Pairs, size: int, tell: Progress) -> Flow[Ingested]:
    count, total = _Count(), len(pairs)
    tell(0, total)
    for start in range(0, total, size):
        batch = pairs[start : start + size]
        if isinstance(count.first, Refusal):
            count.note((name for name, _ in batch), count.first)
            continue
        yield from _batch(store, tenant, batch, count)
        tell(count.done, total)
    if count.first is not None:
        raise _incomplete(count, total)
    return Ingested(tuple(count.stored), tuple(count.unchanged))


def _batch(store: TenantVectorStore, tenant: Tenant, batch: Pairs, count: _Count) -> Flow[None]:
    new = batch
    try:
        found: list[Record] = yield Op(store.vectors, "fetch", (tenant, [name for name, _ in batch]), False)
        known = {record.id: record.metadata.get(HASH) for record in found}
        new = [(name, doc) for name, doc in batch if known.get(name) != doc.metadata[HASH]]
        count.unchanged.extend(name for name, doc in batch if known.get(name) == doc.metadata[HASH])
        if not new:
            return
        embedded = yield Op(store.embedding, "embed_documents", ([doc.page_content for _, doc in new],), False)
        yield Op(store.vectors, "upsert", (tenant, records(new, embedded)), False)
        count.stored.extend(name for name, _ in new)
    except PartialWrite as error:
        count.note(error.failed_ids, error)
        count.stored.extend(name for name, _ in new if name not in error.failed_ids)
    except Exception as error:  # noqa: BLE001  whatever an embedder raises; it is reported below, with the ids
        count.note((name for name, _ in new), error)


def _incomplete(count: _Count, total: int) -> PartialWrite:
    """The first error is the cause when it is ours; others may quote content, and are named only."""
    first = count.first
    why = str(first) if isinstance(first, TenancyError) else type(first).__name__
    kept = len(count.stored) + len(count.unchanged)
    refusal = PartialWrite(
        f"ingest: {kept} of {total} documents are stored and {len(count.failed)} are not ({why}); ingest them again: "
        "what is stored costs nothing",
        store="vectors",
        failed_ids=tuple(count.failed),
        stored=kept,
        retry_after=getattr(first, "retry_after", None),
    )
    refusal.__cause__ = first if isinstance(first, TenancyError) else None
    return refusal
