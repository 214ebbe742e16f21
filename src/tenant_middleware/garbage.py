"""Garbage collection that can't crash a process by what finalizers do to its context variables.

Until Python 3.12 an allocation inside ContextVar.set may collect garbage, and a finalizer that sets a variable of the
running context then frees what the outer set still walks: a segmentation fault (python/cpython#148891). LiteLLM's
streams have such a finalizer, and workers of its proxy die of it; abandoned pinned iterators have one, too.
"""

from __future__ import annotations

import gc
from contextvars import Context, copy_context

_kept: Context | None = None


def _keep_context(phase: str, _: dict[str, int]) -> None:
    """Hold what the running context holds, from the beginning of a collection to that of the next."""
    global _kept
    if phase == "start":
        _kept = copy_context()


def keep_context() -> None:
    """Have every collection from now on leave the running context's values alive; a second time changes nothing."""
    if _keep_context not in gc.callbacks:
        gc.callbacks.append(_keep_context)
