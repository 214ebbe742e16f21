"""The commands as an operator types them, over a ledger in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tenant_middleware.cli import app
from tenant_middleware.context import scope
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

POLICY = """
[backends]
ledger = "sqlite:///ledger.db"
[tiers.pro]
rpm = "unlimited"
tpm = "unlimited"
max_concurrency = "unlimited"
budget = "unlimited"
models = ["openai/local"]
max_output_tokens = 64
[tenants.acme]
tier = "pro"
[prices."openai/local"]
per_call_usd = "0.1"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tenancy.toml").write_text(POLICY)
    with Tenancy.from_file("tenancy.toml") as tenancy, scope(Tenant("acme", "pro", "ann")):
        with tenancy.gate.call(tenancy.gate.new_call("openai/local")) as hold:
            hold.report(Usage(1, 1))
    return tmp_path


def run(*args: str, typed: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(args), input=typed)
    return done.exit_code, done.output


def test_suspend_resume_export_erase(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANCY__SECRETS__FINGERPRINT_KEY", "0123456789abcdef")
    assert run("suspend", "acme") == (0, "acme is suspended\n")
    assert run("export", "acme", "out")[0] == 0
    assert json.loads((place / "out" / "manifest.json").read_text())["parts"]["ledger"]["records"] == 1
    assert run("resume", "acme")[0] == 0
    monkeypatch.delenv("TENANCY__SECRETS__FINGERPRINT_KEY")
    code, said = run("erase", "acme", "--receipt", "receipt.json", typed="acme\n")
    assert code == 2 and "nothing was erased" in said and "FINGERPRINT_KEY" in said
    monkeypatch.setenv("TENANCY__SECRETS__FINGERPRINT_KEY", "0123456789abcdef")
    code, said = run("erase", "acme", "--receipt", "receipt.json", typed="Acme\n")
    assert code == 2 and "nothing was done" in said
    code, said = run("erase", "acme", "--receipt", "receipt.json", typed="acme\n")
    assert code == 0 and "HIDDEN      ledger" in said
    signed = (place / "receipt.json").read_text()
    assert json.loads(signed)["tenant_id"] == "acme"
    code, said = run("receipt", "receipt.json")
    assert code == 0 and "as it was signed: acme" in said and "GONE        vectors" in said
    (place / "receipt.json").write_text(signed.replace('"GONE"', '"HIDDEN"'))
    assert run("receipt", "receipt.json")[0] == 1
    (place / "receipt.json").write_text("[]")
    assert run("receipt", "receipt.json")[0] == 2
    assert run("resume", "acme")[0] == 2
    code, said = run("usage", "--json")
    assert '"acme"' not in said and json.loads(said)["total"]["calls"] == 1


def test_marks_in_the_memory_of_another_process_are_refused(place: Path) -> None:
    (place / "tenancy.toml").write_text(POLICY.replace("sqlite:///ledger.db", "sqlite:///:memory:"))
    assert run("suspend", "acme")[0] == 2


def test_the_audit_command(place: Path) -> None:
    code, said = run("audit", "--probe", "memory", "--json", "--junit", "a.xml", "--html", "a.html")
    assert code == 0 and json.loads(said)["leaks"] == 0
    assert "<testsuite" in (place / "a.xml").read_text() and "Nothing leaked" in (place / "a.html").read_text()
    assert run("audit", "--probe", "nonsense")[0] == 2
    assert run("audit", "--url", "http://127.0.0.1:1/ask")[0] == 2


def test_the_audit_tries_a_saver_of_the_application(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    (place / "my_memory.py").write_text(
        "from langgraph.checkpoint.memory import InMemorySaver\nmade = []\n"
        "def saver():\n    made.append(InMemorySaver())\n    return made[0]\n"
    )
    code, said = run("audit", "--probe", "langchain.thread", "--saver", "my_memory:saver", "--json")
    assert code == 0 and json.loads(said)["findings"][0]["outcome"] == "held"
    (saver,) = sys.modules.pop("my_memory").made
    assert not saver.storage  # nothing of the audit's stays in it
    assert run("audit", "--saver", "my_memory")[0] == 2
    assert run("audit", "--saver", "no_such_module:saver")[0] == 2


def test_training_verify(place: Path) -> None:
    from tenant_middleware.lifecycle import TrainingSet

    rows = [{"tenant_id": "acme", "messages": [{"role": "user", "content": "x"}]}]
    chosen = TrainingSet(Tenant("acme", "pro"), consent=True)
    chosen.add_rows(rows, "crm")
    chosen.write(place / "t.jsonl", model="base")
    assert run("training", "verify", "t.jsonl") == (0, "1 rows of acme alone, for base\n")
    (place / "t.jsonl").write_text("{}\n")
    assert run("training", "verify", "t.jsonl")[0] == 2


def test_explain_says_which_model_lacks_a_price(place: Path) -> None:
    policy = POLICY.replace('["openai/local"]', '["openai/local", "gpt-4o-mini", "nobody/knows", "all/*"]')
    (place / "tenancy.toml").write_text(policy)
    told = {row["name"]: row["value"] for row in json.loads(run("explain", "acme", "--json")[1])}
    assert told["price of gpt-4o-mini"].startswith("0.15") and told["price of nobody/knows"].startswith("none")
    assert "price of all/*" not in told


@pytest.mark.parametrize("command", [("explain",), ("export", "out"), ("erase", "--confirm=Acme")], ids=" ".join)
def test_a_misspelt_tenant_is_told_who_was_meant(place: Path, command: tuple[str, ...]) -> None:
    name, *rest = command
    code, said = run(name, "Acme", *rest)
    assert code == 2 and "[tenants] doesn't list this id: did you mean acme?" in said


def test_a_suspension_of_somebody_unlisted_says_so(place: Path) -> None:
    assert run("suspend", "acne") == (0, "acne is suspended; [tenants] doesn't list this id: did you mean acme?\n")


def test_usage_of_one_tenant(place: Path) -> None:
    for tenant, calls in (("acme", 1), ("Acme", 0)):
        said = json.loads(run("usage", "--tenant", tenant, "--by", "model", "--json")[1])
        assert said["total"]["calls"] == calls == sum(row["calls"] for row in said["rows"])


def test_a_narrow_terminal_cuts_no_figure_off(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "a-tenant-with-a-rather-long-name." * 3
    with Tenancy.from_file("tenancy.toml", overrides={"tenants": {long: {"tier": "pro"}}}) as tenancy:
        with scope(Tenant(long, "pro")), tenancy.gate.call(tenancy.gate.new_call("openai/local")) as hold:
            hold.report(Usage(123_456_789, 1))
    said = run("usage")[1]
    assert "…" not in said and "123,456,789" in said and "0.200000000" in said
    assert "".join(line.split()[0] for line in said.splitlines() if line.strip()).count(long) == 1


def test_since_takes_a_day_and_how_far_back(place: Path) -> None:
    for since, calls in (("1h", 1), ("2000-01-01", 1), ("2999-01-01", 0)):
        code, said = run("usage", "--since", since, "--json")
        assert code == 0 and json.loads(said)["total"]["calls"] == calls
        assert run("export-costs", "--since", since)[1].count("acme") == calls
    for command in ("latency", "heatmap", "report"):
        assert run(command, "--since", "2000-01-01")[0] == 0
        code, said = run(command, "--since", "yesterday")
        assert code == 2 and "--since" in said and "expected a day such as" in said
    code, said = run("usage", "--since", "yesterday")
    assert code == 2 and "--since" in said and "expected a day such as" in said
