"""The first answers of a process may come in many threads at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.backends.pinecone.clients import ANSWERS
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenant import Tenant
from tests.pinecone_server.app import PineconeServer

PLACE = [1.0, 0.0]
PROGRAM = """
import sys, threading, types
import msgspec

made = sys.modules["made"] = types.ModuleType("made")
exec("import msgspec\\n", made.__dict__)
for n in range(400):
    fields = f"x: 'list[In{n}]'; y: 'In{n} | None' = None; z: 'dict[str, In{n}]' = {{}}"
    exec(f"class In{n}(msgspec.Struct): a: int = 0; b: 'str | None' = None", made.__dict__)
    exec(f"class Out{n}(msgspec.Struct): {fields}", made.__dict__)

sys.setswitchinterval(1e-6)
for n in range(400):
    answer, together = getattr(made, f"Out{n}"), threading.Barrier(4)
    if sys.argv[1] == "prepared":
        msgspec.json.Decoder(answer)

    def read():
        together.wait()
        msgspec.json.decode(b'{"x": [{"a": 1, "b": "q"}], "y": {"a": 2}, "z": {"k": {"a": 3}}}', type=answer)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@pytest.mark.parametrize("how", ["prepared", "control"])
def test_a_type_that_is_prepared_can_be_read_into_by_many_threads(how: str) -> None:
    """The control crashes; when it no longer does, msgspec is mended and preparing can go."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode == 0) == (how == "prepared"), done.stderr[-500:]


def test_every_answer_that_is_read_was_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[Any] = set()
    decode: Callable[..., Any] = msgspec.json.decode

    def seen(data: bytes, *, type: Any = Any, **more: Any) -> Any:
        read.add(type)
        return decode(data, type=type, **more)

    monkeypatch.setattr(msgspec.json, "decode", seen)
    with PineconeServer() as server:
        server.create_index("docs", 2)
        for kind in ("namespace", "filter", "silo"):
            vectors = PineconeVectors("docs", api_key="key", controller=server.url, isolation=kind)  # type: ignore[arg-type]  # Isolation
            for tenant in (Tenant(f"acme-{kind}", "gold"), Tenant(f"globex-{kind}", "gold")):
                vectors.upsert(tenant, [Record("1", PLACE, "text", {"kind": "x"})])
                assert vectors.query(tenant, PLACE) and vectors.fetch(tenant, ["1"]) and list(vectors.export(tenant))
                assert vectors.fetch(tenant, where={"kind": "x"}) and vectors.list_ids(tenant)
                vectors.delete(tenant, where={"kind": "y"})
                assert vectors.count(tenant) == 1 and vectors.audit() == [] and vectors.erase(tenant) == 1
            vectors.close()
    assert read - {Any} == set(ANSWERS)
