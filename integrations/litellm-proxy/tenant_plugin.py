"""LiteLLM runs this file once per entry that names it; what it names lives in the package, once per process."""

from tenant_middleware.litellm import callback, custom_auth

__all__ = ["callback", "custom_auth"]
