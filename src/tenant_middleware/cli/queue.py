"""`tenant-middleware queue`: who waits, who runs and who got what, live."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tenant_middleware.admission.queue import FairQueue, PoolState
from tenant_middleware.cli.places import PolicyOption, policy_path
from tenant_middleware.clock import SystemClock
from tenant_middleware.errors import ConfigurationError
from tenant_middleware.settings import load

if TYPE_CHECKING:
    from rich.console import Group

FIGURES = ("waiting", "running", "weight", "tokens served", "calls", "mean wait", "longest wait", "parked for")


def queue(
    policy: PolicyOption = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once instead of going on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Look once and print one JSON object.")] = False,
) -> None:
    """Show depth, running calls, served tokens and waits of each tenant in each pool that workers share."""
    shared = _open(policy)
    try:
        if as_json:
            typer.echo(json.dumps([asdict(pool) for pool in shared.state()], indent=2))
        elif once:
            _print(shared.state())
        else:
            _watch(shared, every)
    finally:
        shared.close()


def _open(policy: PolicyOption) -> FairQueue:
    from tenant_middleware.backends.urls import Opener

    settings, rules = load(policy_path(policy))
    url = settings.backends.queue or settings.backends.admission
    if not settings.queue.pools:
        raise ConfigurationError("the policy has no [queue.pools.NAME] section, so no call waits for a slot")
    if url.startswith("memory:"):
        raise ConfigurationError(
            "the queue lives in the memory of the application, which can ask `tenancy.gate.queue.state()`; name a "
            "Redis in backends.queue to share it, and to watch it from here"
        )
    return Opener(settings, rules, SystemClock(), b"").queue()


def _watch(shared: FairQueue, every: float) -> None:
    """Draw until Ctrl-C, which is how one leaves."""
    from rich.console import Console
    from rich.live import Live

    try:
        with Live(table(shared.state()), console=Console(), auto_refresh=False) as live:
            while True:
                live.update(table(shared.state()), refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        return


def _print(pools: Sequence[PoolState]) -> None:
    from rich.console import Console

    Console().print(table(pools))


def table(pools: Sequence[PoolState]) -> Group:
    """One table for each pool; who waits or runs comes first."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    made = []
    for pool in pools:
        slots = "no end of" if pool.slots is None else str(pool.slots)
        title = f"{escape(pool.name)}: {pool.running} of {slots} slots, {pool.waiting} waiting"
        one = Table(title=title, title_justify="left", box=None)
        one.add_column("tenant", overflow="fold")
        for heading in FIGURES:
            one.add_column(heading, justify="right")
        for lane in pool.lanes:
            figures = (f"{lane.waiting}", f"{lane.running}", f"{lane.weight:g}", f"{lane.served_tokens:,.0f}")
            waits = (f"{lane.served_calls:,}", f"{lane.mean_wait:.3f} s", f"{lane.longest_wait:.3f} s")
            one.add_row(escape(lane.tenant_id), *figures, *waits, f"{lane.parked_for:.1f} s" if lane.parked_for else "")
        made.append(one)
    return Group(*made)
