"""Training files hold one tenant's rows, say whose they are, and are caught when they don't."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tenant_middleware.backends.in_memory.history import InMemoryHistory
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors
from tenant_middleware.errors import ConfigurationError, InvalidInput, TenantMismatch
from tenant_middleware.isolation.history import Message
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.lifecycle.training import TrainingSet, manifest_of, owned_model, verify_training
from tenant_middleware.settings import load
from tenant_middleware.tenant import Tenant
from tests.hazards.scoreboard import POLICY

ACME, GLOBEX = Tenant("acme", "pro"), Tenant("globex", "pro")
ROW = {"tenant_id": "acme", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def training_set() -> TrainingSet:
    history, vectors = InMemoryHistory(), InMemoryVectors()
    for tenant in (ACME, GLOBEX):
        history.append(tenant, "support", [Message("user", f"of {tenant.id}"), Message("assistant", "ü\u2028")])
        vectors.upsert(tenant, [Record("doc", [1.0], f"text of {tenant.id}")])
    chosen = TrainingSet(ACME, consent=True)
    assert chosen.add_history(history) == chosen.add_documents(vectors) == 1
    assert chosen.add_rows([ROW], "crm") == 1
    return chosen


def test_one_tenants_examples_in_the_providers_format(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    manifest = json.loads(training_set().write(path, model="base").read_text("utf-8"))
    lines = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
    assert [set(line) for line in lines] == [{"messages"}] * 3 and "globex" not in path.read_text("utf-8")
    assert [row["source"] for row in manifest["rows"]] == ["history/support", "documents/doc", "crm/0"]
    assert (manifest["tenant"], manifest["consent"], manifest["model"]) == ("acme", True, "base")
    found = verify_training(path)
    assert (found.tenant_id, found.model, found.rows) == ("acme", "base", 3)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({**ROW, "tenant_id": "globex"}, TenantMismatch),
        ({**ROW, "tenant_id": "Acme"}, TenantMismatch),
        ({"messages": ROW["messages"]}, InvalidInput),
        ({**ROW, "tenant_id": None}, InvalidInput),
        ({"tenant_id": "acme"}, InvalidInput),
    ],
)
def test_mixed_and_unstamped_rows_are_refused_and_nothing_of_them_is_kept(bad: Any, error: type[Exception]) -> None:
    chosen = TrainingSet(ACME, consent=True)
    with pytest.raises(error):
        chosen.add_rows([ROW, bad, ROW], "crm")
    assert len(chosen) == 0


def test_without_consent_or_examples_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    silent = TrainingSet(ACME, consent=False)
    silent.add_rows([ROW], "crm")
    with pytest.raises(ConfigurationError):
        silent.write(path, model="base")
    with pytest.raises(InvalidInput):
        TrainingSet(ACME, consent=True).write(path, model="base")
    assert not list(tmp_path.iterdir())


def test_every_change_of_a_file_or_manifest_is_found(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    training_set().write(path, model="base")
    good, manifest = path.read_bytes(), manifest_of(path)
    told = manifest.read_bytes()
    foreign = json.dumps({"messages": [{"role": "user", "content": "of globex"}]}).encode() + b"\n"
    for changed in (good + foreign, foreign + good, good[:-2], good.replace(b"of acme", b"of_acme"), b""):
        path.write_bytes(changed)
        with pytest.raises(InvalidInput):
            verify_training(path)
    path.write_bytes(good)
    for changed in (
        b"{}",
        b"[]",
        b"no json",
        told.replace(b'"rows"', b'"lines"'),
        told.replace(b'"consent": true', b'"consent": false'),
    ):
        manifest.write_bytes(changed)
        with pytest.raises(InvalidInput):
            verify_training(path)
    manifest.unlink()
    with pytest.raises(InvalidInput):
        verify_training(path)


def test_the_trained_model_is_its_tenants_alone(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    training_set().write(path, model="base")
    owned = tomllib.loads(owned_model(path, "ft:base:acme:1"))
    tenants = {"acme": {"tier": "pro", **owned["tenants"]["acme"]}, "globex": {"tier": "pro", "models": ["*"]}}
    _, policy = load(None, overrides={**POLICY, "tenants": tenants}, environ={})
    assert policy.entitlement(ACME, "ft:base:acme:1").allowed
    assert not policy.entitlement(GLOBEX, "ft:base:acme:1").allowed
    with pytest.raises(InvalidInput):
        owned_model(path, "ft:*")
