"""What an identity provider does: a signing key made at run time, its JWKS, and tokens with tenant and tier."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER = "https://id.example.test/"
AUDIENCE = "genai-platform"
_VALID_FOR = 900


class IdentityProvider:
    """Signs tokens with a key that never leaves this process; `jwks_file` holds the public half."""

    def __init__(self, folder: Path) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._kid = secrets.token_hex(4)
        self.jwks_file = folder / "jwks.json"
        self.jwks_file.write_text(json.dumps({"keys": [self._public()]}), encoding="utf-8")

    def _public(self) -> dict[str, str]:
        public: dict[str, str] = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(self._key.public_key()))
        return public | {"kid": self._kid, "use": "sig", "alg": "EdDSA"}

    def token(self, tenant: str, tier: str) -> str:
        """A signed token for a user of the tenant, valid for a quarter of an hour."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": f"user@{tenant}.example",
            "iat": now,
            "exp": now + _VALID_FOR,
            "tenant_id": tenant,
            "tier": tier,
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self._kid})
