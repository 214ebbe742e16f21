"""`%load_ext tenant_middleware`, then `%tenant acme`: every cell runs for that tenant until the next `%tenant`.

The tenant is kept on the shell and its scope is opened for each statement of a cell: a kernel drops a context variable
set in a cell that awaits. Code outside cells (threads, widget callbacks) has no tenant and fails closed.
"""

from __future__ import annotations

from contextlib import nullcontext
from html import escape
from typing import Any

from tenant_middleware.context import scope
from tenant_middleware.errors import InvalidInput, missing_extra
from tenant_middleware.isolation.residents import Cleared, Seat
from tenant_middleware.tenant import Tenant

try:
    from IPython.display import display
except ImportError as error:
    raise missing_extra("notebooks", __name__) from error

_USAGE = "%tenant ID [TIER [SUBJECT]] | %tenant off | %tenant"
_PLACE = "_tenant_middleware_magic"


class Banner:
    """Says in the output whose cells these are now, and what was cleared of the tenant who left."""

    def __init__(self, tenant: Tenant | None, left: Tenant | None, cleared: list[Cleared]) -> None:
        self.tenant, self.left, self.cleared = tenant, left, cleared

    def __repr__(self) -> str:
        now = f"tenant: {self.tenant.id} ({self.tenant.tier})" if self.tenant else "tenant: none, cells fail closed"
        if self.tenant is not None and self.tenant.subject:
            now += f", subject {self.tenant.subject}"
        if self.left is None:
            return now
        counts = ", ".join(f"{c.what} {c.count}" for c in self.cleared if c.count) or "nothing was held"
        return f"{now} | left {self.left.id}, cleared: {counts}"

    def _repr_html_(self) -> str:
        colour = "#1a7f37" if self.tenant else "#9a6700"
        return f'<div style="border-left:6px solid {colour};padding:4px 10px"><b>{escape(repr(self))}</b></div>'


class TenantMagic:
    """The `%tenant` line magic of one shell, and the scope around its cells."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._seat = Seat()
        self._wanted: Tenant | None = None
        self._pending = False
        self._run_code = shell.run_code

    def install(self) -> None:
        """Register the magic and put the scope around every statement."""
        self._shell.register_magic_function(self.tenant, magic_kind="line", magic_name="tenant")
        self._shell.run_code = self.run_code

    def uninstall(self) -> None:
        """Take both away again."""
        self._shell.run_code = self._run_code
        self._shell.magics_manager.magics["line"].pop("tenant", None)

    def tenant(self, line: str) -> Banner | None:
        """%tenant ID [TIER [SUBJECT]]: run what follows for that tenant; `off`: for nobody; alone: say who it is."""
        words = line.split(maxsplit=2)
        if not words:
            return Banner(self._seat.tenant, None, [])
        self._wanted = None if words == ["off"] else self._named(*words)
        self._pending = True  # the switch waits until this statement's own scope is closed
        return None

    def _named(self, tenant_id: str, tier: str | None = None, subject: str | None = None) -> Tenant:
        """By the policy of the notebook's `tenancy`, or as given when there is none."""
        policy = getattr(self._shell.user_ns.get("tenancy"), "policy", None)
        if policy is not None:
            admitted: Tenant = policy.admit(tenant_id, tier, subject)
            return admitted
        if tier is None:
            raise InvalidInput(f"no `tenancy` in this notebook knows the tier: make one first, or say it: {_USAGE}")
        return Tenant(tenant_id, tier, subject)

    async def run_code(self, *args: Any, **kwargs: Any) -> Any:
        seated = self._seat.tenant
        with scope(seated) if seated is not None else nullcontext():
            outcome = await self._run_code(*args, **kwargs)
        if self._pending:
            self._pending = False
            left = self._seat.tenant if self._seat.tenant != self._wanted else None
            display(Banner(self._wanted, left, self._seat.switch(self._wanted)))  # type: ignore[no-untyped-call]  # IPython has none
        return outcome


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext tenant_middleware` calls."""
    if getattr(shell, _PLACE, None) is None:
        magic = TenantMagic(shell)
        magic.install()
        setattr(shell, _PLACE, magic)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext tenant_middleware` calls."""
    magic: TenantMagic | None = getattr(shell, _PLACE, None)
    if magic is not None:
        magic.uninstall()
        setattr(shell, _PLACE, None)
