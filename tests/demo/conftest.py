from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from tenant_middleware.demo.chain import Assistant
from tenant_middleware.demo.identity import IdentityProvider
from tenant_middleware.demo.run import policy_text
from tenant_middleware.demo.scenes import Demo
from tenant_middleware.demo.screen import Waiting
from tenant_middleware.local import echo_chat_model
from tenant_middleware.tenancy import Tenancy


@dataclass
class Stage:
    """The demo with an echo instead of the language model: everything but the wording of answers is real."""

    tenancy: Tenancy
    provider: IdentityProvider
    assistant: Assistant

    def demo(self) -> Demo:
        return Demo(self.tenancy, self.assistant, self.provider, Waiting(Console(stderr=True)))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    policy = tmp_path / "tenancy.toml"
    policy.write_text(policy_text())
    provider = IdentityProvider(tmp_path)
    overrides = {
        "identity": {"jwks_file": str(provider.jwks_file)},
        "backends": {"ledger": f"sqlite:///{tmp_path}/demo.db"},
    }
    with Tenancy.from_file(policy, overrides=overrides, environ={}) as tenancy:
        yield Stage(tenancy, provider, Assistant(tenancy, echo_chat_model(), "openai/local"))
