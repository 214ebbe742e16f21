"""The commands as a user types them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from tenant_middleware.cli import app; app()"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("TENANCY__")} | {
    "COLUMNS": "200",
    "NO_COLOR": "1",
}


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder in which the demo has run once, with the real local model, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    run = command(folder, "demo", "--json")
    assert run.returncode == 0, run.stderr
    return folder, run


def test_json_prints_one_object_and_nothing_else(played):
    _, run = played
    told = json.loads(run.stdout)
    assert run.stderr == ""
    assert {"tenants", "refusals", "ledger", "isolation"} <= told.keys()
    texts = {t["id"]: " ".join(a["answer"] for a in t["answers"]) for t in told["tenants"]}
    assert "89" in texts["acme"] and "61" in texts["globex"]
    assert "61" not in texts["acme"] and "89" not in texts["globex"]
    caches = [a["cache"] for t in told["tenants"] for a in t["answers"]]
    assert "hit" in caches and "miss" in caches
    assert all(r["owner_found"] and not r["foreign_found"] and r["leaked_with_guard_off"] for r in told["isolation"])
    assert sum(Decimal(c["cost_usd"]) for c in told["ledger"]["calls"]) == Decimal(told["ledger"]["total_usd"])


def test_usage_reads_the_ledger_of_the_demo(played):
    folder, run = played
    ledger = json.loads(run.stdout)["ledger"]
    told = json.loads(command(folder, "usage", "--json").stdout)
    assert {row["tenant"]: row["cost_usd"] for row in told["rows"]} == ledger["by_tenant"]
    assert told["total"]["cost_usd"] == ledger["total_usd"]
    rows = list(csv.DictReader(io.StringIO(command(folder, "usage", "--csv", "--by", "kind").stdout)))
    assert {row["kind"] for row in rows} == {"chat", "embedding"}
    assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(ledger["total_usd"])
    table = command(folder, "usage").stdout
    assert "initech" in table and ledger["total_usd"] in table
    assert json.loads(command(folder, "usage", "--json", "--since", "2100-01-01").stdout)["rows"] == []


def test_explain_names_every_value_and_its_rule(played):
    folder, _ = played
    rows = {row["name"]: row for row in json.loads(command(folder, "explain", "globex", "--json").stdout)}
    assert rows["rpm"] == {"name": "rpm", "value": "600", "rule": "tiers.business.rpm"}
    assert rows["queue_timeout"] == {"name": "queue_timeout", "value": "60.0", "rule": "tiers.business.queue_timeout"}
    assert rows["burst"]["rule"] == "tiers.business.burst" and rows["min_output_tokens"]["rule"] == "default"
    assert rows["backends.vectors"]["value"] == "memory://"
    assert rows["price of openai/local"]["rule"] == "prices.openai/local"
    assert "tiers.business.rpm" in command(folder, "explain", "globex").stdout


def test_a_stranger_is_refused_without_an_echo(played):
    folder, _ = played
    run = command(folder, "explain", "stranger:{x}")
    assert run.returncode != 0 and "stranger:{x}" not in run.stderr and "Traceback" not in run.stderr


def test_the_folder_is_nothing_for_git(played):
    folder, _ = played
    assert (folder / ".tenant-middleware" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo", "--vectors", "pine"], "expected memory or redis"),
        (("usage",), "no policy file here"),
        (("usage", "--ledger", "sqlite:///nothing.db"), "no ledger at"),
        (("usage", "--ledger", "sqlite://"), "lives in the memory"),
        (("explain", "acme", "--policy", "nowhere.toml"), "nowhere.toml"),
        (("demo", "--llm", "gpt"), "litellm:MODEL"),
    ],
)
def test_what_cannot_work_says_why_in_one_line(tmp_path, words, says):
    run = command(tmp_path, *words)
    assert run.returncode == 2 and says in run.stderr and "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == [], "a command that fails leaves nothing behind"


def test_a_corrupted_ledger_is_an_error_of_ours(tmp_path):
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 100)
    run = command(tmp_path, "usage", "--ledger", "sqlite:///broken.db")
    assert run.returncode == 1 and "Traceback" not in run.stderr and run.stderr.startswith("tenant-middleware:")


def test_ctrl_c_ends_the_demo_cleanly(tmp_path):
    run = subprocess.Popen(
        [*COMMAND, "demo"], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for line in run.stdout:
        if "thread id" in line:  # its first question is on its way to the model
            break
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 130 and "Traceback" not in said and said.strip() == "stopped"


def test_without_its_libraries_the_demo_names_the_extra(tmp_path):
    program = "import sys; sys.modules['langgraph'] = None; from tenant_middleware.cli import app; app(['demo'])"
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1 and "tenant-middleware[langchain]" in run.stderr and "Traceback" not in run.stderr
