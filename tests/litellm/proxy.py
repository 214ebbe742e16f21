"""A real LiteLLM proxy with the plugin, in processes of its own: policy, keys, config, start and stop."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER, AUDIENCE = "https://id.example.test/", "genai-platform"
MASTER_KEY = "sk-master-0123456789abcdef0123456789abcdef"
_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a key of tests, not a secret").digest())


def jwks() -> dict[str, Any]:
    jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(_KEY.public_key()))
    return {"keys": [jwk | {"kid": "k1", "use": "sig", "alg": "EdDSA"}]}


def token(tenant: str, tier: str = "pro", *, ttl: int = 3600, key: Any = _KEY, **claims: Any) -> str:
    now = int(time.time())
    body = {"iss": ISSUER, "aud": AUDIENCE, "sub": f"user@{tenant}", "iat": now, "exp": now + ttl}
    return jwt.encode(
        body | {"tenant_id": tenant, "tier": tier} | claims, key, algorithm="EdDSA", headers={"kid": "k1"}
    )


def toml(values: Mapping[str, Any], prefix: str = "") -> str:
    """Nested mappings as TOML; JSON spells scalars and lists the same way."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    lines = [f"[{prefix}]"] if prefix and plain else []
    lines += [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in plain.items()]
    tables = [
        toml(value, f"{prefix}.{json.dumps(name)}" if prefix else json.dumps(name)) for name, value in nested.items()
    ]
    return "\n".join([*lines, *tables])


@dataclass
class Proxy:
    """A running proxy: where it is, its folder, its process, and its ledger."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]
    started: list[int] = field(default_factory=list)

    def client(self, tenant: str = "acme", **more: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {token(tenant, **more)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def aclient(self, tenant: str = "acme", **more: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token(tenant, **more)}"}
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)  # the server closes idle ones after 5 s
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=120, limits=limits, trust_env=False)

    def log(self) -> str:
        return (self.folder / "proxy.log").read_text()

    def state(self) -> str:
        """What a failing test has to tell: who serves, who did when it began, and the end of the log."""
        serving = f"status {code}" if (code := self.process.poll()) is not None else f"workers {self.workers()}"
        return f"{self.url}: {serving}, at the start {self.started}\n{self.log()[-6_000:]}"

    def rows(self, tenant: str | None = None) -> list[Any]:
        from tenant_middleware.backends.sql import SqlLedger

        ledger = SqlLedger(f"sqlite:///{self.folder / 'ledger.db'}")
        try:
            return list(ledger.rows(tenant_id=tenant))
        finally:
            ledger.close()

    def settled(self, count: int, tenant: str | None = None, *, within: float = 20.0) -> list[Any]:
        """The ledger's rows, once there are so many of them."""
        end = time.monotonic() + within
        while len(rows := self.rows(tenant)) < count and time.monotonic() < end:
            time.sleep(0.1)
        return rows

    def workers(self) -> list[int]:
        import psutil

        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]


def deployment(group: str, url: str, model: str = "openai/m", **more: Any) -> dict[str, Any]:
    params = {"model": model, "api_key": "x", "api_base": url, "max_retries": 0, **more}
    return {"model_name": group, "litellm_params": params}


def config(url: str, *, redis: str | None = None, plugin: bool = True, **more: Any) -> dict[str, Any]:
    """Two deployments of each chat model, a broken one with a fallback, and a response cache on Redis."""
    names = [(group, f"openai/{group}-{i}") for group in ("chat", "spare") for i in range(2)]
    names += [("fragile", "openai/broken"), ("tempting", "openai/broken"), ("ft:acme:x", "openai/mine")]
    names += [("embed", "openai/embed"), ("image", "openai/image"), ("rank", "cohere/rank")]
    settings: dict[str, Any] = {"num_retries": 1, "request_timeout": 60}
    if plugin:
        settings["callbacks"] = ["tenant_middleware.litellm.callback"]
    if redis:
        host, _, port = redis.removeprefix("redis://").partition(":")
        settings |= {"cache": True, "cache_params": {"type": "redis", "host": host, "port": int(port)}}
    general: dict[str, Any] = {"master_key": MASTER_KEY, "disable_responses_id_security": True}
    general |= {"custom_auth": "tenant_middleware.litellm.custom_auth"} if plugin else {}
    made: dict[str, Any] = {
        "model_list": [deployment(group, url, model) for group, model in names],
        "litellm_settings": settings,
        "router_settings": {"fallbacks": [{"fragile": ["spare"]}, {"tempting": ["ft:acme:x"]}]},
        "general_settings": general,
    }
    for section, values in more.items():
        made[section] = values if isinstance(values, list) else made.get(section, {}) | values
    return made


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(
    folder: Path,
    policy: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    workers: int = 1,
    environ: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Iterator[Proxy]:
    """A proxy over this policy and config; `wait=False` gives one that may never come up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jwks.json").write_text(json.dumps(jwks()))
    identity = {"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["EdDSA"], "jwks_file": "jwks.json"}
    identity |= {"tenant_claim": "tenant_id", "tier_claim": "tier"}
    backends = {"ledger": f"sqlite:///{folder / 'ledger.db'}"} | dict(policy.get("backends", {}))
    (folder / "tenancy.toml").write_text(toml({**policy, "identity": identity, "backends": backends}))
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(settings)))
    port = free_port()
    command = [str(Path(sys.executable).parent / "litellm"), "--config", str(folder / "config.yaml")]
    command += ["--port", str(port), "--host", "127.0.0.1", "--num_workers", str(workers)]
    # uvicorn kills and starts again, for ever, workers whose imports take longer than this
    command += ["--timeout_worker_healthcheck", "120"]
    env = os.environ | {
        "TENANCY_FILE": str(folder / "tenancy.toml"),
        "TENANCY__SECRETS__FINGERPRINT_KEY": "f" * 32,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "NO_DOCS": "True",
        "PYTHONFAULTHANDLER": "1",  # a worker that crashes says where
        "DISABLE_ADMIN_UI": "True",
        **(environ or {}),
    }
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        proxy = Proxy(f"http://127.0.0.1:{port}", folder, process)
        try:
            if wait:
                _wait(proxy, workers)
                proxy.started = proxy.workers()
            yield proxy
        except BaseException:
            print(proxy.state())
            raise
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _wait(proxy: Proxy, workers: int) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end and proxy.process.poll() is None:
        try:
            alive = httpx.get(f"{proxy.url}/health/liveliness", timeout=2, trust_env=False).status_code == 200
            if alive and proxy.log().count("Proxy initialized with Config") >= workers:
                return
        except httpx.HTTPError:
            pass  # not listening yet
        time.sleep(0.2)
    raise RuntimeError(f"the proxy did not start:\n{proxy.log()[-3000:]}")
