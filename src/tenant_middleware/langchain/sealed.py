"""Seals LangChain's global LLM cache and LangGraph's node caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import InvalidInput, SealError, missing_extra
from tenant_middleware.isolation import seal
from tenant_middleware.isolation.cache import ExactCache
from tenant_middleware.isolation.seal import KeepsCaches, LayerReport
from tenant_middleware.keys import encode, tag
from tenant_middleware.langchain.cache import TenantCache

try:
    from langchain_core.globals import get_llm_cache, set_llm_cache
    from langgraph.cache.base import BaseCache as NodeCache
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

if TYPE_CHECKING:
    from langchain_core.caches import BaseCache

_MARK = "__tenant_middleware_sealed__"


class LlmCacheSealer:
    """Puts a TenantCache in the place of the global LLM cache; caches given to single models are their owners'."""

    framework = "langchain_core"

    def __init__(self) -> None:
        self._before: BaseCache | None = None
        self._replaced = False

    def seal(self, tenancy: KeepsCaches) -> list[LayerReport]:
        found = get_llm_cache()
        if found is None:
            return [LayerReport(self.framework, "global LLM cache", "absent", "no cache is set")]
        if not isinstance(found, TenantCache):
            self._before, self._replaced = found, True
            set_llm_cache(TenantCache(tenancy.exact_cache))
        return [LayerReport(self.framework, "global LLM cache", "sealed", f"was {type(found).__name__}")]

    def check(self) -> None:
        found = get_llm_cache()
        if found is not None and not isinstance(found, TenantCache):
            raise SealError(
                f"the global LLM cache was replaced by a {type(found).__name__} after tenancy.seal(): it would hand "
                "one tenant's answers to another; set it before sealing, or set a TenantCache"
            )

    def unseal(self) -> None:
        if self._replaced:
            set_llm_cache(self._before)
        self._before, self._replaced = None, False


class NodeCacheSealer:
    """Prefixes the namespaces of every node cache with the tenant, whatever graph it is given to.

    And with the subject, unless the policy shares answers in the tenant: what a node did may be for its user alone.
    """

    framework = "langgraph"

    def __init__(self) -> None:
        self._undo: list[tuple[type[Any], str, Any]] = []
        self._answers: ExactCache | None = None

    def seal(self, tenancy: KeepsCaches) -> list[LayerReport]:
        self._answers = tenancy.exact_cache
        kinds: list[type[Any]] = list(_kinds(NodeCache))
        for kind in kinds:
            self._wrap(kind)
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "no cache class is loaded"
        return [LayerReport(self.framework, "node cache", "sealed" if kinds else "absent", names)]

    def check(self) -> None:
        for kind in _kinds(NodeCache):
            if "get" in vars(kind) and not hasattr(vars(kind)["get"], _MARK):
                raise SealError(
                    f"the node cache class {kind.__name__} was loaded after tenancy.seal() and isn't keyed by tenant: "
                    "import it before sealing"
                )

    def unseal(self) -> None:
        for kind, name, original in reversed(self._undo):
            setattr(kind, name, original)
        self._undo.clear()

    def _whose(self) -> str:
        tenant = current_tenant()
        if self._answers is not None and self._answers.rules_for(tenant).share == "tenant":
            return tag(tenant)
        return f"{tag(tenant)}.{encode(tenant.subject or '')}"

    def _wrap(self, kind: type[Any]) -> None:
        for name, wrapper in _WRAPPERS.items():
            original = vars(kind).get(name)
            if original is not None and not hasattr(original, _MARK):
                sealed = wrapper(original, self._whose)
                setattr(sealed, _MARK, True)
                setattr(kind, name, sealed)
                self._undo.append((kind, name, original))


def _kinds(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


Whose = Callable[[], str]
_Full = tuple[tuple[str, ...], str]


def _inward(key: _Full, mine: str) -> _Full:
    namespace, name = key
    return (namespace if namespace[:1] == (mine,) else (mine, *namespace)), name


def _outward(found: Mapping[_Full, Any], asked: Sequence[_Full], mine: str) -> dict[_Full, Any]:
    back = {_inward(key, mine): key for key in asked}
    return {back[key]: value for key, value in found.items()}


def _get(original: Callable[..., Any], whose: Whose) -> Callable[..., Any]:
    @wraps(original)
    def get(self: Any, keys: Sequence[_Full]) -> Any:
        mine = whose()
        return _outward(original(self, [_inward(key, mine) for key in keys]), keys, mine)

    return get


def _aget(original: Callable[..., Any], whose: Whose) -> Callable[..., Any]:
    @wraps(original)
    async def aget(self: Any, keys: Sequence[_Full]) -> Any:
        mine = whose()
        return _outward(await original(self, [_inward(key, mine) for key in keys]), keys, mine)

    return aget


def _set(original: Callable[..., Any], whose: Whose) -> Callable[..., Any]:
    """Sync and async alike: what the original returns is returned."""

    @wraps(original)
    def set_(self: Any, pairs: Mapping[_Full, Any]) -> Any:
        mine = whose()
        return original(self, {_inward(key, mine): value for key, value in pairs.items()})

    return set_


def _clear(original: Callable[..., Any], whose: Whose) -> Callable[..., Any]:
    @wraps(original)
    def clear(self: Any, namespaces: Sequence[tuple[str, ...]] | None = None) -> Any:
        mine = whose()
        if namespaces is None:
            raise InvalidInput(
                "clearing a whole node cache would clear every tenant's: name the namespaces, or clear nodes "
                "(graph.clear_cache(nodes))"
            )
        return original(self, [_inward((tuple(namespace), ""), mine)[0] for namespace in namespaces])

    return clear


_WRAPPERS = {"get": _get, "aget": _aget, "set": _set, "aset": _set, "clear": _clear, "aclear": _clear}

seal.register(LlmCacheSealer())
seal.register(NodeCacheSealer())
