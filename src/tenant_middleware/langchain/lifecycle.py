"""LangGraph's stores of an application as parts of export, import and erasure: long-term memories and threads."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from threading import get_ident
from typing import Any

from tenant_middleware.context import scope
from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.langchain.memory import TenantCheckpointSaver
from tenant_middleware.langchain.store import TenantStore
from tenant_middleware.tenant import Tenant

try:
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
    from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.store.base import BaseStore, SearchItem
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

_PAGE = 500
_SHOWN = 10


class StoredMemories:
    """A tenant's items in a LangGraph store: `erase(..., stores={"memories": StoredMemories(store)})`.

    What is read back has the times of its import.
    """

    def __init__(self, store: BaseStore) -> None:
        self._store = store if isinstance(store, TenantStore) else TenantStore(store)

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        for item in self._items(tenant):
            named = [*item.namespace, item.key]
            times = {"created": item.created_at.isoformat(), "updated": item.updated_at.isoformat()}
            yield {"key": json.dumps(named), "namespace": list(item.namespace), "value": item.value, **times}

    def load(self, tenant: Tenant, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write exported rows back."""
        with scope(tenant):
            for row in rows:
                self._store.put(tuple(row["namespace"]), json.loads(row["key"])[-1], row["value"])

    def erase(self, tenant: Tenant) -> int:
        with scope(tenant):
            return self._store.clear_tenant()

    def leftovers(self, tenant: Tenant) -> Sequence[str]:
        with scope(tenant):
            return [item.key for item in self._store.search((), limit=_SHOWN)]

    def _items(self, tenant: Tenant) -> Iterator[SearchItem]:
        start = 0
        while True:
            with scope(tenant):
                page = self._store.search((), limit=_PAGE, offset=start)
            yield from page
            if len(page) < _PAGE:
                return
            start += len(page)


class StoredThreads:
    """A tenant's threads in a LangGraph saver, checkpoint by checkpoint: `stores={"threads": StoredThreads(saver)}`.

    `state` of a row is what `load` reads; `values`, in the newest of each thread, is what a human does. `load` builds
    LangGraph's and LangChain's own objects, and those of your graph's state that `types` names; a row that asks for
    another raises InvalidInput, since an archive that was away may ask for any.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any], *, types: Iterable[type] = ()) -> None:
        self._saver = saver if isinstance(saver, TenantCheckpointSaver) else TenantCheckpointSaver(saver)
        # Not the saver's own, which may encrypt with a key that stays here.
        self._serde = JsonPlusSerializer(allowed_msgpack_modules=list(types))

    def export(self, tenant: Tenant) -> Iterator[Mapping[str, Any]]:
        with scope(tenant):
            # Redis's saver lists messages as they lie there; a checkpoint that is asked for is whole. The listing is
            # read to its end first: SQLite's holds a lock meanwhile.
            whole = [self._saver.get_tuple(one.config) for one in list(self._saver.list(None))]
        found = sorted((one for one in whole if one is not None), key=_place)
        for _, checkpoints in groupby(found, key=lambda one: _place(one)[:2]):
            *older, newest = checkpoints
            for one in older:
                yield self._row(one)
            yield {**self._row(newest), "values": _readable(newest.checkpoint["channel_values"])}

    def _row(self, one: CheckpointTuple) -> dict[str, Any]:
        parent = one.parent_config and one.parent_config["configurable"].get("checkpoint_id")
        kind, packed = self._serde.dumps_typed([one.checkpoint, one.metadata, one.pending_writes or []])
        state = base64.b64encode(packed).decode("ascii")
        return {"key": json.dumps(_place(one)), "parent": parent, "kind": kind, "state": state}

    def load(self, tenant: Tenant, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write exported rows back."""
        with scope(tenant):
            for row in rows:
                self._put(row)

    def _put(self, row: Mapping[str, Any]) -> None:
        thread, space, _ = json.loads(row["key"])
        checkpoint, metadata, writes = self._built(row["kind"], base64.b64decode(row["state"]))
        config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": space, "checkpoint_id": row["parent"]}}
        put = self._saver.put(config, checkpoint, metadata, checkpoint["channel_versions"])
        for task, written in groupby(writes, key=lambda write: write[0]):
            self._saver.put_writes(put, [(channel, value) for _, channel, value in written], task)

    def _built(self, kind: str, packed: bytes) -> Any:
        """LangGraph hands on what it doesn't build as bare values, and tells its listeners."""
        refused: list[str] = []
        here = get_ident()

        def note(event: SerdeEvent) -> None:
            if "blocked" in event["kind"] and get_ident() == here:
                refused.append(f"{event['module']}.{event['name']}")

        forget = register_serde_event_listener(note)
        try:
            built = self._serde.loads_typed((kind, packed))
        finally:
            forget()
        if refused:
            raise InvalidInput(
                f"threads: a row asks for a {refused[0][:128]}, which is no type of LangGraph's or LangChain's: if it "
                "is one of your graph's state, StoredThreads(saver, types=[...]) names it"
            )
        return built

    def erase(self, tenant: Tenant) -> int:
        with scope(tenant):
            return self._saver.clear_tenant()

    def leftovers(self, tenant: Tenant) -> Sequence[str]:
        with scope(tenant):
            return sorted({_place(found)[0] for found in self._saver.list(None)})[:_SHOWN]


def _place(one: CheckpointTuple) -> tuple[str, str, str]:
    """Thread, namespace and id, which goes up with time."""
    names = one.config["configurable"]
    return str(names["thread_id"]), str(names.get("checkpoint_ns", "")), str(names["checkpoint_id"])


def _readable(values: Mapping[str, Any]) -> Any:
    def shown(value: Any) -> Any:
        return value.model_dump() if hasattr(value, "model_dump") else str(value)

    return json.loads(json.dumps(values, default=shown))
