"""Seals the one cache that LlamaIndex keeps for the whole process: that of the embedding in Settings."""

from __future__ import annotations

from typing import Any

from tenant_middleware.errors import SealError, missing_extra
from tenant_middleware.isolation.seal import KeepsCaches, LayerReport
from tenant_middleware.llamaindex.key_values import TenantKVStore

try:
    from llama_index.core import Settings
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

LAYER = "Settings.embed_model cache"


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


def _cache() -> tuple[Any, Any]:
    """The global embedding and its cache; asking Settings for one that isn't set would make one."""
    model = Settings._embed_model
    return model, getattr(model, "embeddings_cache", None)
