"""What a tenant may see: its documents, conversations and cached answers, each opened when it is first used."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from tenant_middleware.backends.routed import Watched
from tenant_middleware.backends.urls import Opener, silo_urls
from tenant_middleware.errors import SettingsError
from tenant_middleware.isolation.cache import ExactCache, SemanticCache
from tenant_middleware.isolation.history import HistoryStore
from tenant_middleware.isolation.knowledge import VersionedVectors
from tenant_middleware.isolation.provider_state import ProviderIds, ProviderState
from tenant_middleware.policy import Policy
from tenant_middleware.settings import Settings
from tenant_middleware.tenant import Tenant

if TYPE_CHECKING:
    from tenant_middleware.guardrails import AnswerGuard, CanaryGuard, InputGuard, Registry
    from tenant_middleware.isolation.vectors import Vectors


@dataclass(frozen=True, slots=True)
class _GuardModes:
    """The guard's view of the policy."""

    policy: Policy

    def mode(self, tenant: Tenant) -> str:
        return self.policy.for_tenant(tenant).guard


class TenantData:
    """The stores of a Tenancy by their concern; a silo's are behind the same name.

    An application may put a store of its own in the place of one of them before it is used.
    """

    def __init__(self, settings: Settings, policy: Policy, opener: Opener, secret: bytes) -> None:
        self.settings = settings
        self.policy = policy
        self._opener = opener
        self._secret = secret

    @property
    def secret(self) -> bytes:
        """The key of all fingerprints; random in each process unless [secrets] names one."""
        return self._secret

    @cached_property
    def vectors(self) -> Vectors:
        """Documents by tenant; a write makes older cached answers miss."""
        opened = cast("Vectors", self._opener.concern("vectors", self._opener.vectors))
        versions = Watched(self.cache.versions, self.policy.refuse_barred)
        return cast("Vectors", VersionedVectors(opened, versions, self._opener.shared_vectors))

    @cached_property
    def history(self) -> HistoryStore:
        """Conversations by tenant and session."""
        return cast(HistoryStore, self._opener.concern("history", self._opener.history))

    @cached_property
    def cache(self) -> SemanticCache:
        """Answers by nearness of the question."""
        return cast(SemanticCache, self._opener.concern("cache", self._opener.semantic_cache))

    @cached_property
    def exact_cache(self) -> ExactCache:
        """Answers by everything that was asked."""
        return cast(ExactCache, self._opener.concern("exact_cache", self._opener.exact_cache, beside="cache"))

    @cached_property
    def provider_state(self) -> ProviderState:
        """Ids that model providers gave out, and salts for their prefix caches; kept beside the history."""
        ids = self._opener.concern("provider_ids", self._opener.provider_ids, beside="history")
        return ProviderState(cast("ProviderIds", ids), self._secret)

    @cached_property
    def guard(self) -> InputGuard:
        """The input guard in each tier's mode, knowing the listed tenants."""
        from tenant_middleware.guardrails import InputGuard

        return InputGuard(_GuardModes(self.policy), self._registry)

    @cached_property
    def canaries(self) -> CanaryGuard | None:
        """What adapters look for in answers, with the key that [secrets] names; None without one."""
        key = self.settings.secrets.canary_key
        if key is None:
            return None
        from tenant_middleware.guardrails import CanaryGuard

        return CanaryGuard(key.get_secret_value().encode())

    @cached_property
    def answers(self) -> AnswerGuard | None:
        """Flags answers that hold another listed tenant's id, where [answers] says so; else None."""
        if not self.settings.answers.foreign_ids:
            return None
        from tenant_middleware.guardrails import AnswerGuard

        return AnswerGuard(self._registry)

    @cached_property
    def _registry(self) -> Registry:
        from tenant_middleware.guardrails import Registry

        return Registry((tenant_id, *rule.names) for tenant_id, rule in self.policy.tenants.items())

    def backends(self, concern: str) -> list[Any]:
        """Every open backend of a concern, silos included, and what the application put in its place."""
        used = getattr(self, concern)
        opened = self._opener.opened(concern)
        return [*opened, *([] if used in opened or getattr(used, "inner", None) in opened else [used])]

    def forget(self, tenant: Tenant) -> int:
        """Remove a tenant's things from the stores that were used so far; returns how many that were."""
        used = self.__dict__
        removed = self.vectors.erase(tenant) if "vectors" in used else 0
        removed += self.history.clear_tenant(tenant) if "history" in used else 0
        removed += self.cache.invalidate(tenant) if "cache" in used else 0
        removed += self.provider_state.ids.clear(tenant) if "provider_state" in used else 0
        return removed + (self.exact_cache.clear(tenant) if "exact_cache" in used else 0)


def fingerprint_key(settings: Settings, policy: Policy) -> bytes:
    """The key that [secrets] names; without one a random key of this process, where nothing is shared."""
    given = settings.secrets.fingerprint_key
    if given is not None:
        return given.get_secret_value().encode()
    caches = {settings.backends.cache, *silo_urls(policy, "cache")}
    if not all(url.startswith("memory:") for url in caches):
        raise SettingsError(
            "secrets.fingerprint_key: a cache shared by workers needs one key for all of them; set "
            "TENANCY__SECRETS__FINGERPRINT_KEY to at least 16 random bytes"
        )
    return secrets.token_bytes(32)
