"""How long a tenant's answers usually are: what the queue charges before it knows."""

from __future__ import annotations

from collections import OrderedDict

# The newest answer counts a tenth once ten have been seen; before that all count alike.
NEWEST = 0.1
_KEPT = 50_000


class OutputMeans:
    """Learnt mean output per tenant and model; a model's own mean stands in for a tenant that is new to it.

    Keeps the most recently used 50,000 pairs.
    """

    def __init__(self, prior: float, *, kept: int = _KEPT) -> None:
        self._prior = prior
        self._kept = kept
        self._means: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def expect(self, tenant_id: str, model: str, max_output: int) -> float:
        """The output to charge at dispatch, never above the call's own bound."""
        seen = self._means.get((tenant_id, model)) or self._means.get(("", model))
        return min(seen[1] if seen else self._prior, max_output)

    def forget(self, tenant_id: str) -> bool:
        """Drop what was learnt of a tenant; says whether that was anything."""
        learnt = [key for key in self._means if key[0] == tenant_id]
        for key in learnt:
            del self._means[key]
        return bool(learnt)

    def observe(self, tenant_id: str, model: str, output: int) -> None:
        """Learn from a call that ended."""
        for key in ((tenant_id, model), ("", model)):  # "" is no tenant id
            count, mean = self._means.pop(key, (0, 0.0))
            self._means[key] = (count + 1, mean + (output - mean) * max(1 / (count + 1), NEWEST))
        while len(self._means) > self._kept:
            self._means.popitem(last=False)
