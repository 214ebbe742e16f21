"""LangChain documents in and out of the store: checked, given ids, and stamped where a pipeline verifies each hop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tenant_middleware import keys
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import InvalidInput, IsolationBreach, missing_extra
from tenant_middleware.isolation.place import STAMP, check_metadata
from tenant_middleware.isolation.vectors import Hit, Record
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.documents import Document
except ImportError as error:
    raise missing_extra("langchain", __name__) from error


def document(found: Hit | Record) -> Document:
    """What a search or a fetch found, without our stamp."""
    return Document(page_content=found.text, metadata=dict(found.metadata), id=found.id)


def stamped_document(tenant: Tenant, found: Hit | Record) -> Document:
    """The same with the tenant's stamp in the metadata, for `verify_tenant` further down a pipeline."""
    return Document(page_content=found.text, metadata={**found.metadata, STAMP: keys.tag(tenant)}, id=found.id)


@passing
def stamp(documents: Iterable[Document]) -> list[Document]:
    """Copies of documents marked as the current tenant's; one that is marked as another's raises TenantMismatch.

    For stores that aren't ours, such as the docstore of a parent-document retriever.
    """
    tenant = current_tenant()
    return [
        doc.model_copy(update={"metadata": {**check_metadata(tenant, doc.metadata), STAMP: keys.tag(tenant)}})
        for doc in documents
    ]


@passing
def verify_tenant(documents: Sequence[Document]) -> list[Document]:
    """The same documents, or IsolationBreach when one isn't stamped for the tenant in context.

    A step of a chain as it stands: `retriever | verify_tenant`. Our retrievers stamp with `stamped=True`; for
    documents that come from elsewhere, `stamp` them on the way in.
    """
    expected = keys.tag(current_tenant())
    for doc in documents:
        if not isinstance(doc, Document):
            raise InvalidInput(f"verify_tenant: expected documents, got {type(doc).__name__}")
        if doc.metadata.get(STAMP) != expected:
            raise IsolationBreach(
                "verify_tenant: a document isn't stamped for the tenant in context; nothing was returned. Retrieve "
                "with stamped=True, and stamp() what is stored elsewhere"
            )
    return list(documents)


def prepared(
    documents: Iterable[Document], ids: Sequence[str | None] | None, new_id: Callable[[], str]
) -> list[tuple[str, Document]]:
    """Documents with the ids to store them by: those given, else their own, else new ones."""
    docs = list(documents)
    for number, doc in enumerate(docs):
        if not isinstance(doc, Document):
            raise InvalidInput(f"document {number}: expected a Document, got {type(doc).__name__}")
        if not doc.page_content.strip():
            raise InvalidInput(f"document {number} has no text; leave it out")
    if ids is None:
        ids = [doc.id for doc in docs]
    if len(ids) != len(docs):
        raise InvalidInput(f"ids: expected one for each of {len(docs)} documents, got {len(ids)}")
    return [(given or new_id(), doc) for given, doc in zip(ids, docs, strict=True)]


def from_texts(texts: Iterable[str], metadatas: Sequence[Mapping[str, Any]] | None) -> list[Document]:
    """One document for each text, with its metadata."""
    listed = list(texts)
    if metadatas is None:
        metadatas = [{}] * len(listed)
    if len(metadatas) != len(listed):
        raise InvalidInput(f"metadatas: expected one for each of {len(listed)} texts, got {len(metadatas)}")
    return [Document(page_content=text, metadata=dict(data)) for text, data in zip(listed, metadatas, strict=True)]


def records(pairs: Sequence[tuple[str, Document]], embedded: Sequence[Sequence[float]]) -> list[Record]:
    """Documents and their vectors as records; an embedder that lost one is refused."""
    if len(embedded) != len(pairs):
        raise InvalidInput(f"embedding: expected {len(pairs)} vectors, got {len(embedded)}")
    return [
        Record(doc_id, vector, doc.page_content, doc.metadata)
        for (doc_id, doc), vector in zip(pairs, embedded, strict=True)
    ]
