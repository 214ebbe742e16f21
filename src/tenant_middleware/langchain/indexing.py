"""What LangChain's indexing API notes of documents that are stored already, for each tenant apart."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from threading import Lock
from typing import Any

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import missing_extra
from tenant_middleware.keys import PREFIX, namespace
from tenant_middleware.langchain.pinned import called_now
from tenant_middleware.langchain.refusals import passing

try:
    from langchain_core.indexing import RecordManager
except ImportError as error:
    raise missing_extra("langchain", __name__) from error


class TenantRecordManager(RecordManager):
    """A record manager for `langchain_core.indexing.index` whose records are the tenant's in context.

    With one that tenants share, the second tenant's same document is skipped, and never stored. `make` gives a manager
    of a namespace: `TenantRecordManager(lambda namespace: SQLRecordManager(namespace, engine=engine))`.
    """

    def __init__(self, make: Callable[[str], RecordManager]) -> None:
        super().__init__(namespace=PREFIX)
        self._make = make
        self._made: dict[str, RecordManager] = {}
        self._lock = Lock()

    def _of(self, name: str) -> RecordManager:
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def _mine(self) -> RecordManager:
        return self._of(namespace(current_tenant()))

    def create_schema(self) -> None:
        """Once, outside any scope: the tables are everybody's, the records aren't."""
        self._of(self.namespace).create_schema()

    async def acreate_schema(self) -> None:
        await self._of(self.namespace).acreate_schema()

    def get_time(self) -> float:
        return self._of(self.namespace).get_time()

    async def aget_time(self) -> float:
        return await self._of(self.namespace).aget_time()

    @passing
    def update(
        self, keys: Sequence[str], *, group_ids: Sequence[str | None] | None = None, time_at_least: float | None = None
    ) -> None:
        self._mine().update(keys, group_ids=group_ids, time_at_least=time_at_least)

    @passing
    def exists(self, keys: Sequence[str]) -> list[bool]:
        return self._mine().exists(keys)

    @passing
    def list_keys(self, **asked: Any) -> list[str]:
        return self._mine().list_keys(**asked)

    @passing
    def delete_keys(self, keys: Sequence[str]) -> None:
        self._mine().delete_keys(keys)

    @passing
    def aupdate(
        self, keys: Sequence[str], *, group_ids: Sequence[str | None] | None = None, time_at_least: float | None = None
    ) -> Coroutine[Any, Any, None]:
        return called_now(self._mine().aupdate, keys, group_ids=group_ids, time_at_least=time_at_least)

    @passing
    def aexists(self, keys: Sequence[str]) -> Coroutine[Any, Any, list[bool]]:
        return called_now(self._mine().aexists, keys)

    @passing
    def alist_keys(self, **asked: Any) -> Coroutine[Any, Any, list[str]]:
        return called_now(self._mine().alist_keys, **asked)

    @passing
    def adelete_keys(self, keys: Sequence[str]) -> Coroutine[Any, Any, None]:
        return called_now(self._mine().adelete_keys, keys)

    def clear_tenant(self) -> int:
        """Forget what the tenant in context has indexed, as when its documents were erased; says how much that was."""
        names = self.list_keys()
        self.delete_keys(names)
        return len(names)

    async def aclear_tenant(self) -> int:
        """The async twin of `clear_tenant`."""
        names = await self.alist_keys()
        await self.adelete_keys(names)
        return len(names)
