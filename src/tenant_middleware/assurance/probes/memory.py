"""Ways to another tenant's conversations."""

from __future__ import annotations

import asyncio

from tenant_middleware import keys
from tenant_middleware.assurance.callables import Loop
from tenant_middleware.assurance.probes.stage import SESSION, Probe, Stage
from tenant_middleware.isolation.history import Message
from tenant_middleware.tenant import Tenant

_POINTS = 6


def _plant(stage: Stage) -> None:
    history = stage.tenancy.history
    history.replace(stage.owner, SESSION, [Message("user", stage.canary.text)])
    history.replace(stage.owner, stage.code, [Message("user", "A session that is named like a secret.")])


def session(stage: Stage, who: Tenant) -> object:
    return stage.tenancy.history.read(stage.arriving(who), SESSION)


def listing(stage: Stage, who: Tenant) -> object:
    return stage.tenancy.history.sessions(stage.arriving(who))


def moved(stage: Stage, who: Tenant) -> object:
    """Another tenant's messages moved into a session of one's own."""
    _plant(stage)
    history, tenant = stage.tenancy.history, stage.arriving(who)
    found = history.move_oldest(tenant, SESSION, "mine", 1)
    return [found, history.read(tenant, "mine")]


def cleared(stage: Stage, who: Tenant) -> object:
    """Gives the code away when the owner's conversation is gone afterwards."""
    _plant(stage)
    history = stage.tenancy.history
    history.clear(stage.arriving(who), SESSION)
    return None if history.read(stage.owner, SESSION) else stage.code


def collided(stage: Stage, who: Tenant) -> object:
    """Session ids that would meet the owner's key if keys were joined with a separator."""
    owner = stage.owner.id
    forged = [f"{owner}:{SESSION}", f"../{owner}/{SESSION}", f":{owner}:{SESSION}"]
    forged += [f"{who.id}:{owner}:{SESSION}", keys.key(stage.owner, "history", "session", SESSION)]
    history = stage.tenancy.history
    return [history.read(stage.arriving(who), name) for name in forged]


def _looked_alike(stage: Stage, who: Tenant) -> object:
    return [session(stage, who), listing(stage, who)]


def after_a_cancelled_call(stage: Stage, who: Tenant) -> object:
    """The owner's read is cancelled at several await points; does the next reader get its reply?"""
    loop = Loop()
    try:
        return loop.run(_cancelled(stage, who))
    finally:
        loop.close()


async def _cancelled(stage: Stage, who: Tenant) -> list[object]:
    history, found = stage.tenancy.history, list[object]()
    for point in range(_POINTS):
        reading = asyncio.ensure_future(history.aread(stage.owner, SESSION))
        for _ in range(point):
            await asyncio.sleep(0)
        reading.cancel()
        found.append(await history.aread(stage.arriving(who), SESSION))
        await asyncio.gather(reading, return_exceptions=True)
    if hasattr(history, "aclose_here"):
        await history.aclose_here()
    return found


PROBES = (
    Probe("memory.session", "another tenant's session by its id", session, _plant),
    Probe("memory.list", "a list of sessions", listing, _plant),
    Probe("memory.move", "moving another tenant's messages into a session of one's own", moved, _plant),
    Probe("memory.clear", "clearing another tenant's session", cleared, _plant),
    Probe(
        "memory.collision",
        "session ids made to collide with a joined key",
        collided,
        _plant,
        own=session,
        unguarded=lambda s, w: session(s.without_guard(), w),
    ),
    Probe("memory.names", "names that differ in case, or begin alike", _looked_alike, _plant, lookalikes=True),
    Probe("memory.cancelled", "a reply that a cancelled call left on its connection", after_a_cancelled_call, _plant),
)
