"""Thread and run ids of one tenant inside a saver that tenants share, and the way back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from tenant_middleware.errors import InvalidInput, IsolationBreach, missing_extra
from tenant_middleware.keys import decode, encode, key, key_prefix, tag
from tenant_middleware.tenant import Tenant

try:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import CheckpointMetadata, CheckpointTuple
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

STAMP = "tenant_middleware_tenant"


class Threads:
    """The injective mapping of one tenant's thread ids, run ids and metadata."""

    def __init__(self, tenant: Tenant) -> None:
        self.tag = tag(tenant)
        self._tenant = tenant
        self._prefix = _parts_of(tenant, "thread")
        self._runs = _parts_of(tenant, "run")
        self.mapped = lru_cache(maxsize=1024)(self._mapped)
        self.plain = lru_cache(maxsize=1024)(self._plain)

    @staticmethod
    def of(tenant: Tenant) -> Threads:
        """The same mapping each time, so that its cached names are found again."""
        found = _mappings.get(tenant.id)
        if found is None:
            if len(_mappings) >= _MOST:
                _mappings.clear()
            found = _mappings[tenant.id] = Threads(tenant)
        return found

    def _mapped(self, thread_id: object) -> str:
        text = str(thread_id)
        if not text or thread_id is None:
            raise InvalidInput("thread_id: expected text that isn't empty")
        return key(self._tenant, "thread", text)

    def _plain(self, name: str) -> str:
        return decode(name[len(self._prefix) : -1])

    def owns(self, config: RunnableConfig) -> bool:
        """Whether a config of the inner saver names a thread of this tenant."""
        return str(config["configurable"].get("thread_id", "")).startswith(self._prefix)

    def inward(self, config: RunnableConfig) -> RunnableConfig:
        """The config with the thread id that the inner saver stores."""
        configurable = config.get("configurable")
        if not configurable or "thread_id" not in configurable:
            raise InvalidInput('the saver needs a thread: pass config={"configurable": {"thread_id": ...}}')
        return _with(config, {**configurable, "thread_id": self.mapped(configurable["thread_id"])})

    def outward(self, config: RunnableConfig, asked: RunnableConfig | None = None) -> RunnableConfig:
        """The config with the thread id that the caller knows."""
        configurable = config["configurable"]
        if not self.owns(config):
            raise IsolationBreach("the saver answered with a checkpoint of another thread; nothing was returned")
        plain = asked["configurable"]["thread_id"] if asked else self.plain(configurable["thread_id"])
        return _with(config, {**configurable, "thread_id": plain})

    def stamp(self, config: RunnableConfig, metadata: CheckpointMetadata) -> CheckpointMetadata:
        """Metadata as it is stored: the tenant written in, and the run id as one of this tenant's."""
        stored = {**metadata, STAMP: self.tag}
        run = metadata.get("run_id") or _run_of(config)
        if run is not None:
            stored["run_id"] = self.run(str(run))
        return cast("CheckpointMetadata", stored)

    def run(self, run_id: str) -> str:
        """A run id that only this tenant's deletions can name."""
        return key(self._tenant, "run", run_id)

    def filtered(self, wanted: dict[str, Any] | None) -> dict[str, Any] | None:
        """A caller's metadata filter in stored terms; the stamp is ours to ask for."""
        if not wanted:
            return None
        if STAMP in wanted:
            raise InvalidInput(f"filter: {STAMP} is set by tenant_middleware; the tenant comes from the context")
        return {k: self.run(str(v)) if k == "run_id" else v for k, v in wanted.items()}

    def restored(self, found: CheckpointTuple, asked: RunnableConfig | None = None) -> CheckpointTuple:
        """A checkpoint as the caller knows it: own thread and run ids, no stamp."""
        parent = found.parent_config
        return found._replace(
            config=self.outward(found.config, asked),
            parent_config=self.outward(parent, asked) if parent else parent,
            metadata=self._metadata(found.metadata),
        )

    def _metadata(self, stored: CheckpointMetadata) -> CheckpointMetadata:
        plain: dict[str, Any] = {**stored}
        if plain.pop(STAMP, self.tag) != self.tag:
            raise IsolationBreach("a checkpoint with another tenant's stamp was stopped on its way to the caller")
        run = plain.get("run_id")
        if isinstance(run, str) and run.startswith(self._runs):
            plain["run_id"] = decode(run[len(self._runs) : -1])
        return plain  # type: ignore[return-value]  # what it was, less our stamp


_MOST = 1024
_mappings: dict[str, Threads] = {}  # by id alone, which is cheaper to hash than a Tenant


def _parts_of(tenant: Tenant, kind: str) -> str:
    """What every key(tenant, kind, id) starts with."""
    return f"{key_prefix(tenant)}{encode(kind)}:"


def _run_of(config: RunnableConfig) -> object:
    for place in (config.get("metadata"), config.get("configurable")):
        if place and place.get("run_id") is not None:
            return place["run_id"]
    return None


def _with(config: RunnableConfig, configurable: dict[str, Any]) -> RunnableConfig:
    return {**config, "configurable": configurable}
