"""File, environment and overrides: which wins, and how each mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tenant_middleware.errors import SettingsError
from tenant_middleware.settings import load

FILE = """
[identity]
issuer = "https://id.example.test/"
audience = "app"
algorithms = ["EdDSA"]
jwks_file = "jwks.json"

[backends]
ledger = "sqlite:///:memory:"

[cache]
ttl = "90m"

[tiers.free]
rpm = 30
tpm = 20_000
max_concurrency = 2
budget = { usd = "0.5", period = "month" }
models = ["m"]
max_output_tokens = 64

[tenants.acme]
tier = "free"
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "tenancy.toml"
    path.write_text(FILE)
    return path


def test_overrides_win_over_the_environment_and_that_over_the_file(policy_file: Path) -> None:
    environ = {"TENANCY__CACHE__TTL": "10m", "TENANCY__IDENTITY__AUDIENCE": "from-env", "PATH": "/bin"}
    settings, policy = load(policy_file, overrides={"identity": {"audience": "from-code"}}, environ=environ)
    assert settings.identity is not None
    assert (settings.identity.audience, settings.cache.ttl) == ("from-code", 600.0)
    assert settings.identity.issuer == "https://id.example.test/"
    assert policy.tiers["free"].rpm == 30


def test_overrides_reach_into_tables_without_replacing_them(policy_file: Path) -> None:
    _, policy = load(policy_file, overrides={"tiers": {"free": {"rpm": 5}}}, environ={})
    assert (policy.tiers["free"].rpm, policy.tiers["free"].tpm) == (5, 20_000)


def test_keys_beside_the_policy_file_are_found_from_anywhere(policy_file: Path) -> None:
    settings, _ = load(policy_file, environ={})
    assert settings.identity is not None and settings.identity.jwks_file == policy_file.parent / "jwks.json"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"TENANCY__CACHE__TLT": "1h"}, "TENANCY__CACHE__TLT"),
        ({"TENANCY__CASH__TTL": "1h"}, "TENANCY__CASH__TTL"),
        ({"TENANCY__TIERS__FREE__RPM": "1"}, "TENANCY__TIERS__FREE__RPM"),
        ({"TENANCY__TENANTS__ACME__TIER": "gold"}, "TENANCY__TENANTS__ACME__TIER"),
        ({"tenancy__cash__ttl": "1h"}, "tenancy__cash__ttl"),
        ({"TENANCY__CACHE__TTL": "soon"}, "cache.ttl"),
        ({"TENANCY_BACKENDS_ADMISSION": "redis://127.0.0.1"}, "TENANCY_BACKENDS_ADMISSION.*two underscores"),
        ({"TENANCY__IDENTITY__ALGORITHMS": "EdDSA"}, "TENANCY__IDENTITY__ALGORITHMS.*JSON"),
    ],
)
def test_a_misspelt_variable_is_an_error(policy_file: Path, environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load(policy_file, environ=environ)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"tiers": {"free": {"rpmm": 1}}}, "tiers.free.rpmm"),
        ({"tier": {}}, "tier"),
        ({"backends": {"vector": "memory://"}}, "backends.vector"),
        ({"tenants": {"acme": {"tier": "gold"}}}, "tenants.acme.tier"),
        ({"tenants": {"acme:x": {"tier": "free"}}}, "tenant id"),
        ({"tenants": {"acme": {"rpmm": 3}}}, "tenants.acme.rpmm"),
        ({"prices": {"m": {"input": "1"}}}, "prices.m.input"),
        ({"prices": {"m": {"per_call_usd": "NaN"}}}, "prices.m.per_call_usd"),
        ({"backends": {"admission": "redis://127.0.0.1:6379/0"}}, "in-memory ledger"),
    ],
    ids=str,
)
def test_a_mistake_in_the_policy_names_file_and_key(policy_file: Path, overrides: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(policy_file, overrides=overrides, environ={})
    assert str(policy_file) in str(caught.value) and named in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "way_out"),
    [
        ({"tiers": {"free": {"max_concurency": 1}}}, "tiers.free.max_concurency: no such key; did you mean max_concur"),
        ({"tiers": {"free": {"budget": {"usd": 5, "perod": "day"}}}}, "did you mean period?"),
        ({"tiers": {"free": {"when_down": {"xyz": 1}}}}, "no such key; expected one of limits, budget"),
        ({"tenants": {"acme": {"rmp": 3}}}, "tenants.acme.rmp: no such key; did you mean rpm?"),
        ({"identity": {"audiance": "x"}}, "did you mean audience?"),
        ({"queue": {"pools": {"p": {"models": ["*"], "slot": 1}}}}, "did you mean slots?"),
        ({"tiers": {"free": {"budget": 5}}}, 'tiers.free.budget: expected { usd = "5", period = "month" }, or "unl'),
        ({"tiers": {"free": {"rpm": "none"}}}, 'tiers.free.rpm: expected a whole number, or "unlimited"'),
        ({"tiers": {"free": {"models": "gpt"}}}, "tiers.free.models: expected a list"),
        ({"tiers": {"new": {}}}, "tiers.new.rpm: required"),
        ({"prices": {"gpt-*": {"per_call_usd": 1}}}, "prices.gpt-*: a price is one model's"),
        ({"secrets": {"fingerprint_key": "short"}}, "secrets.fingerprint_key: expected at least 16 random bytes"),
    ],
    ids=str,
)
def test_a_mistake_says_the_way_out(policy_file: Path, overrides: dict[str, Any], way_out: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(policy_file, overrides=overrides, environ={})
    assert way_out in str(caught.value)


def test_a_queue_timeout_is_a_duration_like_the_others(policy_file: Path) -> None:
    _, policy = load(policy_file, overrides={"tiers": {"free": {"queue_timeout": "2m"}}}, environ={})
    assert policy.tiers["free"].queue_timeout == 120


def test_variables_of_one_section_add_up(policy_file: Path) -> None:
    environ = {"TENANCY__IDENTITY__AUDIENCE": '["a", "b"]', "TENANCY__IDENTITY__LEEWAY": "5"}
    settings, _ = load(policy_file, environ=environ)
    assert settings.identity is not None
    assert (settings.identity.audience, settings.identity.leeway) == (("a", "b"), 5)


def test_an_error_never_repeats_a_secret(policy_file: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(policy_file, overrides={"secrets": {"fingerprint_key": ["hunter2"]}}, environ={})
    assert "hunter2" not in str(caught.value) and "secrets.fingerprint_key" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"), [("[tiers.free", "not valid TOML"), ("\xff\xfe", "not valid TOML"), ("", "tiers")]
)
def test_a_broken_file_is_named(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=reason) as caught:
        load(path, environ={})
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load(tmp_path / "nowhere.toml", environ={})
