"""The demo's record, with a model that repeats its prompt: what each tenant saw, what was refused, what it cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tenant_middleware import cli
from tenant_middleware.demo import run as demo
from tenant_middleware.demo import scenes
from tenant_middleware.demo.llm import Chosen
from tenant_middleware.demo.screen import Waiting
from tenant_middleware.isolation.seal import unseal_all
from tenant_middleware.local import echo_chat_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def record(folder: Path) -> Iterator[dict[str, Any]]:
    """The scenes with a model that is quick; `make demo` plays them with a real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "choose", lambda llm: Chosen(echo_chat_model(), "openai/local"))
        report = demo.run(Waiting(Console(quiet=True)), folder=folder)
    unseal_all()
    yield json.loads(json.dumps(report.as_json()))


def test_each_tenant_answers_from_its_own_documents(record: dict[str, Any]) -> None:
    names = [tenant["id"] for tenant in record["tenants"]]
    assert sorted(names) == ["acme", "globex", "initech"]
    for tenant in record["tenants"]:
        assert tenant["answers"] and all(answer["sources"] for answer in tenant["answers"])
        others = [name.capitalize() for name in names if name != tenant["id"]]
        said = " ".join(answer["answer"] for answer in tenant["answers"])
        assert tenant["id"].capitalize() in said and not any(other in said for other in others)


def test_a_paraphrase_hits_ones_own_cache_alone_and_a_near_miss_hits_nothing(record: dict[str, Any]) -> None:
    cache = {(t["id"], a["question"]): a["cache"] for t in record["tenants"] for a in t["answers"]}
    assert cache["acme", scenes.PRICE_IN_OTHER_WORDS] == "hit"
    assert cache["acme", scenes.PRICE_LAST_YEAR] == "miss"
    assert "miss" in {hit for (name, _), hit in cache.items() if name == "globex"}


def test_refusals_say_when_to_come_back(record: dict[str, Any]) -> None:
    assert {entry["kind"] for entry in record["refusals"]} == {"budget_exceeded"}
    assert all(entry["retry_after"] > 0 and entry["resets_at"] for entry in record["refusals"])
    assert [entry["tenant"] for entry in record["blocked"]] == ["globex"]


def test_the_flood_waits_in_line_and_is_served(record: dict[str, Any]) -> None:
    flood = record["flood"]
    assert (flood["served"], flood["refused"]) == (flood["requests"], 0) and flood["longest_wait"] >= 0
    chats = [call for call in record["ledger"]["calls"] if call["tenant"] == "globex" and call["kind"] == "chat"]
    assert len(chats) > flood["requests"]


def test_the_ledger_adds_up_to_the_last_nano_dollar(record: dict[str, Any]) -> None:
    books = record["ledger"]
    assert sum(Decimal(call["cost_usd"]) for call in books["calls"]) == Decimal(books["total_usd"]) > 0
    assert sum(map(Decimal, books["by_tenant"].values())) == Decimal(books["total_usd"])


def test_the_isolation_check_has_both_controls(record: dict[str, Any]) -> None:
    assert record["isolation"]
    for row in record["isolation"]:
        assert (row["owner_found"], row["foreign_found"], row["leaked_with_guard_off"]) == (True, False, True), row


def test_usage_prints_the_demos_books(record: dict[str, Any], folder: Path) -> None:
    run = CliRunner().invoke(cli.app, ["usage", "--json", "--ledger", f"sqlite:///{folder / 'demo.db'}"])
    assert run.exit_code == 0
    printed = json.loads(run.output)
    assert {row["tenant"]: row["cost_usd"] for row in printed["rows"]} == record["ledger"]["by_tenant"]
    run = CliRunner().invoke(cli.app, ["usage", "--csv", "--by", "kind", "--ledger", f"sqlite:///{folder / 'demo.db'}"])
    assert run.output.splitlines()[0].startswith("kind,calls,") and len(run.output.splitlines()) == 3


def test_mistakes_on_the_command_line_are_told_without_a_traceback(tmp_path: Path) -> None:
    for arguments in (["usage", "--by", "colour"], ["explain", "acme", "--policy", str(tmp_path / "none.toml")]):
        run = CliRunner().invoke(cli.app, arguments)
        assert run.exit_code == 2 and "Traceback" not in run.output
