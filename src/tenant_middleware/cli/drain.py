"""`tenant-middleware drain`: settled calls out of the shared store into the ledger, and on to billing."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from tenant_middleware.cli.places import PolicyOption, policy_path
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.tenancy import Tenancy

Every = Annotated[
    float | None, typer.Option(min=0.1, help="Go on for ever, so many seconds apart.", show_default=False)
]


def drain(policy: PolicyOption = None, every: Every = None) -> None:
    """Move settled calls into the ledger, each exactly once; several drainers may run, also beside the workers.

    The workers do the same in the background: this is for what the last of them left behind.
    """
    with Tenancy.from_file(policy_path(policy)) as tenancy:
        while True:
            try:
                typer.echo(f"{tenancy.drain()} new rows in the ledger")
            except StoreUnavailable as error:
                if every is None:
                    raise
                typer.echo(f"waiting: {error}", err=True)
            if every is None:
                return
            time.sleep(every)
