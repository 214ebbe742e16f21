"""Export a tenant into a folder, part by part; what was cut off goes on from where it stopped.

One JSON object per line and store, `policy.json`, and last of all `manifest.json` with the count and SHA-256 of each
part: a folder without it is no export yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tenant_middleware.clock import utc
from tenant_middleware.errors import ConfigurationError, InvalidInput, TenantMismatch
from tenant_middleware.lifecycle.stores import Books, LifecycleStore, stores_of
from tenant_middleware.policy import passage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

FORMAT = "tenant-middleware-export/1"
_BEAT_EVERY = 500
_LOADED_AT_ONCE = 200


def export_tenant(
    tenancy: Tenancy, tenant: Tenant, folder: Path, *, stores: Mapping[str, LifecycleStore] | None = None
) -> dict[str, Any]:
    """Write everything of a tenant into a folder and return the manifest; an erasure waits for it to end.

    Parts that are complete stay as they are, so a new export wants a new folder. Raises ConfigurationError for a
    tenant that is being erased, and TenantMismatch for another tenant's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, tenant)
    parts: dict[str, Any] = {}
    try:
        with passage(tenant):
            _beat(tenancy, tenant)
            for name, store in {**stores_of(tenancy, stores), "ledger": Books(tenancy.ledger)}.items():
                parts[name] = _part(tenancy, tenant, folder / f"{name.replace(' ', '-')}.jsonl", store)
            explained = [row._asdict() for row in tenancy.policy.explain(tenant)]
            _write(folder / "policy.json", explained)
    finally:
        tenancy.standings.beat(tenant.id, None)
    manifest = {
        "format": FORMAT,
        "tenant": {"id": tenant.id, "tier": tenant.tier},
        "at": utc(tenancy.clock.time()).isoformat(),
        "parts": {name: part for name, part in parts.items() if part["records"]},
    }
    _write(folder / "manifest.json", manifest)
    return manifest


def import_tenant(
    tenancy: Tenancy, tenant: Tenant, folder: Path, *, stores: Mapping[str, LifecycleStore] | None = None
) -> dict[str, int]:
    """Write an export's documents and conversations into a Tenancy, for the tenant it is of; counts by part.

    So are the parts of `stores` that have a `load(tenant, rows)`. Every part is checked against the manifest before
    anything is written.
    """
    parts = _checked_parts(folder, tenant)
    written: dict[str, int] = {}
    targets = stores_of(tenancy, stores)
    for name, part in parts.items():
        load = getattr(targets.get(name) or targets.get(name.partition(".")[0]), "load", None)
        if load is not None:
            rows = list(_rows(folder / part["file"]))
            for start in range(0, len(rows), _LOADED_AT_ONCE):
                load(tenant, rows[start : start + _LOADED_AT_ONCE])
            written[name] = len(rows)
    return written


def _checked_parts(folder: Path, tenant: Tenant) -> dict[str, Any]:
    """The parts of a finished export of this tenant, each as the manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        form, owner, parts = manifest["format"], manifest["tenant"]["id"], manifest["parts"]
        outside = [name for name, part in parts.items() if Path(part["file"]).name != part["file"]]
        changed = outside or [name for name, part in parts.items() if _digest(folder / part["file"]) != part["sha256"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"import: {folder} holds no finished export ({type(error).__name__}); nothing was written"
        ) from error
    if form != FORMAT:
        raise InvalidInput(f"import: expected the format {FORMAT}")
    if owner != tenant.id:
        raise TenantMismatch("import: this export is of another tenant; nothing was written")
    if changed:
        raise InvalidInput(f"import: {', '.join(changed)} isn't as it was exported; nothing was written")
    return dict(parts)


def _claim(folder: Path, tenant: Tenant) -> None:
    """A folder belongs to one tenant from its first byte."""
    owner = folder / "tenant.json"
    mine = {"id": tenant.id, "tier": tenant.tier}
    if owner.exists():
        if json.loads(owner.read_text("utf-8")) != mine:
            raise TenantMismatch("export: this folder holds the export of another tenant; nothing was written")
    else:
        _write(owner, mine)


def _beat(tenancy: Tenancy, tenant: Tenant) -> None:
    """Say that an export is running; an erasure that began first wins."""
    tenancy.standings.beat(tenant.id, tenancy.clock.time())
    known = tenancy.standings.get(tenant.id)
    if known is not None and known.state in ("erasing", "erased"):
        raise ConfigurationError(f"export: this tenant is {known.state}")


def _part(tenancy: Tenancy, tenant: Tenant, path: Path, store: Any) -> dict[str, Any]:
    if not path.exists():
        unfinished = path.with_suffix(".part")
        have = _kept(unfinished)
        with unfinished.open("a", encoding="utf-8") as out:
            for number, row in enumerate(store.export(tenant)):
                if number % _BEAT_EVERY == 0:
                    _beat(tenancy, tenant)
                if row["key"] not in have:
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
        unfinished.rename(path)
    records = sum(1 for _ in _rows(path))
    if not records:
        path.unlink()
        return {"records": 0}
    return {"file": path.name, "records": records, "sha256": _digest(path)}


def _kept(path: Path) -> set[str]:
    """The keys of whole lines in an unfinished part; what was cut off is cut away."""
    if not path.exists():
        return set()
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    path.write_bytes(whole + b"\n" if whole else b"")
    return {row["key"] for row in _rows(path)}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("r", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def _write(path: Path, value: Any) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
