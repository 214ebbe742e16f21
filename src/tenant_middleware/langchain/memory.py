"""Short-term memory: any LangGraph checkpoint saver, with the tenant inside every thread id.

Errors leave as they are, not as GraphBubbleUp: LangGraph stores in the background and drops that class there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, cast

from tenant_middleware.context import bind, current_tenant, pin, refuse_other, scope
from tenant_middleware.errors import (
    ConfigurationError,
    InvalidInput,
    IsolationBreach,
    TenantMismatch,
    missing_extra,
)
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.langchain.listing import Listing, arows, rows
from tenant_middleware.langchain.threads import Threads
from tenant_middleware.telemetry import incident
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig
    from langgraph.checkpoint.base import (
        BaseCheckpointSaver,
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
    )
    from langgraph.checkpoint.memory import InMemorySaver
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

_REMEMBERED_CHECKPOINTS = 10_000


class TenantCheckpointSaver(BaseCheckpointSaver[Any]):
    """Wraps a saver so that one `thread_id` of two tenants is two conversations, and a listing shows one tenant's.

    Configs that come back carry the caller's own thread ids. A checkpoint that continues one this tenant never saw, as
    a stream does that another tenant's scope resumes, raises TenantMismatch.
    """

    def __init__(self, inner: BaseCheckpointSaver[Any]) -> None:
        if isinstance(inner, TenantCheckpointSaver):
            raise ConfigurationError("TenantCheckpointSaver: the inner saver is wrapped already")
        refuse_pickle(inner.serde)
        self.inner = inner
        self.serde = inner.serde
        self._seen = _Owners(_REMEMBERED_CHECKPOINTS)
        if isinstance(inner, InMemorySaver):
            RESIDENTS.register(self)

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        return self.inner.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.inner.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> TenantCheckpointSaver:
        inner = self.inner.with_allowlist(extra_allowlist)
        if inner is self.inner:
            return self
        clone = TenantCheckpointSaver(inner)
        clone._seen = self._seen
        return clone

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        tenant, threads = _now()
        return self._mine(tenant, threads, config, self.inner.get_tuple(threads.inward(config)))

    def aget_tuple(self, config: RunnableConfig) -> Coroutine[Any, Any, CheckpointTuple | None]:
        tenant, threads = _now()

        async def get() -> CheckpointTuple | None:
            refuse_other(tenant)
            return self._mine(tenant, threads, config, await self.inner.aget_tuple(threads.inward(config)))

        return get()

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        tenant, threads = _now()
        scoped = Listing(threads, config, filter, before, limit)
        return pin(self._list(tenant, scoped))

    def _list(self, tenant: Tenant, scoped: Listing) -> Iterator[CheckpointTuple]:
        left = scoped.limit
        for found in rows(self.inner, scoped):
            if left is not None and left <= 0:
                return
            if scoped.threads.owns(found.config):
                left = None if left is None else left - 1
                yield self._outward(tenant, scoped.threads, found)

    def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        tenant, threads = _now()
        scoped = Listing(threads, config, filter, before, limit)
        return pin(self._alist(tenant, scoped))

    async def _alist(self, tenant: Tenant, scoped: Listing) -> AsyncIterator[CheckpointTuple]:
        left = scoped.limit
        async for found in arows(self.inner, scoped):
            if left is not None and left <= 0:
                return
            if scoped.threads.owns(found.config):
                left = None if left is None else left - 1
                yield self._outward(tenant, scoped.threads, found)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        threads = self._admit(config, checkpoint["id"])
        stamped = threads.stamp(config, metadata)
        return threads.outward(self.inner.put(threads.inward(config), checkpoint, stamped, new_versions), config)

    def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Coroutine[Any, Any, RunnableConfig]:
        threads = self._admit(config, checkpoint["id"])
        stamped = threads.stamp(config, metadata)

        async def put() -> RunnableConfig:
            put = await self.inner.aput(threads.inward(config), checkpoint, stamped, new_versions)
            return threads.outward(put, config)

        return put()

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        threads = self._admit(config, None)
        self.inner.put_writes(threads.inward(config), writes, task_id, task_path)

    def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> Coroutine[Any, Any, None]:
        threads = self._admit(config, None)
        return self.inner.aput_writes(threads.inward(config), writes, task_id, task_path)

    def delete_thread(self, thread_id: str) -> None:
        self.inner.delete_thread(_now()[1].mapped(thread_id))

    def adelete_thread(self, thread_id: str) -> Coroutine[Any, Any, None]:
        return self.inner.adelete_thread(_now()[1].mapped(thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        threads = _now()[1]
        self.inner.copy_thread(threads.mapped(source_thread_id), threads.mapped(target_thread_id))

    def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> Coroutine[Any, Any, None]:
        threads = _now()[1]
        return self.inner.acopy_thread(threads.mapped(source_thread_id), threads.mapped(target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", **options: Any) -> None:
        threads = _now()[1]
        self.inner.prune([threads.mapped(t) for t in thread_ids], strategy=strategy, **options)

    def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", **options: Any
    ) -> Coroutine[Any, Any, None]:
        threads = _now()[1]
        return self.inner.aprune([threads.mapped(t) for t in thread_ids], strategy=strategy, **options)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        threads = _now()[1]
        self.inner.delete_for_runs([threads.run(run_id) for run_id in run_ids])

    def adelete_for_runs(self, run_ids: Sequence[str]) -> Coroutine[Any, Any, None]:
        threads = _now()[1]
        return self.inner.adelete_for_runs([threads.run(run_id) for run_id in run_ids])

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return self.inner.get_delta_channel_history(config=_now()[1].inward(config), channels=channels)

    def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Coroutine[Any, Any, Mapping[str, DeltaChannelHistory]]:
        scoped = _now()[1].inward(config)
        return bind(self.inner.aget_delta_channel_history)(config=scoped, channels=channels)

    def clear_tenant(self) -> int:
        """Delete every thread of the tenant in context; says how many there were."""
        names = {str(found.config["configurable"]["thread_id"]) for found in self.list(None)}
        for name in names:
            self.delete_thread(name)
        return len(names)

    async def aclear_tenant(self) -> int:
        """The async twin of `clear_tenant`."""
        names = {str(found.config["configurable"]["thread_id"]) async for found in self.alist(None)}
        for name in names:
            await self.adelete_thread(name)
        return len(names)

    def leave(self, tenant: Tenant) -> int:
        """Drop the tenant's threads from this process; savers with a database aren't asked."""
        with scope(tenant):
            return self.clear_tenant()

    def _admit(self, config: RunnableConfig, checkpoint_id: str | None) -> Threads:
        tenant, threads = _now()
        self._seen.refuse_foreign(config["configurable"].get("checkpoint_id"), tenant)
        if checkpoint_id is not None:
            self._seen.note(checkpoint_id, tenant)
        return threads

    def _mine(
        self, tenant: Tenant, threads: Threads, asked: RunnableConfig, found: CheckpointTuple | None
    ) -> CheckpointTuple | None:
        return None if found is None else self._outward(tenant, threads, found, asked)

    def _outward(
        self, tenant: Tenant, threads: Threads, found: CheckpointTuple, asked: RunnableConfig | None = None
    ) -> CheckpointTuple:
        try:
            mine = threads.restored(found, asked)
        except IsolationBreach:
            incident(tenant, "memory")
            raise
        self._seen.note(mine.checkpoint["id"], tenant)
        return mine


class _Owners:
    """Which tenants this process has seen store or read a checkpoint, for the newest ones."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._owners: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._lock = Lock()

    def note(self, checkpoint_id: str, tenant: Tenant) -> None:
        known = self._owners.get(checkpoint_id, ())
        if tenant.id in known:
            return
        with self._lock:
            self._owners[checkpoint_id] = (*self._owners.get(checkpoint_id, ()), tenant.id)
            while len(self._owners) > self._size:
                self._owners.popitem(last=False)

    def refuse_foreign(self, checkpoint_id: str | None, tenant: Tenant) -> None:
        known = self._owners.get(checkpoint_id) if checkpoint_id else None
        if known is not None and tenant.id not in known:
            raise TenantMismatch(
                "this run continues a checkpoint of another tenant: a stream keeps the tenant it was started for "
                "when it is wrapped in pin(...); nothing was stored"
            )


def _now() -> tuple[Tenant, Threads]:
    tenant = current_tenant()
    return tenant, Threads.of(tenant)


class _OnlyPickle:
    """What msgpack and JSON refuse and pickle takes."""


def refuse_pickle(serde: Any) -> None:
    """Raise ConfigurationError for a serializer that pickles what it does not know, also inside an encrypting one."""
    inner = getattr(serde, "serde", None)
    if inner is not None:
        refuse_pickle(inner)
    if getattr(serde, "pickle_fallback", False) or _pickles(serde):
        raise ConfigurationError(
            "the saver's serializer falls back to pickle, which runs code when it is read: use "
            "JsonPlusSerializer(pickle_fallback=False)"
        )


def _pickles(serde: Any) -> bool:
    try:
        kind, data = cast("tuple[str, bytes]", serde.dumps_typed(_OnlyPickle()))
    except (TypeError, ValueError, InvalidInput):
        return False
    return "pickle" in kind or data[:1] == b"\x80"
