"""Redis: limits and budgets, the fair queue, conversations, exact answers and provider ids."""

from __future__ import annotations

try:
    import redis  # noqa: F401  every module here needs it; the error names the extra
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("redis", __name__) from error
