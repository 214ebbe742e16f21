"""Ways to another tenant's documents."""

from __future__ import annotations

from typing import Any

from tenant_middleware import keys
from tenant_middleware.assurance.probes.stage import Probe, Stage
from tenant_middleware.isolation.filters import OWNER
from tenant_middleware.isolation.place import STAMP
from tenant_middleware.tenant import Tenant

_K = 10
_FOREIGN_TEXT = "This was written over the canary."


def _plant(stage: Stage) -> None:
    stage.tenancy.vectors.upsert(stage.owner, [stage.record(kind="note")])


def search(stage: Stage, who: Tenant) -> object:
    return stage.tenancy.vectors.query(stage.arriving(who), stage.vector(), _K)


def paraphrase(stage: Stage, who: Tenant) -> object:
    return stage.tenancy.vectors.query(stage.arriving(who), stage.vector(0.05), _K)


def fetch(stage: Stage, who: Tenant) -> object:
    return stage.tenancy.vectors.fetch(stage.arriving(who), [stage.record_id])


def listing(stage: Stage, who: Tenant) -> object:
    vectors, tenant = stage.tenancy.vectors, stage.arriving(who)
    return [vectors.list_ids(tenant), list(vectors.export(tenant))]


def widened(stage: Stage, who: Tenant) -> object:
    everything: Any = {"$or": [{"kind": "note"}, {"kind": {"$ne": "note"}}]}
    vectors, tenant = stage.tenancy.vectors, stage.arriving(who)
    return [vectors.query(tenant, stage.vector(), _K, everything), vectors.fetch(tenant, where=everything)]


def stamped(stage: Stage, who: Tenant) -> object:
    return stage.tenancy.vectors.query(stage.arriving(who), stage.vector(), _K, {STAMP: keys.tag(stage.owner)})


def renamed(stage: Stage, who: Tenant) -> object:
    """A namespace given with the call, as adapters of other stores take it; ours don't know the word."""
    query: Any = stage.tenancy.vectors.query
    return query(stage.arriving(who), stage.vector(), _K, namespace=keys.namespace(stage.owner))


def deleted(stage: Stage, who: Tenant) -> object:
    """Gives the code away when the owner's document is gone afterwards."""
    _plant(stage)
    vectors = stage.tenancy.vectors
    vectors.delete(stage.arriving(who), [stage.record_id])
    return None if vectors.fetch(stage.owner, [stage.record_id]) else stage.code


def deleted_by_condition(stage: Stage, who: Tenant) -> object:
    _plant(stage)
    vectors = stage.tenancy.vectors
    vectors.delete(stage.arriving(who), where={"kind": "note"})
    return None if vectors.fetch(stage.owner, [stage.record_id]) else stage.code


def overwritten(stage: Stage, who: Tenant) -> object:
    """Gives the code away when the owner's document has another text afterwards."""
    _plant(stage)
    vectors = stage.tenancy.vectors
    vectors.upsert(stage.arriving(who), [stage.record(_FOREIGN_TEXT)])
    found = [record.text for record in vectors.fetch(stage.owner, [stage.record_id])]
    vectors.delete(stage.arriving(who), [stage.record_id])
    return stage.code if found == [_FOREIGN_TEXT] else None


def smuggled(stage: Stage, who: Tenant) -> object:
    """A document marked as the owner's, written by somebody else: what the owner then finds can be poisoned."""
    vectors, tenant = stage.tenancy.vectors, stage.arriving(who)
    vectors.upsert(tenant, [stage.record(_FOREIGN_TEXT, **{OWNER: stage.owner.id})])
    found = [hit.text for hit in vectors.query(stage.owner, stage.vector(), _K)]
    vectors.delete(tenant, [stage.record_id])
    return stage.code if _FOREIGN_TEXT in found else None


def _unguarded(stage: Stage, who: Tenant) -> object:
    """What the refused keyword was meant to bring about."""
    return search(stage.without_guard(), who)


def _looked_alike(stage: Stage, who: Tenant) -> object:
    return [search(stage, who), fetch(stage, who), listing(stage, who)]


PROBES = (
    Probe("documents.search", "a search with the very embedding of another tenant's document", search, _plant),
    Probe("documents.paraphrase", "a search in other words", paraphrase, _plant),
    Probe("documents.fetch", "another tenant's document by its id", fetch, _plant),
    Probe("documents.list", "a list of ids, and an export", listing, _plant),
    Probe("documents.filter", "a filter that everything meets ($or)", widened, _plant),
    Probe("documents.stamp", "a filter on another tenant's stamp", stamped, _plant, own=search, unguarded=_unguarded),
    Probe("documents.namespace", "a namespace given with the call", renamed, _plant, own=search, unguarded=_unguarded),
    Probe("documents.names", "names that differ in case, or begin alike", _looked_alike, _plant, lookalikes=True),
    Probe("documents.delete", "deleting another tenant's document by its id", deleted, _plant),
    Probe("documents.delete_where", "deleting by a condition that others' meet", deleted_by_condition, _plant),
    Probe("documents.overwrite", "writing under the id of another tenant's document", overwritten, _plant),
    Probe("documents.smuggle", "writing a document that is marked as another tenant's", smuggled, _plant),
)
