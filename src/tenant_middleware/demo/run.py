"""The demo from one call: its policy, its identity provider, its ledger file, and the scenes."""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from tenant_middleware.demo.chain import Assistant
from tenant_middleware.demo.identity import IdentityProvider
from tenant_middleware.demo.llm import LOCAL, choose
from tenant_middleware.demo.report import Report
from tenant_middleware.demo.scenes import Demo
from tenant_middleware.demo.show import Show
from tenant_middleware.errors import ConfigurationError
from tenant_middleware.local import local_redis
from tenant_middleware.tenancy import Tenancy

FOLDER = Path(".tenant-middleware")
POLICY = "tenancy.toml"
LEDGER = "demo.db"


def run(show: Show, *, llm: str = LOCAL, redis: bool = False, vectors: str = "", folder: Path = FOLDER) -> Report:
    """Play the demo; its policy and ledger stay in `folder`, the signing key ends with this call.

    With `redis`, limits, cache and documents live in a real Redis that ends with this call too; the conversations of
    the graph stay in LangGraph's saver in memory. `vectors` moves the documents alone, to "redis" or "memory".
    """
    if vectors not in ("", "memory", "redis"):
        raise ConfigurationError(f"--vectors: expected memory or redis, got {vectors!r}")
    chosen = choose(llm)
    prepare(folder)
    with ExitStack() as running:
        provider = IdentityProvider(Path(running.enter_context(tempfile.TemporaryDirectory(prefix="tm-demo-"))))
        overrides = _overrides(provider, folder, chosen.name)
        if redis or vectors == "redis":
            url = running.enter_context(local_redis())
            if redis:
                keep_in(url, overrides)
            if vectors:
                overrides["backends"]["vectors"] = url if vectors == "redis" else "memory://"
        # The demo is the same everywhere, whatever TENANCY__ variables say here.
        with Tenancy.from_file(folder / POLICY, overrides=overrides, environ={}) as tenancy, _quiet():
            tenancy.seal(strict=False)  # LangChain's caches; what else is loaded here isn't on the demo's path
            return Demo(tenancy, Assistant(tenancy, chosen.model, chosen.name, chosen.stop), provider, show).play()


def prepare(folder: Path) -> None:
    """A folder that git ignores, with the policy and without the books of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    (folder / POLICY).write_text(policy_text(), encoding="utf-8")
    for old in folder.glob(f"{LEDGER}*"):
        old.unlink()


def policy_text() -> str:
    """The policy that ships with the demo."""
    return files(__package__).joinpath("policy.toml").read_text(encoding="utf-8")


def keep_in(url: str, overrides: dict[str, Any]) -> None:
    """The same policy over one Redis; workers that share a cache share the key of its hashes."""
    overrides["backends"] |= dict.fromkeys(("admission", "history", "cache", "vectors"), url)
    overrides["secrets"] = {"fingerprint_key": secrets.token_urlsafe(32)}


def _overrides(provider: IdentityProvider, folder: Path, model: str) -> dict[str, Any]:
    allowed = {"models": [model, "openai/local", "local/embed"]}
    return {
        "identity": {"jwks_file": str(provider.jwks_file)},
        "backends": {"ledger": f"sqlite:///{(folder / LEDGER).resolve()}"},
        "tiers": dict.fromkeys(("enterprise", "business", "free"), allowed),
        "queue": {"pools": {"llm": {"models": [model]}}},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Guards log what they flag; in a terminal that shows the refusal itself it would only get in between."""
    logger = logging.getLogger("tenant_middleware")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
