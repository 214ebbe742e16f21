"""Who is calling: tokens at the edge, passports between processes."""

from __future__ import annotations

from tenant_middleware.identity.asgi import TenantMiddleware
from tenant_middleware.identity.jwt import Admit, JwtIdentity
from tenant_middleware.identity.passport import Passport, Stamp
from tenant_middleware.identity.settings import IdentitySettings

__all__ = ["Admit", "IdentitySettings", "JwtIdentity", "Passport", "Stamp", "TenantMiddleware"]
