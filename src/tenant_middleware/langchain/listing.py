"""A listing over all of a tenant's threads in a saver that tenants share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from tenant_middleware.errors import StoreUnavailable, missing_extra
from tenant_middleware.langchain.threads import STAMP, Threads

try:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

EVERYBODYS = 1_000_000  # Redis's own bound for a search; its saver stops at 10,000 unless told, and doesn't say so


class Listing:
    """What a caller asked `list` for, translated; read at the call, before the first step."""

    def __init__(
        self,
        threads: Threads,
        config: RunnableConfig | None,
        filter: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> None:
        self.threads = threads
        self.config = threads.inward(config) if config else None
        self.limit = limit
        self._filter = threads.filtered(filter)
        self._before = threads.inward(before) if before and "thread_id" in before["configurable"] else before

    def of_a_thread(self) -> dict[str, Any]:
        return {"filter": self._filter, "before": self._before, "limit": self.limit}

    def stamped(self) -> dict[str, Any]:
        return {**self.of_a_thread(), "filter": {**(self._filter or {}), STAMP: self.threads.tag}}

    def of_everybody(self) -> dict[str, Any]:
        """The limit is ours to count, as the saver's would count everybody's."""
        return {**self.of_a_thread(), "limit": EVERYBODYS}


def rows(inner: BaseCheckpointSaver[Any], scoped: Listing) -> Iterator[CheckpointTuple]:
    """Without a thread this tenant's stamp is asked for; a saver that can't filter by it is read in full."""
    if scoped.config is not None:
        yield from inner.list(scoped.config, **scoped.of_a_thread())
        return
    try:
        yield from inner.list(None, **scoped.stamped())
        return
    except ValueError as error:
        _only_of_a_filter(error)
    for seen, found in enumerate(inner.list(None, **scoped.of_everybody()), start=1):
        _refuse_a_cut(seen)
        yield found


async def arows(inner: BaseCheckpointSaver[Any], scoped: Listing) -> AsyncIterator[CheckpointTuple]:
    """The async twin of `rows`."""
    if scoped.config is not None:
        async for found in inner.alist(scoped.config, **scoped.of_a_thread()):
            yield found
        return
    try:
        async for found in inner.alist(None, **scoped.stamped()):
            yield found
        return
    except ValueError as error:
        _only_of_a_filter(error)
    seen = 0
    async for found in inner.alist(None, **scoped.of_everybody()):
        seen += 1
        _refuse_a_cut(seen)
        yield found


def _only_of_a_filter(error: ValueError) -> None:
    """langgraph-checkpoint-redis knows four filter keys, and says so before the first row."""
    if "filter key" not in str(error):
        raise error


def _refuse_a_cut(seen: int) -> None:
    """A listing that may be cut is an error: a short one would look like a whole one."""
    if seen >= EVERYBODYS:
        raise StoreUnavailable(
            f"this saver can't list one tenant's threads, and holds {EVERYBODYS:,} checkpoints or more: name a thread, "
            "or use a saver that filters by metadata (Postgres, SQLite)",
            store="checkpoints",
        )
