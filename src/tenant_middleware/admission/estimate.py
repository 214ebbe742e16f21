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

_WORDS = bytes(range(ord("A"), ord("Z") + 1)) + bytes(range(ord("a"), ord("z") + 1)) + b" \t\r\n"
_HIGH = bytes(range(0x80, 0x100))


def text_bound(text: str | bytes) -> int:
    """How many tokens a text will be at most, for text that people or programs write.

    A token for three ASCII letters or blanks, one for each digit and sign, three for four bytes of anything else
    (a CJK character has three bytes). Words of natural languages take fewer; random letters may take more, but never
    more than `worst_bound`.
    """
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    not_words = len(raw.translate(None, _WORDS))
    high = len(raw) - len(raw.translate(None, _HIGH)) if not_words and not raw.isascii() else 0
    return ceil((len(raw) - not_words) / 3) + (not_words - high) + ceil(high * 3 / 4)


def worst_bound(text: str | bytes) -> int:
    """What no byte-level tokenizer exceeds: a token per byte."""
    return len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))


def prompt_bound(texts: Iterable[str | bytes], *, messages: int = 0) -> int:
    """A bound on the prompt tokens of texts (contents, tool schemas as JSON) sent as so many chat messages."""
    return sum(map(text_bound, texts)) + MESSAGE_TOKENS * messages


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
    """Outputs and estimation errors per tenant and model, learnt from settled calls; bounded, and thread-safe.

    A tenant learns from its own calls alone. `weight` is the share of the newest call in a mean; the p95 is that of
    the last `window` outputs, and None below `enough` of them.
    """

    def __init__(self, *, weight: float = 0.1, window: int = 64, enough: int = 8, capacity: int = 10_000) -> None:
        self._weight, self._window, self._enough, self._capacity = weight, window, enough, capacity
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def observe(self, tenant: Tenant, model: str, *, output: int, prompt: int = 0, estimated_prompt: int = 0) -> None:
        """Learn from one settled call."""
        with self._lock:
            seen = self._seen.get((tenant.id, model))
            if seen is None:
                seen = self._seen[tenant.id, model] = _Seen(output, self._window)
                if len(self._seen) > self._capacity:
                    self._seen.popitem(last=False)
            else:
                self._seen.move_to_end((tenant.id, model))
            seen.outputs.append(output)
            seen.mean += self._weight * (output - seen.mean)
            if prompt and estimated_prompt:
                seen.ratio += self._weight * (prompt / estimated_prompt - seen.ratio)

    def mean_output(self, tenant: Tenant, model: str, default: float) -> float:
        """The moving mean of output tokens: what the queue charges."""
        seen = self._seen.get((tenant.id, model))
        return default if seen is None else seen.mean

    def p95_output(self, tenant: Tenant, model: str) -> int | None:
        """What 19 of 20 recent calls stayed within; None while too few were seen."""
        with self._lock:
            seen = self._seen.get((tenant.id, model))
            if seen is None or len(seen.outputs) < self._enough:
                return None
            ordered = sorted(seen.outputs)
        return ordered[ceil(0.95 * len(ordered)) - 1]

    def prompt_ratio(self, tenant: Tenant, model: str) -> float:
        """Real prompt tokens per estimated one; 1.0 while nothing is known."""
        seen = self._seen.get((tenant.id, model))
        return 1.0 if seen is None else seen.ratio


class _Seen:
    __slots__ = ("mean", "outputs", "ratio")

    def __init__(self, output: int, window: int) -> None:
        self.mean = float(output)
        self.outputs: deque[int] = deque(maxlen=window)
        self.ratio = 1.0
