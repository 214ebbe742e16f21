"""The way out of a chain: canaries are looked for in the answer, whole or in pieces; and a fence around found text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

try:
    from langchain_core.documents import Document
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable
    from langchain_core.runnables.config import RunnableConfig
except ImportError as error:
    from tenant_middleware.errors import missing_extra

    raise missing_extra("langchain", __name__) from error

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import ConfigurationError, InvalidInput
from tenant_middleware.guardrails import AnswerGuard, CanaryGuard, Found, fence
from tenant_middleware.langchain.pinned import PinnedRunnable
from tenant_middleware.langchain.refusals import passing


class _Scanning(Runnable[Any, Any]):
    def __init__(self, canaries: CanaryGuard | None = None, *, answers: AnswerGuard | None = None) -> None:
        if canaries is None and answers is None:
            raise ConfigurationError("GuardOutput: expected canaries, answers or both; with neither it guards nothing")
        self.canaries = canaries
        self.answers = answers

    @passing
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._call_with_config(self._strip, input, config, **kwargs)

    def _strip(self, answer: Any) -> Any:
        tenant, text = current_tenant(), _text(answer)
        if self.canaries is not None:
            text = self.canaries.strip(text, tenant)
        if self.answers is not None:
            self.answers.check(text, tenant)
        return _with_text(answer, text)

    @passing
    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        yield self.invoke(input, config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        yield await self.ainvoke(input, config, **kwargs)

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        guarded = _Passing(self.canaries, self.answers)
        for chunk in input:
            yield from guarded.push(chunk)
        yield from guarded.close()

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        guarded = _Passing(self.canaries, self.answers)
        async for chunk in input:
            for safe in guarded.push(chunk):
                yield safe
        for safe in guarded.close():
            yield safe


class GuardOutput(PinnedRunnable, _Scanning):
    """Put it after the model: another tenant's canary stops the answer with IsolationBreach, one's own are taken out.

    With canaries the text of a stream comes a window later than the model gives it; message chunks keep their ids and
    usage. `answers` flags other tenants' ids and the system prompt in the whole answer, and holds nothing back.
    """


class Fence(Runnable[Any, str]):
    """Turns retrieved documents into one text that says where each came from and that it isn't an instruction.

    `provenance` names the metadata that is shown. It lowers the odds that a model obeys a document; it is no boundary.
    """

    def __init__(self, provenance: Iterable[str] = ("source", "id")) -> None:
        self.provenance = tuple(provenance)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        return self._call_with_config(self._fenced, input, config, **kwargs)

    def _fenced(self, found: Any) -> str:
        documents = [found] if isinstance(found, Document | str) else list(found)
        return fence(self._piece(document) for document in documents)

    def _piece(self, document: Any) -> Found:
        if isinstance(document, str):
            return Found(document)
        if not isinstance(document, Document):
            raise InvalidInput(f"Fence: expected documents or texts, got {type(document).__name__}")
        about = {"id": document.id} | document.metadata
        shown = tuple((name, str(about[name])) for name in self.provenance if about.get(name) is not None)
        return Found(document.page_content, shown)


class _Passing:
    """One streamed answer on its way through the guards."""

    def __init__(self, canaries: CanaryGuard | None, answers: AnswerGuard | None) -> None:
        self._tenant = current_tenant()
        self._stream = canaries.stream(self._tenant) if canaries is not None else None
        self._answers = answers
        self._shown: list[str] = []
        self._last: Any = None

    def push(self, chunk: Any) -> Iterator[Any]:
        """The chunk with the text that may be shown now; a chunk of text alone is left out while there is none."""
        self._last = chunk
        text = _text(chunk)
        safe = text if self._stream is None else self._stream.push(text)
        self._shown.append(safe)
        if safe or not isinstance(chunk, str):
            yield _with_text(chunk, safe)

    def close(self) -> Iterator[Any]:
        rest = "" if self._stream is None else self._stream.close()
        if self._answers is not None:
            self._answers.check("".join(self._shown) + rest, self._tenant)
        if rest:
            yield rest if isinstance(self._last, str) else type(self._last)(content=rest, id=self._last.id)


def _text(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    if isinstance(answer, BaseMessage):
        return answer.text
    raise InvalidInput(f"GuardOutput: expected text or a message, got {type(answer).__name__}; put it after the model")


def _with_text(answer: Any, text: str) -> Any:
    if isinstance(answer, str):
        return text
    return answer if text == answer.text else answer.model_copy(update={"content": text})
