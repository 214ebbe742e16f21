"""LlamaIndex nodes as records and back: text, metadata and embedding are the record's, the rest is kept beside."""

from __future__ import annotations

from typing import Any

from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.isolation.vectors import Hit, Record

try:
    from llama_index.core.constants import DATA_KEY, TYPE_KEY
    from llama_index.core.schema import BaseNode, MetadataMode, TextNode
    from llama_index.core.storage.docstore.utils import json_to_doc
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

REF_DOC_ID = "ref_doc_id"  # callers may filter on it: the document a node was cut from
NODE_ID = "_node_id"
NODE = "_node"
_APART = ("metadata", "embedding", "text", "text_resource")


def record_of(node: BaseNode) -> Record:
    """A node with its embedding, as it is stored."""
    if not isinstance(node, BaseNode):
        raise InvalidInput(f"add: expected nodes, got {type(node).__name__}")
    if node.embedding is None:
        raise InvalidInput("add: expected nodes with an embedding; an index makes one with its embed_model")
    try:
        data = node.model_dump(mode="json")
    except ValueError:
        raise InvalidInput("add: this node can't be written as JSON; an IndexNode's obj has to be a node") from None
    metadata: dict[str, Any] = data["metadata"]
    clash = {NODE, NODE_ID} & metadata.keys()
    if clash or metadata.get(REF_DOC_ID, node.ref_doc_id) != node.ref_doc_id:
        raise InvalidInput(
            f"add: {NODE!r}, {NODE_ID!r} and {REF_DOC_ID!r} in a node's metadata are the store's; rename yours"
        )
    rest = {name: value for name, value in data.items() if name not in _APART}
    rest[TYPE_KEY] = str(node.get_type().value)  # type: ignore[attr-defined]  # an ObjectType, declared as str
    ours: dict[str, Any] = {NODE_ID: node.node_id, NODE: rest}
    if node.ref_doc_id is not None:
        ours[REF_DOC_ID] = node.ref_doc_id
    return Record(node.node_id, node.embedding, node.get_content(MetadataMode.NONE), {**metadata, **ours})


def node_of(found: Hit | Record) -> BaseNode:
    """The node of a verified record; one that something else wrote is a TextNode."""
    metadata = dict(found.metadata)
    data = dict(metadata.pop(NODE, None) or {})
    for name in (NODE_ID, REF_DOC_ID):
        metadata.pop(name, None)
    if not data:
        node: BaseNode = TextNode(id_=found.id, text=found.text, metadata=metadata)
    else:
        kind = data.pop(TYPE_KEY)
        node = json_to_doc({TYPE_KEY: kind, DATA_KEY: {**data, "id_": found.id, "metadata": metadata}})
        node.set_content(found.text)
    if isinstance(found, Record):
        node.embedding = list(found.vector)
    return node
