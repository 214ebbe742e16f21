"""Index structs that hold nothing of a tenant's themselves, for indexes that tenants share as objects."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import ClassVar

from tenant_middleware.errors import missing_extra
from tenant_middleware.llamaindex.key_values import TenantKVStore

try:
    from llama_index.core.data_structs.data_structs import IndexDict, IndexList, IndexStruct
    from llama_index.core.schema import BaseNode
    from llama_index.core.storage.index_store import SimpleIndexStore
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

_numbers = itertools.count()


@dataclass
class NodesInVectors(IndexDict):
    """Notes no node: the vector store has them all.

    LlamaIndex notes ids of IndexNodes and ImageNodes and then searches among those alone, for every tenant.
    """

    def add_node(self, node: BaseNode, text_id: str | None = None) -> str:
        return text_id if text_id is not None else node.node_id

    def delete(self, doc_id: str) -> None:
        """Nothing was noted."""


@dataclass
class NodesOfTenants(IndexList):
    """A list of node ids for each tenant, in the order in which they came; it lies in a TenantKVStore."""

    COLLECTION: ClassVar[str] = "summary index nodes"

    def __post_init__(self) -> None:
        self._kept = TenantKVStore()

    @classmethod
    def over(cls, kept: TenantKVStore) -> NodesOfTenants:
        """A struct whose lists lie in this store."""
        made = cls()
        made._kept = kept
        return made

    def add_node(self, node: BaseNode) -> None:
        at = [time.time_ns(), next(_numbers)]
        self._kept.put(node.node_id, {"at": at}, collection=self.COLLECTION)

    def _listed(self) -> list[str]:
        found = self._kept.get_all(collection=self.COLLECTION)
        return sorted(found, key=lambda node_id: found[node_id]["at"])

    def _keep(self, wanted: list[str]) -> None:
        for node_id in set(self._listed()) - set(wanted):
            self._kept.delete(node_id, collection=self.COLLECTION)


class NothingOfTenants(SimpleIndexStore):
    """An index store for structs that keep themselves: a copy of one here would be every tenant's."""

    def add_index_struct(self, index_struct: IndexStruct) -> None:
        """The struct has kept it already."""

    async def async_add_index_struct(self, index_struct: IndexStruct) -> None:
        """The struct has kept it already."""


def _ids(struct: NodesOfTenants) -> list[str]:
    """The node ids of the tenant in context."""
    return struct._listed()


def _set_ids(struct: NodesOfTenants, wanted: list[str]) -> None:
    if hasattr(struct, "_kept"):  # the dataclass sets its empty default before there is a store
        struct._keep(wanted)


# A dataclass takes a property in its body for a field's default.
NodesOfTenants.nodes = property(_ids, _set_ids)  # type: ignore[assignment]  # a field, by its declaration
