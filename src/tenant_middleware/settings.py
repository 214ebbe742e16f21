"""Settings from one TOML file, environment variables and overrides; a misspelt name is an error at start-up."""

from __future__ import annotations

import datetime as dt
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SettingsSourceError

from tenant_middleware.clock import seconds_of
from tenant_middleware.complaints import complaints
from tenant_middleware.errors import SettingsError
from tenant_middleware.identity import IdentitySettings
from tenant_middleware.policy import Limit, Model, Policy, PriceRule, TenantRule, Tier

ENV_PREFIX = "TENANCY__"
# Tenant ids and model names are case sensitive, environment keys are not: [tenants] and [prices] stay in the file.
ENV_SECTIONS = ("identity", "backends", "cache", "billing", "answers", "secrets")
# A misspelt variable that sets nothing would leave a limit in memory that is meant for all workers.
_ONE_UNDERSCORE = tuple(f"TENANCY_{section.upper()}_" for section in ENV_SECTIONS)

Duration = Annotated[float, BeforeValidator(seconds_of), Field(gt=0, allow_inf_nan=False)]


class BackendSettings(Model):
    """Where each concern is kept: memory://, redis://, rediss://, pinecone://INDEX; the ledger by SQLAlchemy URL.

    The queue is where admission is, unless it is named: slots counted by each worker for itself are no pool.
    """

    admission: str = "memory://"
    queue: str | None = None
    history: str = "memory://"
    cache: str = "memory://"
    vectors: str = "memory://"
    ledger: str = "sqlite:///:memory:"


class CacheSettings(Model):
    """The semantic cache: cosine distance, who shares an answer, and how long it lives."""

    distance_threshold: Annotated[float, Field(ge=0, le=1)] = 0.10
    share: Literal["subject", "tenant"] = "subject"
    ttl: Duration = 3600.0
    max_entries_per_tenant: Annotated[int, Field(gt=0)] = 10_000


class AdmissionSettings(Model):
    """How long a reservation outlives a silent worker, how many workers share a limit while the store is down, and
    how often settled rows move from a shared store into the ledger while the application runs.
    """

    reservation_ttl: Duration = 120.0
    drain_every: Duration = 1.0
    expected_workers: Annotated[int, Field(gt=0)] = 1
    store_timeout: Duration = 0.25


class PoolSettings(Model):
    """Slots for the models that match, and how tenants share them: by weighted tokens (vtc), by calls (wrr), or not.

    `slots` calls run at once; one tenant alone leaves `reserve_slots` free. An output token costs `output_weight`
    prompt tokens, and `prior_output` stands for an answer's length until some were seen. A tenant that got nothing
    for `max_wait` goes first; a call past `max_runtime` loses its slot. The other four are caps on each tenant: calls
    running, their weighted tokens, calls in line, and the time one waits there (never above its queue_timeout).
    """

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    slots: Annotated[int, Field(gt=0)]
    policy: Literal["vtc", "wrr", "fifo"] = "vtc"
    reserve_slots: Annotated[int, Field(ge=0)] = 0
    output_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    prior_output: Annotated[int, Field(ge=0)] = 256
    max_wait: Duration = 30.0
    max_runtime: Duration = 600.0
    max_running: Limit = None
    max_tokens: Limit = None
    max_length: Limit = 10_000
    max_age: Duration | None = None

    @model_validator(mode="after")
    def _something_is_left(self) -> PoolSettings:
        if self.reserve_slots >= self.slots:
            raise ValueError("reserve_slots: expected fewer than slots, or nobody could ever run")
        return self


PoolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class QueueSettings(Model):
    """Pools of slots by name; a model that no pool names has no end of slots. `lease` is how long a worker may be
    silent before the slots it holds in a shared queue are free again.
    """

    pools: dict[PoolName, PoolSettings] = Field(default_factory=dict)
    lease: Annotated[Duration, Field(ge=0.2)] = 15.0

    @model_validator(mode="after")
    def _open_is_taken(self) -> QueueSettings:
        if "open" in self.pools:
            raise ValueError('pools: "open" is the name of the pool without end; choose another')
        return self


class BillingSettings(Model):
    """Where settled calls are posted as CloudEvents (OpenMeter: https://HOST/api/v1/events); unset is nowhere.

    `since` leaves out calls of earlier days. The bearer token is a secret: TENANCY__SECRETS__BILLING_TOKEN.
    """

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")] | None = None
    type: str = "tenant.model.call"
    source: str = "tenant-middleware"
    since: dt.date | None = None


class AnswerSettings(Model):
    """What is looked for in answers beside canaries, which a TENANCY__SECRETS__CANARY_KEY turns on: with
    `foreign_ids`, other tenants' listed ids are flagged and counted; nothing is stopped for them.
    """

    foreign_ids: bool = False


class TelemetrySettings(Model):
    """What is kept for latency verdicts, heat maps and reports: counts per tenant, stage and `window`, for `keep`.

    `named_tenants`: how many tenants have metric series of their own; the others are `other`.
    """

    record: bool = True
    window: Duration = 900.0
    keep: Duration = 14 * 86400.0
    named_tenants: Annotated[int, Field(gt=0)] = 100


def _long_enough(key: SecretStr | None) -> SecretStr | None:
    if key is not None and len(key.get_secret_value().encode()) < 16:
        raise ValueError("expected at least 16 random bytes")
    return key


