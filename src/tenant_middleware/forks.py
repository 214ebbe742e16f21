"""What a forked child makes anew: its parent's threads aren't there, its locks may be held, its sockets are shared."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakKeyDictionary


class Forks(Protocol):
    """Something with threads, locks or connections; `forked` is called in a child, right after the fork."""

    def forked(self) -> None: ...


_alive: WeakKeyDictionary[Forks, None] = WeakKeyDictionary()


def heed_forks(thing: Forks) -> None:
    """Have a thing's `forked` called in every child, for as long as it lives: the oldest first, so a store's
    connections are new before a thread that reads it starts."""
    _alive[thing] = None


def _after_fork() -> None:
    for thing in list(_alive):
        thing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
