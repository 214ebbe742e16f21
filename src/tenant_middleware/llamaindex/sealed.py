"""Seals what LlamaIndex keeps beside the vector store: its global embedding's cache, ingestion caches, docstores."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from tenant_middleware.errors import SealError, missing_extra
from tenant_middleware.isolation.seal import KeepsCaches, LayerReport, Sealer
from tenant_middleware.llamaindex.key_values import TenantKVStore, own_collection

try:
    from llama_index.core import Settings
    from llama_index.core.ingestion import IngestionCache
    from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

LAYER = "Settings.embed_model cache"
_CALLS = ("put", "get", "clear")
_COLLECTIONS = ("_node_collection", "_ref_doc_collection", "_metadata_collection")


class EmbeddingCacheSealer:
    """Wraps the cache of `Settings.embed_model` by tenant; caches given to single objects are their owners'."""

    framework = "llama_index.core"

    def __init__(self) -> None:
        self._before: tuple[Any, Any] | None = None

    def seal(self, tenancy: KeepsCaches) -> list[LayerReport]:
        model, found = _cache()
        if found is None:
            return [LayerReport(self.framework, LAYER, "absent", "no cache is set")]
        if not isinstance(found, TenantKVStore):
            self._before = model, found
            model.embeddings_cache = TenantKVStore(found)
        return [LayerReport(self.framework, LAYER, "sealed", f"was {type(found).__name__}")]

    def check(self) -> None:
        _, found = _cache()
        if found is not None and not isinstance(found, TenantKVStore):
            raise SealError(
                f"the cache of Settings.embed_model was replaced by a {type(found).__name__} after tenancy.seal(): it "
                "would tell one tenant what another has embedded; set it before sealing, or set a TenantKVStore"
            )

    def unseal(self) -> None:
        if self._before is not None:
            model, found = self._before
            model.embeddings_cache = found
        self._before = None


class IngestionCacheSealer:
    """Gives every tenant its own collection in each IngestionCache."""

    framework = "llama_index.core"

    def __init__(self) -> None:
        self._originals: dict[str, Callable[..., Any]] = {}

    def seal(self, tenancy: KeepsCaches) -> list[LayerReport]:
        if not self._originals:
            self._originals = {name: vars(IngestionCache)[name] for name in _CALLS}
            self._sealed = {name: _by_tenant(original) for name, original in self._originals.items()}
            for name, sealed in self._sealed.items():
                setattr(IngestionCache, name, sealed)
        return [LayerReport(self.framework, "ingestion cache", "sealed", "every IngestionCache")]

    def check(self) -> None:
        if any(vars(IngestionCache)[name] is not sealed for name, sealed in self._sealed.items()):
            raise SealError("IngestionCache was patched after tenancy.seal() and isn't keyed by tenant: seal last")

    def unseal(self) -> None:
        for name, original in self._originals.items():
            setattr(IngestionCache, name, original)
        self._originals = {}


class DocstoreSealer:
    """Gives every tenant its own collections in each docstore over a key-value store."""

    framework = "llama_index.core"

    def seal(self, tenancy: KeepsCaches) -> list[LayerReport]:
        for name in _COLLECTIONS:
            setattr(KVDocumentStore, name, _OwnCollection(name))
        return [LayerReport(self.framework, "docstore", "sealed", "every KVDocumentStore, SimpleDocumentStore too")]

    def check(self) -> None:
        if not all(isinstance(vars(KVDocumentStore).get(name), _OwnCollection) for name in _COLLECTIONS):
            raise SealError("KVDocumentStore was patched after tenancy.seal() and isn't keyed by tenant: seal last")

    def unseal(self) -> None:
        for name in _COLLECTIONS:
            if name in vars(KVDocumentStore):
                delattr(KVDocumentStore, name)


class LlamaIndexSealer:
    """All of LlamaIndex's cache layers under its one name."""

    framework = "llama_index.core"

    def __init__(self) -> None:
        self._parts: tuple[Sealer, ...] = (EmbeddingCacheSealer(), IngestionCacheSealer(), DocstoreSealer())

    def seal(self, tenancy: KeepsCaches) -> list[LayerReport]:
        return [report for part in self._parts for report in part.seal(tenancy)]

    def check(self) -> None:
        for part in self._parts:
            part.check()

    def unseal(self) -> None:
        for part in self._parts:
            part.unseal()


class _OwnCollection:
    """The collection of the tenant in context in place of a docstore's own; a TenantKVStore does that itself."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, docstore: Any, kind: type[Any] | None = None) -> Any:
        if docstore is None:
            return self
        plain = docstore.__dict__[self._name]
        return plain if isinstance(docstore._kvstore, TenantKVStore) else own_collection(plain)

    def __set__(self, docstore: Any, plain: str) -> None:
        docstore.__dict__[self._name] = plain


def _by_tenant(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def call(self: IngestionCache, *args: Any, collection: str | None = None, **kwargs: Any) -> Any:
        plain = collection or self.collection
        own = plain if isinstance(self.cache, TenantKVStore) else own_collection(plain)
        return original(self, *args, collection=own, **kwargs)

    return call


def _cache() -> tuple[Any, Any]:
    """The global embedding and its cache; asking Settings for one that isn't set would make one."""
    model = Settings._embed_model
    return model, getattr(model, "embeddings_cache", None)
