"""Redis with the Query Engine: documents, and the semantic cache on RedisVL. Import the module of the concern."""

from __future__ import annotations

try:
    import redisvl  # noqa: F401  every module here needs it; the error names the extra
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("redisvl", __name__) from error
