"""Runs a service of `integrations/` with one command: what isn't configured is started here, for a look around."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tenant_middleware import Tenancy
from tenant_middleware.demo.identity import IdentityProvider
from tenant_middleware.errors import missing_extra
from tenant_middleware.local import local_redis

MakeApp = Callable[[Tenancy, str], Any]
HOST = "127.0.0.1"


def serve(make_app: MakeApp, policy: Path, *, port: int, argv: list[str] | None = None) -> None:
    """Serve `make_app(tenancy, redis_url)` until interrupted.

    Without `--redis` or REDIS_URL a Redis is started; without TENANCY__IDENTITY__JWKS_FILE or _URL a key is made and
    tokens of two tenants are printed; without TENANCY__BACKENDS__LEDGER the books last as long as the process.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra("dev", __name__) from error
    options = _options(port, argv)
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="tm-service-")))
        redis = options.redis or running.enter_context(local_redis())
        tenancy = Tenancy.from_file(policy, overrides=_overrides(redis, folder, os.environ))
        app = make_app(tenancy, redis)
        _say(f"open http://{options.host}:{options.port}/docs; Redis is {redis}")
        uvicorn.run(app, host=options.host, port=options.port, log_level="warning")


def _options(port: int, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--redis", default=os.environ.get("REDIS_URL"), help="redis://...; one is started if left out")
    return parser.parse_args(argv)


def _overrides(redis: str, folder: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    backends = {"admission": redis, "history": redis, "vectors": redis}
    if "TENANCY__BACKENDS__LEDGER" not in environ:
        backends["ledger"] = f"sqlite:///{folder / 'ledger.db'}"
    values: dict[str, Any] = {"backends": backends}
    if not {"TENANCY__IDENTITY__JWKS_FILE", "TENANCY__IDENTITY__JWKS_URL"} & environ.keys():
        provider = IdentityProvider(folder)
        values["identity"] = {"jwks_file": str(provider.jwks_file)}
        for tenant in ("acme", "globex"):
            _say(f"token of {tenant}: {provider.token(tenant, 'enterprise')}")
    return values


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
