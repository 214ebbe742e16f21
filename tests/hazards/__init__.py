"""The scoreboard: what leaks in the bare framework, and the same code with tenant_middleware."""
