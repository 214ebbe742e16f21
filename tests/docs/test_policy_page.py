"""The page about the policy file: its example loads, and no key of the settings is missing on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from tenant_middleware import settings
from tenant_middleware.policy import PriceRule, TenantRule, Tier
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "policy.md").read_text("utf-8")
SECTIONS: tuple[type[BaseModel], ...] = (
    Tier,
    TenantRule,
    PriceRule,
    settings.BackendSettings,
    settings.CacheSettings,
    settings.AdmissionSettings,
    settings.QueueSettings,
    settings.TelemetrySettings,
    settings.BillingSettings,
    settings.AnswerSettings,
    settings.SecretSettings,
    settings.PolicyFlags,
)


def test_the_example_is_a_policy(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "tenancy.toml").write_text(example)
    _, policy = settings.load(tmp_path / "tenancy.toml", environ={})
    assert set(policy.tenants) == {"acme", "globex"} and policy.terms_of("globex").budget != policy.tiers["pro"].budget


def _keys() -> Iterator[str]:
    yield from settings.Settings.model_fields
    for section in SECTIONS:
        yield from section.model_fields


@pytest.mark.parametrize("key", sorted(set(_keys()) - {"tiers"}))
def test_every_key_is_on_the_page(key: str) -> None:
    assert re.search(rf"`{key}\b|\[{key}[\].]", PAGE), key
