"""Where commands find the policy and the ledger when they aren't named."""

from __future__ import annotations

import datetime as dt
import difflib
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import typer

from tenant_middleware.clock import seconds_of
from tenant_middleware.errors import AuthenticationError, ConfigurationError, InvalidInput
from tenant_middleware.policy import Policy
from tenant_middleware.settings import in_memory_database, load
from tenant_middleware.tenant import Tenant

POLICIES = (Path("tenancy.toml"), Path(".tenant-middleware/tenancy.toml"))

PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", help="The policy file; default: tenancy.toml here, else the demo's.", show_default=False),
]
LedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", help="The ledger's SQLAlchemy URL; default: the policy's.", show_default=False),
]


def moment(text: str) -> float:
    """A day in UTC, or so long ago, in seconds since the epoch."""
    try:
        return dt.datetime.combine(dt.date.fromisoformat(text), dt.time(), dt.UTC).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - seconds_of(text)
    except ValueError as error:
        raise typer.BadParameter('expected a day such as 2026-11-01, or how far back: "90m", "24h", "7d"') from error


Moment = Annotated[
    float | None,
    typer.Option(parser=moment, metavar="DAY|DURATION", help="A day in UTC, or how far back: 7d.", show_default=False),
]
Since = Annotated[str, typer.Option(metavar="DAY|DURATION", help="A day in UTC, or how far back: 90m, 24h, 7d.")]
Day = Annotated[dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="A day in UTC.", show_default=False)]


def made(option: str, where: str) -> Any:
    """What `MODULE:FACTORY` makes; modules in the current folder are found, as `python -m` finds them."""
    module, _, factory = where.partition(":")
    if not (module and factory):
        raise InvalidInput(f"{option}: expected MODULE:FACTORY")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(import_module(module), factory)()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{option}: {error}") from error


def seconds(day: dt.datetime | None) -> float | None:
    """The beginning of a day, as the ledger counts time."""
    return None if day is None else day.replace(tzinfo=dt.UTC).timestamp()


def policy_path(given: Path | None) -> Path:
    """The policy file that was named, or the first of those looked for."""
    if given is not None:
        return given
    found = next((path for path in POLICIES if path.is_file()), None)
    if found is None:
        raise ConfigurationError(
            f"no policy file here (looked for {' and '.join(map(str, POLICIES))}): name one with --policy, or run "
            "`tenant-middleware demo` first"
        )
    return found


def admitted(policy: Policy, tenant_id: str, tier: str | None) -> Tenant:
    """The tenant by the policy's word; an operator who misspelt its id is told the one that was meant."""
    try:
        return policy.admit(tenant_id, tier)
    except AuthenticationError as error:
        raise InvalidInput(f"{error}{meant(policy, tenant_id)}") from error


def meant(policy: Policy, tenant_id: str) -> str:
    """A hint for an id that the policy doesn't list."""
    if tenant_id in policy.tenants:
        return ""
    by_name = {listed.lower(): listed for listed in policy.tenants}
    near = difflib.get_close_matches(tenant_id.lower(), by_name, n=1)
    return f"; [tenants] doesn't list this id{f': did you mean {by_name[near[0]]}?' if near else ''}"


def ledger_url(given: str | None, policy: Path | None) -> str:
    """The ledger to read; one that isn't there yet, or lives in another process's memory, is refused."""
    url = given if given is not None else load(policy_path(policy))[0].backends.ledger
    if in_memory_database(url):
        raise ConfigurationError("the ledger lives in the memory of the application: name a file or a database")
    if url.startswith("sqlite") and not Path(urlsplit(url).path.removeprefix("/")).is_file():
        raise ConfigurationError(f"no ledger at {masked(url)} yet: has the application run, and in this folder?")
    return url


def masked(url: str) -> str:
    """A URL that may be shown: without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
