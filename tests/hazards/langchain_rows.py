"""Hazards of LangChain: filters that are misspelt, overridden or reconfigured, and the global LLM cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import ConfigurableField
from langchain_core.vectorstores import InMemoryVectorStore

from tenant_middleware import Tenancy, TenancyError, scope
from tenant_middleware.langchain import TenantChatModel, TenantVectorStore
from tenant_middleware.local import embeddings
from tenant_middleware.tenant import Tenant
from tests.hazards.scoreboard import ACME, GLOBEX, POLICY, Hazard

QUESTION = "What does Premium cost?"
TEXTS = {"acme": "Premium costs 89 USD at acme.", "globex": "Premium costs 61 USD at globex."}


def _bare_store() -> InMemoryVectorStore:
    store = InMemoryVectorStore(embeddings())
    store.add_documents([Document(text, metadata={"tenant": name}) for name, text in TEXTS.items()])
    return store


def _mine(document: Document) -> bool:
    return document.metadata.get("tenant") == "acme"


def _leaks(found: list[Document]) -> bool:
    """Whether a search by acme shows globex's text; acme's own must be there, or the row proves nothing."""
    texts = [document.page_content for document in found]
    assert TEXTS["acme"] in texts, "the owner doesn't find its own document"
    return TEXTS["globex"] in texts


@contextmanager
def _tenancy() -> Iterator[tuple[Tenancy, TenantVectorStore]]:
    with Tenancy.from_mapping(POLICY) as tenancy:
        store = TenantVectorStore(vectors=tenancy.vectors, embedding=embeddings())
        for tenant in (ACME, GLOBEX):
            with scope(tenant):
                store.add_documents([Document(TEXTS[tenant.id], id="prices")])
        yield tenancy, store


def _ours(search: Callable[[TenantVectorStore], list[Document]]) -> bool:
    """A refusal is no leak, as long as the plain search of the same tenant works."""
    with _tenancy() as (_, store), scope(ACME):
        assert not _leaks(store.as_retriever().invoke(QUESTION))
        try:
            return any(document.page_content == TEXTS["globex"] for document in search(store))
        except TenancyError:
            return False


def bare_typo() -> bool:
    return _leaks(_bare_store().as_retriever(search_kwargs={"filters": _mine}).invoke(QUESTION))


def our_typo() -> bool:
    return _ours(lambda store: store.as_retriever(search_kwargs={"filters": {"tenant": "acme"}}).invoke(QUESTION))


def bare_override() -> bool:
    return _leaks(_bare_store().as_retriever(search_kwargs={"filter": _mine}).invoke(QUESTION, filter=None))


def our_override() -> bool:
    return _ours(lambda store: store.as_retriever().invoke(QUESTION, filter=None)) or _ours(
        lambda store: store.as_retriever().invoke(QUESTION, namespace="globex")
    )


def bare_configurable() -> bool:
    field = ConfigurableField(id="search_kwargs")
    bound = _bare_store().as_retriever().configurable_fields(search_kwargs=field)
    mine = bound.with_config(configurable={"search_kwargs": {"filter": _mine}})
    assert [d.page_content for d in mine.invoke(QUESTION)] == [TEXTS["acme"]]
    theirs: Any = {"configurable": {"search_kwargs": {"filter": lambda d: not _mine(d)}}}
    return [d.page_content for d in mine.invoke(QUESTION, theirs)] == [TEXTS["globex"]]


def our_configurable() -> bool:
    theirs: Any = {"configurable": {"tenant": "globex", "tenant_id": "globex"}, "metadata": {"tenant_id": "globex"}}
    return _ours(lambda store: store.as_retriever().invoke(QUESTION, theirs))


def _cached_answers(ask: Callable[[Tenant], str]) -> bool:
    """Whether globex's identical prompt gets what acme was answered; acme's repeat must come from the cache."""
    set_llm_cache(InMemoryCache())
    try:
        first, foreign, again = ask(ACME), ask(GLOBEX), ask(ACME)
    finally:
        set_llm_cache(None)
    assert first == again, "the owner's own repeat isn't cached"
    return foreign == first


def bare_cache() -> bool:
    model = FakeListChatModel(responses=["for acme", "for globex", "for nobody"])

    def ask(tenant: Tenant) -> str:
        return model.invoke(QUESTION, {"configurable": {"tenant": tenant.id}, "metadata": {"tenant": tenant.id}}).text

    return _cached_answers(ask)


def our_cache() -> bool:
    inner = FakeListChatModel(responses=["for acme", "for globex", "for nobody"])
    with Tenancy.from_mapping(POLICY) as tenancy:
        model = TenantChatModel(model=inner, model_name="openai/local", gate=tenancy.gate)

        def ask(tenant: Tenant) -> str:
            with scope(tenant):
                return model.invoke(QUESTION).text

        return _cached_answers(ask)


ROWS = [
    Hazard("H1", "LangChain: a misspelt filter keyword", bare_typo, our_typo),
    Hazard("H2", "LangChain: the caller's filter beats the bound one", bare_override, our_override),
    Hazard("H3", "LangChain: the caller's configurable beats the bound one", bare_configurable, our_configurable),
    Hazard("H4", "LangChain: one global LLM cache for all", bare_cache, our_cache),
]
