"""What a call will use, before it is made: a bound on its prompt, and what was learnt about its output.

Limits and budgets reserve a bound; the queue charges the learnt mean. Charging the bound there triples the waits of
light tenants, and reserving the mean here overspends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from math import ceil

from tenant_middleware.tenant import Tenant

# Role, separators and name of one chat message, in every template we know.
MESSAGE_TOKENS = 8
# An image, sound or file: providers charge by size, not by the length of its base64 text.
MEDIA_TOKENS = 2_000

_WORDS = bytes(range(ord("A"), ord("Z") + 1)) + bytes(range(ord("a"), ord("z") + 1)) + b" \t\r\n"
_HIGH = bytes(range(0x80, 0x100))


def text_bound(text: str | bytes) -> int:
    """How many tokens a text will be at most, for text that people or programs write.

    A token for three ASCII letters or blanks, one for each digit and sign, three for four bytes of anything else
    (a CJK character has three bytes). Words of natural languages take fewer; random letters may take more, but never
    more than a token for each byte.
    """
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    not_words = len(raw.translate(None, _WORDS))
    high = len(raw) - len(raw.translate(None, _HIGH)) if not_words and not raw.isascii() else 0
    return ceil((len(raw) - not_words) / 3) + (not_words - high) + ceil(high * 3 / 4)


def batches(texts: Iterable[str], *, size: int, tokens: int) -> Iterator[tuple[list[str], int]]:
    """Texts in order, with each batch's bound, cut at `size` texts or about `tokens`; a larger text goes alone."""
    batch: list[str] = []
    total = 0
    for text in texts:
        bound = text_bound(text)
        if batch and (len(batch) == size or total + bound > tokens):
            yield batch, total
            batch, total = [], 0
        batch.append(text)
        total += bound
    if batch:
        yield batch, total


class Learnt:
    """How long answers were, per tenant and model, from settled calls; bounded, and thread-safe.

    A tenant learns from its own calls alone. The p95 is that of the last `window` outputs, None below `enough` of them.
    """

    def __init__(self, *, window: int = 64, enough: int = 8, capacity: int = 10_000) -> None:
        self._window, self._enough, self._capacity = window, enough, capacity
        self._lock = threading.Lock()
        self._outputs: OrderedDict[tuple[str, str], deque[int]] = OrderedDict()

    def observe(self, tenant: Tenant, model: str, *, output: int) -> None:
        """Learn from one settled call."""
        with self._lock:
            seen = self._outputs.pop((tenant.id, model), None) or deque(maxlen=self._window)
            seen.append(output)
            self._outputs[tenant.id, model] = seen
            if len(self._outputs) > self._capacity:
                self._outputs.popitem(last=False)

    def p95_output(self, tenant: Tenant, model: str) -> int | None:
        """What 19 of 20 recent calls stayed within; None while too few were seen."""
        with self._lock:
            ordered = sorted(self._outputs.get((tenant.id, model), ()))
        return ordered[ceil(0.95 * len(ordered)) - 1] if len(ordered) >= self._enough else None