class SecretSettings(Model):
    """Keys that must not stand in the policy file of a real deployment; set them with TENANCY__SECRETS__..."""

    fingerprint_key: Annotated[SecretStr | None, AfterValidator(_long_enough)] = None
    passport_key: SecretStr | None = None
    canary_key: Annotated[SecretStr | None, AfterValidator(_long_enough)] = None
    pinecone_api_key: SecretStr | None = None
    billing_token: SecretStr | None = None


class PolicyFlags(Model):
    """Rules for tenants that the file doesn't list."""

    unlisted_tenants: bool = False


class Settings(BaseSettings):
    """The whole policy file; `policy_value` is the part that decides, frozen."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    identity: IdentitySettings | None = None
    backends: BackendSettings = BackendSettings()
    cache: CacheSettings = CacheSettings()
    admission: AdmissionSettings = AdmissionSettings()
    queue: QueueSettings = QueueSettings()
    billing: BillingSettings = BillingSettings()
    answers: AnswerSettings = AnswerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    secrets: SecretSettings = SecretSettings()
    policy: PolicyFlags = PolicyFlags()
    tiers: dict[str, Tier]
    tenants: dict[str, TenantRule] = {}
    prices: dict[str, PriceRule] = {}

    @model_validator(mode="after")
    def _ledger_fits_admission(self) -> Settings:
        shared = not self.backends.admission.startswith("memory:")
        if shared and in_memory_database(self.backends.ledger):
            raise ValueError(
                "backends.ledger: an in-memory ledger beside a shared admission backend would give every worker books "
                "of its own; name a file or a Postgres database"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # `load` hands over what it has merged

    def to_policy(self) -> Policy:
        """The part that decides what a tenant may do."""
        return Policy(
            tiers=self.tiers,
            tenants=self.tenants,
            prices=self.prices,
            unlisted_tenants=self.policy.unlisted_tenants,
        )


def in_memory_database(url: str) -> bool:
    """Whether a SQLAlchemy URL names a database that dies with this process."""
    return url.startswith("sqlite") and (
        ":memory:" in url or url.rstrip("/") in ("sqlite:", "sqlite") or "mode=memory" in url
    )


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[Settings, Policy]:
    """Settings and policy from a TOML file; `TENANCY__SECTION__KEY` variables win over it, `overrides` over both.

    Raises SettingsError that names file, key and reason, never a value.
    """
    name = os.fspath(path) if path is not None else "overrides"
    merged = _read(Path(path)) if path is not None else {}
    merged = _deep(merged, _environment(os.environ if environ is None else environ))
    merged = _deep(merged, overrides or {})
    if path is not None:
        _resolve_jwks(merged, Path(path).resolve().parent)
    try:
        settings = Settings(**merged)
        return settings, settings.to_policy()
    except ValidationError as error:
        raise SettingsError("\n".join(f"{name}: {line}" for line in complaints(error, Settings))) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The nested values of all TENANCY__ variables; an unknown section or key is an error, not a value unset."""
    known = {section: Settings.model_fields[section].annotation for section in ENV_SECTIONS}
    mine = {name: value for name, value in environ.items() if name.upper().startswith(ENV_PREFIX)}
    for name in environ:
        if name.upper().startswith(_ONE_UNDERSCORE):
            raise SettingsError(f"{name}: expected two underscores between the parts: TENANCY__SECTION__KEY")
    for name in mine:
        section, _, rest = name[len(ENV_PREFIX) :].lower().partition("__")
        if section not in known:
            raise SettingsError(
                f"{name}: expected TENANCY__SECTION__KEY with a section of {', '.join(ENV_SECTIONS)}; "
                "tiers, tenants and prices come from the file or from overrides="
            )
        if rest.partition("__")[0] not in _fields(known[section]):
            raise SettingsError(f"{name}: [{section}] has no such key; it has {', '.join(_fields(known[section]))}")
    nested: dict[str, Any] = {}
    for name, value in mine.items():
        source = EnvSettingsSource(Settings, env_prefix=ENV_PREFIX, env_nested_delimiter="__")
        source.env_vars = {name.lower(): value}
        try:
            nested = _deep(nested, {key: found for key, found in source().items() if key in ENV_SECTIONS})
        except SettingsSourceError:
            raise SettingsError(f'{name}: expected JSON for a list or a section, such as ["a", "b"]') from None
    return nested


def _fields(annotation: Any) -> list[str]:
    model = next((arg for arg in getattr(annotation, "__args__", (annotation,)) if hasattr(arg, "model_fields")), None)
    return list(model.model_fields) if model is not None else []


def _deep(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = _deep(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _resolve_jwks(merged: dict[str, Any], folder: Path) -> None:
    """A jwks_file beside the policy file is found from wherever the program runs."""
    identity = merged.get("identity")
    if isinstance(identity, Mapping) and isinstance(identity.get("jwks_file"), str):
        merged["identity"] = {**identity, "jwks_file": str(folder / identity["jwks_file"])}


__all__ = [
    "AdmissionSettings",
    "BackendSettings",
    "CacheSettings",
    "PoolSettings",
    "QueueSettings",
    "SecretSettings",
    "Settings",
    "load",
]
