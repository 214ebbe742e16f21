"""The plugin as pytest loads it: cheap, silent until used, and telling what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

PLUGIN = "tenant_middleware.assurance.pytest_plugin"
TESTS = """
from tenant_middleware import current_tenant
shelf = {}

def add(key):
    return lambda text: shelf.setdefault(key(), []).append(text)

def test_leaks(tenant_audit):
    tenant_audit(ingest=add(lambda: 0), ask=lambda q: shelf[0], seed=11)

def test_holds(tenant_audit):
    tenant_audit(ingest=add(lambda: current_tenant().id), ask=lambda q: shelf[current_tenant().id])

async def ask(q):
    return shelf[current_tenant().id]

async def test_holds_in_a_loop(tenant_audit):
    tenant_audit(ingest=add(lambda: current_tenant().id), ask=ask)

def test_forgets_to_ask(tenant_audit):
    pass
"""


def test_loading_it_loads_pytest_and_the_standard_library_only() -> None:
    program = (
        "import json, sys, pytest; before = set(sys.modules); "
        f"import {PLUGIN}; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert loaded <= {"tenant_middleware"} | sys.stdlib_module_names


def test_it_is_registered_under_its_name() -> None:
    (entry,) = [e for e in entry_points(group="pytest11") if e.value == PLUGIN]
    assert entry.name == "tenant_middleware"


def test_a_users_tests(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    options = ["-q", "--color=no", "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "1 failed, 3 passed, 1 error" in run.stdout, run.stdout + run.stderr
    assert "repeat with TENANT_AUDIT_SEED=11" in run.stdout and "at answer[" in run.stdout
    assert "tenant_audit was never called" in run.stdout
    assert "assurance/chain.py" not in run.stdout  # the leak is told, not our stack
