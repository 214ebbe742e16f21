"""A worker process that was forked in a tenant's scope is a copy of that context, and works for everybody later on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
from concurrent.futures import ProcessPoolExecutor
from contextvars import ContextVar
from multiprocessing import get_context
from tenant_middleware import Tenant, current_tenant, scope
from tenant_middleware.context import peek_tenant

bare = ContextVar("bare", default=None)

def whose():
    found = peek_tenant()
    return [found and found.id, bare.get()]

def own_scope():
    with scope(Tenant("globex", "gold")):
        return current_tenant().id

with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
    with scope(Tenant("acme", "gold")):
        bare.set("acme")
        first = pool.submit(whose).result()
        here = current_tenant().id
    with scope(Tenant("globex", "gold")):
        second = pool.submit(whose).result()
    print(json.dumps({"here": here, "jobs": [first, second], "own": pool.submit(own_scope).result()}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform doesn't fork")
def test_a_forked_worker_has_no_tenant() -> None:
    """The control is a bare variable in the same worker: it still says acme when globex asks."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["here"] == "acme", "the process that forks keeps its tenant"
    assert found["jobs"] == [[None, "acme"], [None, "acme"]]
    assert found["own"] == "globex", "a worker may open a scope of its own, from a passport"
