from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

from tenant_middleware.demo.chain import Assistant
from tenant_middleware.demo.identity import IdentityProvider
from tenant_middleware.demo.run import keep_in, policy_text
from tenant_middleware.demo.scenes import Demo
from tenant_middleware.demo.screen import Waiting
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.local import echo_chat_model, local_redis
from tenant_middleware.tenancy import Tenancy


@dataclass
class Stage:
    """The demo with an echo instead of the language model: everything but the wording of answers is real."""

    tenancy: Tenancy
    provider: IdentityProvider
    assistant: Assistant

    def demo(self) -> Demo:
        return Demo(self.tenancy, self.assistant, self.provider, Waiting(Console(stderr=True)))


@contextmanager
def opened(folder: Path, redis: str | None = None) -> Iterator[Stage]:
    policy = folder / "tenancy.toml"
    policy.write_text(policy_text())
    provider = IdentityProvider(folder)
    overrides = {
        "identity": {"jwks_file": str(provider.jwks_file)},
        "backends": {"ledger": f"sqlite:///{folder}/demo.db"},
    }
    if redis is not None:
        keep_in(redis, overrides)
    with Tenancy.from_file(policy, overrides=overrides, environ={}) as tenancy:
        yield Stage(tenancy, provider, Assistant(tenancy, echo_chat_model(), "openai/local"))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with opened(tmp_path) as stage:
        yield stage


@pytest.fixture
def stage_on_redis(tmp_path: Path, missing_service: Callable[[str], NoReturn]) -> Iterator[Stage]:
    try:
        redis = local_redis()
        url = redis.__enter__()
    except (ImportError, StoreUnavailable) as error:
        missing_service(str(error))
    try:
        with opened(tmp_path, url) as stage:
            yield stage
    finally:
        redis.__exit__(None, None, None)
