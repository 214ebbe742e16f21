"""A second line behind the store: whatever a retriever brought, only nodes of the tenant in context go on."""

from __future__ import annotations

from tenant_middleware.context import bind, current_tenant
from tenant_middleware.errors import ConfigurationError, IsolationBreach, missing_extra
from tenant_middleware.isolation.vectors import Record, Vectors
from tenant_middleware.llamaindex.pinned import Unpickled
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

Nodes = list[NodeWithScore]


class TenantPostprocessor(Unpickled, BaseNodePostprocessor):
    """Put it first among `node_postprocessors`: a node that isn't the tenant's raises IsolationBreach.

    `TenantPostprocessor(vectors=tenancy.vectors)` asks the store: the tenant has a record of this id with this text.
    `TenantPostprocessor(owner="customer")` reads the node's metadata, for graphs, docstores and databases that name
    the owner there. It runs in query and chat engines; a bare retriever has no postprocessors.
    """

    _vectors: Vectors | None = PrivateAttr()
    _owner: str | None = PrivateAttr()

    def __init__(self, *, vectors: Vectors | None = None, owner: str | None = None) -> None:
        if (vectors is None) == (owner is None):
            raise ConfigurationError("TenantPostprocessor: say vectors=tenancy.vectors or owner='field', one of them")
        super().__init__()
        self._vectors = vectors
        self._owner = owner

    @classmethod
    def class_name(cls) -> str:
        return "TenantPostprocessor"

    def _postprocess_nodes(self, nodes: Nodes, query_bundle: QueryBundle | None = None) -> Nodes:
        tenant = current_tenant()
        found = self._vectors.fetch(tenant, _ids(nodes)) if self._vectors is not None and nodes else []
        return self._checked(tenant, nodes, found)

    async def _apostprocess_nodes(self, nodes: Nodes, query_bundle: QueryBundle | None = None) -> Nodes:
        tenant = current_tenant()
        found = await bind(self._vectors.afetch)(tenant, _ids(nodes)) if self._vectors is not None and nodes else []
        return self._checked(tenant, nodes, found)

    def _checked(self, tenant: Tenant, nodes: Nodes, found: list[Record]) -> Nodes:
        texts = {record.id: record.text for record in found}
        for scored in nodes:
            node = scored.node
            if self._owner is not None:
                owned = node.metadata.get(self._owner) == tenant.id
            else:
                owned = texts.get(node.node_id) == node.get_content(MetadataMode.NONE)
            if not owned:
                raise IsolationBreach(
                    "a retrieved node isn't the calling tenant's, or isn't marked as such: nothing was returned; "
                    "retrieve through a TenantVectorStore, or filter by the owner"
                )
        return nodes


def _ids(nodes: Nodes) -> list[str]:
    return list(dict.fromkeys(scored.node.node_id for scored in nodes))
