"""`tenant-middleware suspend | resume | export | erase | training`: a tenant's way out, and its training files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenant_middleware.cli.places import PolicyOption, admitted, made, meant, policy_path
from tenant_middleware.errors import ConfigurationError, InvalidInput
from tenant_middleware.policy import passage
from tenant_middleware.settings import in_memory_database, load
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

if TYPE_CHECKING:
    from tenant_middleware.lifecycle.stores import LifecycleStore

TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id, exactly as in its tokens.")]
TierOption = Annotated[str | None, typer.Option(help="Its tier, for a tenant that the policy doesn't list.")]
StoreOption = Annotated[
    list[str] | None,
    typer.Option("--store", metavar="NAME=MODULE:FACTORY", help="A store of the application's own; may be repeated."),
]

training = typer.Typer(no_args_is_help=True, help="Training files of one tenant alone.")


def suspend(tenant: TenantId, policy: PolicyOption = None) -> None:
    """Have every worker refuse a tenant, within a second."""
    from tenant_middleware.lifecycle.suspension import suspend as run

    with _shared(policy) as tenancy:
        run(tenancy, _tenant(tenancy, tenant, None, listed=False).id)
        unsure = "" if tenancy.policy.unlisted_tenants else meant(tenancy.policy, tenant)
    typer.echo(f"{tenant} is suspended{unsure}")


def resume(tenant: TenantId, policy: PolicyOption = None) -> None:
    """Serve a suspended tenant again."""
    from tenant_middleware.lifecycle.suspension import resume as run

    with _shared(policy) as tenancy:
        run(tenancy, tenant)
    typer.echo(f"{tenant} is served again")


def export(
    tenant: TenantId,
    folder: Annotated[Path, typer.Argument(help="A folder of its own; a cut-off export goes on from it.")],
    policy: PolicyOption = None,
    tier: TierOption = None,
    store: StoreOption = None,
) -> None:
    """Write everything of a tenant into a folder: documents, conversations, books, policy."""
    from tenant_middleware.lifecycle.export import export_tenant

    with _shared(policy) as tenancy:
        manifest = export_tenant(tenancy, _tenant(tenancy, tenant, tier), folder, stores=_stores(store))
    for name, part in manifest["parts"].items():
        typer.echo(f"{name:<20} {part['records']:>8}")


def erase(
    tenant: TenantId,
    policy: PolicyOption = None,
    tier: TierOption = None,
    store: StoreOption = None,
    confirm: Annotated[str | None, typer.Option(help="The id once more, for scripts; asked for otherwise.")] = None,
    delete_books: Annotated[bool, typer.Option(help="Delete ledger rows; they are pseudonymised otherwise.")] = False,
    receipt: Annotated[Path | None, typer.Option(help="Write the signed receipt here, as JSON.")] = None,
) -> None:
    """Erase a tenant everywhere and say store by store what became of it; 1 when something couldn't be verified."""
    from tenant_middleware.lifecycle.erasure import erase as run

    again = confirm if confirm is not None else typer.prompt(f"This can't be undone. Type {tenant} again")
    with _shared(policy) as tenancy:
        if receipt is not None and tenancy.settings.secrets.fingerprint_key is None:
            raise ConfigurationError(
                "--receipt: a signed receipt needs a key that is still there when it is checked: set "
                "TENANCY__SECRETS__FINGERPRINT_KEY to at least 16 random bytes; nothing was erased"
            )
        found = run(
            tenancy,
            _tenant(tenancy, tenant, tier),
            confirm=again,
            stores=_stores(store),
            retention="delete" if delete_books else "pseudonymise",
            on_step=lambda step: typer.echo(f"... {step}", err=True),
        )
    if receipt is not None:
        receipt.write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")
    for one in found.stores:
        told = ", ".join(one.leftovers) or one.why
        typer.echo(f"{one.fate:<11} {one.store:<20} {one.erased:>8}  {told}".rstrip())
    typer.echo(f"signed: {found.signature[:16]}..." if found.signature else "not signed: no key is configured")
    raise typer.Exit(0 if found.complete else 1)


def receipt(
    file: Annotated[Path, typer.Argument(help="A receipt as erase --receipt wrote it.")], policy: PolicyOption = None
) -> None:
    """Check that an erasure's receipt is as this service signed it, and say what it says; 1 when it isn't."""
    from tenant_middleware.lifecycle.receipt import verify

    key = load(policy_path(policy))[0].secrets.fingerprint_key
    if key is None:
        raise ConfigurationError("receipt: set TENANCY__SECRETS__FINGERPRINT_KEY to the key it was signed with")
    try:
        told = json.loads(file.read_text("utf-8"))
        stores = [(one["store"], one["fate"]) for one in told["stores"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"receipt: {file} can't be read as a receipt ({type(error).__name__})") from error
    if not verify(told, key.get_secret_value().encode()):
        typer.echo("NOT as it was signed with this key", err=True)
        raise typer.Exit(1)
    typer.echo(f"as it was signed: {told['tenant_id']}, {told['ended']}")
    for store, fate in stores:
        typer.echo(f"{fate:<11} {store}")


@training.command("verify")
def verify_training(file: Annotated[Path, typer.Argument(help="The JSONL; its manifest stands beside it.")]) -> None:
    """Check a training file against its manifest."""
    from tenant_middleware.lifecycle.training import verify_training as verify

    found = verify(file)
    typer.echo(f"{found.rows} rows of {found.tenant_id} alone, for {found.model}")


def _shared(policy: Path | None) -> Tenancy:
    tenancy = Tenancy.from_file(policy_path(policy))
    if in_memory_database(tenancy.settings.backends.ledger):
        tenancy.close()
        raise ConfigurationError(
            "the ledger lives in the memory of the application, and with it the marks of suspended tenants: name a "
            "file or a database in backends.ledger, or call tenant_middleware.lifecycle inside the application"
        )
    return tenancy


def _tenant(tenancy: Tenancy, tenant_id: str, tier: str | None, *, listed: bool = True) -> Tenant:
    """The tenant by the policy's word, also when it is suspended."""
    known = Tenant(tenant_id, tier or "unknown")
    if not listed and tenant_id not in tenancy.policy.tenants:
        return known
    with passage(known):
        return admitted(tenancy.policy, tenant_id, tier)


def _stores(named: list[str] | None) -> Mapping[str, LifecycleStore]:
    found: dict[str, LifecycleStore] = {}
    for entry in named or []:
        name, equals, where = entry.partition("=")
        if not (name and equals):
            raise InvalidInput("--store: expected NAME=MODULE:FACTORY")
        found[name] = made(f"--store {name}", where)
    return found
