"""%tenant in a real kernel: every cell runs for the tenant of the shell, also cells that await."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

SETUP = """
import asyncio, threading
from tenant_middleware import current_tenant
from tenant_middleware.backends.in_memory.history import InMemoryHistory
from tenant_middleware.isolation.history import Message
from tenant_middleware.tenant import Tenant
history = InMemoryHistory()
def who():
    try:
        return current_tenant().id
    except Exception as e:
        return type(e).__name__
%load_ext tenant_middleware
"""


class Kernel:
    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, code: str) -> str:
        """Everything a cell shows, errors included."""
        shown: list[str] = []

        def collect(message: Any) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                shown.append(content["text"])
            elif message["msg_type"] in ("execute_result", "display_data"):
                shown.append(content["data"]["text/plain"] + "\n")
            elif message["msg_type"] == "error":
                shown.append(f"{content['ename']}: {content['evalue']}\n")

        self._client.execute_interactive(code, timeout=60, output_hook=collect)
        return "".join(shown)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        kernel = Kernel(client)
        assert kernel.run(SETUP) == ""
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy()
        loop.close()
        asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def _nobody_is_seated(kernel: Kernel) -> None:
    kernel.run("%tenant off")


def test_without_a_tenant_a_cell_fails_closed(kernel: Kernel) -> None:
    assert kernel.run("who()") == "'MissingTenant'\n"


def test_the_banner_says_whose_cells_these_are(kernel: Kernel) -> None:
    assert kernel.run("%tenant acme enterprise user@acme") == "tenant: acme (enterprise), subject user@acme\n"
    assert kernel.run("%tenant") == "tenant: acme (enterprise), subject user@acme\n"
    assert "none" in kernel.run("%tenant off")


def test_every_cell_runs_for_the_tenant(kernel: Kernel) -> None:
    kernel.run("%tenant acme enterprise")
    assert kernel.run("who()") == "'acme'\n"
    assert kernel.run("await asyncio.sleep(0)\nprint(who())\nawait asyncio.sleep(0.01)\nwho()") == "acme\n'acme'\n"
    assert kernel.run("1/0").startswith("ZeroDivisionError")
    assert kernel.run("async def go():\n    await asyncio.sleep(0)\n    return who()\nawait go()") == "'acme'\n"
    assert kernel.run("await asyncio.gather(go(), go())") == "['acme', 'acme']\n"
    assert kernel.run("who()") == "'acme'\n"


def test_a_switch_takes_hold_with_the_next_statement(kernel: Kernel) -> None:
    kernel.run("%tenant acme enterprise")
    out = kernel.run("print(who())\n%tenant Acme enterprise\nprint(who())\nawait asyncio.sleep(0)\nprint(who())")
    assert out.startswith("acme\ntenant: Acme") and out.endswith("Acme\nAcme\n")


def test_leaving_clears_what_the_process_held(kernel: Kernel) -> None:
    kernel.run("for t in ('acme', 'globex'): history.append(Tenant(t, 'free'), 's', [Message('user', t)] * 2)")
    kernel.run("%tenant acme enterprise")
    assert "left acme, cleared: InMemoryHistory 2" in kernel.run("%tenant globex enterprise")
    assert kernel.run("[history.count(Tenant(t, 'free')).messages for t in ('acme', 'globex')]") == "[0, 2]\n"


def test_a_thread_has_no_tenant(kernel: Kernel) -> None:
    kernel.run("%tenant acme enterprise")
    out = kernel.run("seen = []\nt = threading.Thread(target=lambda: seen.append(who()))\nt.start(); t.join()\nseen")
    assert out == "['MissingTenant']\n"


def test_a_policy_in_the_notebook_decides_the_tier(kernel: Kernel) -> None:
    kernel.run(
        "class P:\n    def admit(self, i, tier, subject):\n        return Tenant(i, 'gold', subject)\n"
        "class T:\n    policy = P()\ntenancy = T()"
    )
    try:
        assert kernel.run("%tenant acme") == "tenant: acme (gold)\n"
    finally:
        kernel.run("del tenancy")
    assert kernel.run("%tenant acme").startswith("InvalidInput")
    assert kernel.run("%tenant a:b gold").startswith("InvalidTenant")
    assert kernel.run("who()") == "'acme'\n", "a refused switch changes nothing"


def test_unloading_takes_the_scope_away(kernel: Kernel) -> None:
    kernel.run("%tenant acme enterprise")
    kernel.run("%unload_ext tenant_middleware")
    assert kernel.run("who()") == "'MissingTenant'\n"
    kernel.run("%load_ext tenant_middleware")
    assert kernel.run("%tenant acme enterprise\nwho()").endswith("'acme'\n")
