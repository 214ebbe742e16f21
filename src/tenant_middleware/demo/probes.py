"""Does a tenant ever see another's data? Each probe has an owner who must find it, and a run with the guard off.

A search that finds nothing proves nothing: the owner asks on the same path and must find its secret. And a check that
can't turn red proves nothing either: the same question goes to the shared backend past the tenant part, and must leak.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig

from tenant_middleware.backends.in_memory.cache import InMemorySemanticCache
from tenant_middleware.context import scope
from tenant_middleware.demo.chain import Assistant
from tenant_middleware.errors import ConfigurationError, InvalidInput, IsolationBreach, TenantMismatch
from tenant_middleware.isolation.cache import Question, question
from tenant_middleware.isolation.filters import Where, parse
from tenant_middleware.isolation.place import place_of
from tenant_middleware.isolation.scoped import ScopedVectors
from tenant_middleware.local import embeddings
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

SECRET = "KESTREL-4471"
_ABOUT = "What is the code of the vault?"
_TEXT = f"The code of the vault is {SECRET}. It is changed every Friday by the caretaker."
_ID = "isolation-check"
_EVERYTHING = {"$or": [{"source": _ID}, {"source": {"$ne": _ID}}]}
_THREAD: RunnableConfig = {"configurable": {"thread_id": _ID}}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe saw: all is well when only the owner found the secret, and the guard was what held."""

    probe: str
    owner_found: bool
    foreign_found: bool
    leaked_with_guard_off: bool

    @property
    def held(self) -> bool:
        return self.owner_found and not self.foreign_found and self.leaked_with_guard_off


@dataclass(frozen=True, slots=True)
class _Probe:
    name: str
    guarded: Callable[[Tenant], str]
    unguarded: Callable[[Tenant], str]


class IsolationCheck:
    """Plants a secret as the owner by every way in, then looks for it as everybody."""

    def __init__(self, tenancy: Tenancy, assistant: Assistant, owner: Tenant) -> None:
        vectors = getattr(tenancy.vectors, "inner", None)
        if not isinstance(vectors, ScopedVectors):
            raise ConfigurationError("the isolation check of the demo looks past the guard in one shared vector store")
        self._vectors, self._cache = vectors, tenancy.cache
        self._assistant, self._owner = assistant, owner
        self._vector = embeddings().embed_query(_ABOUT)

    def run(self, others: Sequence[Tenant]) -> list[Finding]:
        """One finding for each way; the planted document is taken out again."""
        with scope(self._owner):
            self._plant()
        try:
            return [self._find(probe, others) for probe in self._probes()]
        finally:
            with scope(self._owner):
                self._assistant.store.delete([_ID])

    def _plant(self) -> None:
        self._assistant.store.add_documents([Document(_TEXT, id=_ID, metadata={"source": _ID})])
        self._assistant.conversation.update_state(_THREAD, {"messages": [HumanMessage(_TEXT)]}, as_node="reply")
        asked = self._question(self._owner)
        version = self._cache.lookup(self._owner, asked).version
        self._cache.store(self._owner, asked, _TEXT, version=version)

    def _probes(self) -> list[_Probe]:
        return [
            _Probe("documents: search", self._search, self._raw_search),
            _Probe("documents: filter for everything", self._aimed_search, self._raw_aimed_search),
            _Probe("memory: the owner's thread id", self._recall, self._raw_recall),
            _Probe("semantic cache: the owner's question", self._answer, self._raw_answer),
        ]

    def _find(self, probe: _Probe, others: Sequence[Tenant]) -> Finding:
        return Finding(
            probe.name,
            owner_found=_tells(probe.guarded, self._owner),
            foreign_found=any(_tells(probe.guarded, other) for other in others),
            leaked_with_guard_off=any(_tells(probe.unguarded, other) for other in others),
        )

    # The ways in, as an application takes them.

    def _search(self, tenant: Tenant) -> str:
        return _joined(self._assistant.store.similarity_search_by_vector(self._vector, k=3))

    def _aimed_search(self, tenant: Tenant) -> str:
        return _joined(self._assistant.store.similarity_search_by_vector(self._vector, k=3, filter=_EVERYTHING))

    def _recall(self, tenant: Tenant) -> str:
        return str(self._assistant.conversation.get_state(_THREAD).values)

    def _answer(self, tenant: Tenant) -> str:
        return self._cache.lookup(tenant, self._question(tenant)).answer or ""

    # The same past the tenant part: what the shared backend itself would say.

    def _raw_search(self, tenant: Tenant, where: Where | None = None) -> str:
        """In the shared partition, without the tenant's condition."""
        rows = self._vectors._driver.query(place_of(tenant, "filter"), self._vector, 3, where)
        return " ".join(row.text for row in rows)

    def _raw_aimed_search(self, tenant: Tenant) -> str:
        return self._raw_search(tenant, parse(_EVERYTHING))

    def _raw_recall(self, tenant: Tenant) -> str:
        """The saver that all tenants share, asked for everything it has."""
        return " ".join(str(found.checkpoint) for found in self._assistant.saver.list(None))

    def _raw_answer(self, tenant: Tenant) -> str:
        """The nearest of all entries, whosever they are."""
        cache: Any = self._cache
        if isinstance(cache, InMemorySemanticCache):
            everybodys = [entry for entries in cache._tenants.values() for entry in entries.values()]
            return max(everybodys, key=lambda entry: sum(map(mul, entry.direction, self._vector))).answer
        vector = array("f", self._vector).tobytes()
        found = cache._clients.sync.execute_command(
            *("FT.SEARCH", cache._index(len(self._vector)), "*=>[KNN 1 @prompt_vector $v AS distance]"),
            *("PARAMS", 2, "v", vector, "RETURN", 1, "response", "DIALECT", 2),
        )
        return str(found[2][1])

    def _question(self, tenant: Tenant) -> Question:
        return question(tenant, self._cache.rules_for(tenant), _ABOUT, self._vector)


def _tells(probe: Callable[[Tenant], str], tenant: Tenant) -> bool:
    """Whether the probe, run for a tenant, gives the secret away; a refusal doesn't."""
    with scope(tenant):
        try:
            return SECRET in probe(tenant)
        except (TenantMismatch, IsolationBreach, InvalidInput):
            return False


def _joined(found: list[Document]) -> str:
    return " ".join(document.page_content for document in found)
