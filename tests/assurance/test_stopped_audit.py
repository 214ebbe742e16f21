"""The audit command as a process that is stopped in the middle: by Ctrl-C, by a scheduler, and without a word."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from tenant_middleware.assurance.audit import audit
from tenant_middleware.assurance.guests import ABANDONED
from tenant_middleware.isolation.standing import Standing
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.local import local_redis
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tests.assurance.deployments import DIMENSION, traces

SCRIPT = Path(__file__).with_name("stopped_audit.py")
ACME = Tenant("acme", "pro")
POLICY = """
[backends]
admission = "{url}"
history = "{url}"
cache = "{url}"
vectors = "{url}"
ledger = "sqlite:///ledger.db"
[secrets]
fingerprint_key = "0123456789abcdef0123456789abcdef"
[tiers.pro]
rpm = 100000
tpm = "unlimited"
max_concurrency = "unlimited"
budget = "unlimited"
models = ["openai/local"]
max_output_tokens = 64
[tenants.acme]
tier = "pro"
[prices."openai/local"]
per_call_usd = "0.001"
"""


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """A server, with a policy that names it in the working folder, and a document of a real tenant."""
    monkeypatch.chdir(tmp_path)
    with local_redis() as url, Redis.from_url(url) as client:
        Path("tenancy.toml").write_text(POLICY.format(url=url))
        with Tenancy.from_file("tenancy.toml") as tenancy:
            tenancy.vectors.upsert(ACME, [Record("1", [1.0] * DIMENSION, "acme's")])
        yield client


@contextmanager
def planted() -> Iterator[subprocess.Popen[str]]:
    """The command, at the point where it has planted everything."""
    command = [sys.executable, str(SCRIPT), "audit", "--dimension", str(DIMENSION)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            said = child.stdout.readline()
            assert said == "planted\n", (said, child.communicate())
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_that_is_told_to_stop_takes_everything_with_it(redis: Redis, sent: int, code: int) -> None:
    with planted() as child:
        assert traces(redis)
        child.send_signal(sent)
        out, err = child.communicate()
    assert child.returncode == code, err
    assert "Traceback" not in err and not out
    assert not traces(redis)
    with Tenancy.from_file("tenancy.toml") as tenancy:
        assert not tenancy.standings.guests() and tenancy.vectors.count(ACME) == 1


def test_what_a_killed_one_left_goes_with_the_next_run_and_not_before_it_is_surely_dead(redis: Redis) -> None:
    with planted() as child:
        child.kill()
    left = traces(redis)
    assert child.returncode == -signal.SIGKILL and left
    with Tenancy.from_file("tenancy.toml") as tenancy:
        (run,) = tenancy.standings.guests()
        assert audit(tenancy, only=["memory.session"], dimension=DIMENSION).swept == ()
        assert left <= traces(redis)  # it could still live
        tenancy.standings.put("acme", Standing("guest", 0.0, detail='{"tier": "pro"}'))  # no name of an audit
    later = ManualClock(time.time() + ABANDONED)
    with Tenancy.from_file("tenancy.toml", clock=later) as tenancy:
        report = audit(tenancy, only=["memory.session"], dimension=DIMENSION)
        assert report.exit_code == 0 and report.swept == (run,)
        assert not traces(redis) and set(tenancy.standings.guests()) == {"acme"}
        assert tenancy.vectors.count(ACME) == 1
